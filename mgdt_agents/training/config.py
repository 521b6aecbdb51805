"""How to train, and the learning rate's course."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mgdt_agents.config_checks import check_choices, check_interval
from mgdt_agents.training.augmentation import Augmentation
from mgdt_envs.errors import InvalidArgument

FREE_FIELDS = (
    "replay",
    "workers",
    "log_interval",
    "checkpoint_interval",
    "keep_checkpoints",
    "heldout_interval",
    "play_interval",
    "play_episodes",
    "fsdp",
)
"""A run may resume with other values of these: they change the weights by rounding at most. Replay
may have moved; what is in it is compared by its checksums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How to train; the defaults are Lee et al. 2022's, section 4.1, except for the batch."""

    steps: int
    """Gradient steps."""
    replay: tuple[Path, ...] = ()
    """Folders of replay stores; replay/Pong:medium takes a split of one alone (random, medium,
    expert, mixed)."""
    weights: tuple[str, ...] = ("uniform",)
    """How often each game is drawn: uniform, size (in proportion to its steps), or a weight for
    each game, such as Pong=2,Breakout=1."""
    mix_protocols: bool = False
    """Train on stores that were recorded under other protocols than the agent's."""
    batch_size: int = 256
    """Windows of a gradient step, over all processes (the paper: 2048)."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, one after the other: the same
    step in less memory."""
    top_fraction: float = 1.0
    """Train on this share of each store's episodes, those of highest return."""
    return_weighting: float = 0.0
    """w of exp(w * rank), how often a step is drawn: at 4, the tenth of a game's steps that was
    played best makes a third of the windows, held-out ones too. 0 draws all steps alike."""
    optimizer: Literal["lamb", "adamw"] = "lamb"
    """The paper's LAMB, or AdamW."""
    learning_rate: float = 3e-4
    """After the warm-up."""
    warmup_steps: int = 4000
    """Gradient steps over which the learning rate rises from zero."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """Keep the learning rate, or let it fall to zero at the last step."""
    weight_decay: float = 0.0
    """Of the optimizer, for matrices; norms and biases are spared."""
    max_gradient_norm: float = 1.0
    """Larger gradients are scaled to this norm; 0 leaves them as they are."""
    average_decay: float = 0.0
    """Keep a moving average of the weights, of which a step leaves this share, such as 0.999. The
    average is what is saved and played; 0 keeps none."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How windows are displaced at random (Lee et al. 2022, section 4.1); by default not at all."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the forward and backward pass; weights are fp32. "auto" is bf16 on a GPU, and fp32 on a
    CPU, so that all CPUs train alike. With AVX512-BF16, bf16 is 1.5 to 3 times as fast; without
    it or AMX, it is slower."""
    seed: int = 0
    """Of the windows drawn and of dropout; with `mgdt-train`, of the first weights too."""
    workers: int | None = None
    """Processes that decode windows ahead; by default two for a GPU, and none on a CPU, where
    decoding takes a fiftieth of a gradient step."""
    log_interval: int = 100
    """Gradient steps between two lines of the log."""
    checkpoint_interval: int = 5000
    """Gradient steps between two checkpoints."""
    keep_checkpoints: int = 1
    """Checkpoints to keep, the newest."""
    heldout_fraction: float = 0.0
    """Share of each store's episodes to measure the loss on instead of learning from them. The
    agent of the lowest such loss is kept in the folder `best`."""
    heldout_interval: int = 1000
    """Gradient steps between two such measurements."""
    heldout_windows: int = 1024
    """Windows of each game in such a measurement, always the same."""
    play_interval: int = 0
    """Gradient steps between two evaluations by playing the games; 0 never plays."""
    play_episodes: int = 4
    """Whole episodes of each game in such an evaluation."""
    compile: bool = False
    """Compile the network: some minutes at first, and faster steps on a GPU."""
    fsdp: bool = False
    """Share out weights and optimizer state among processes (FSDP2), for networks that one device
    cannot hold, instead of copying them to each."""

    def __post_init__(self) -> None:
        # The class is frozen.
        replay = (self.replay,) if isinstance(self.replay, str | Path) else self.replay
        object.__setattr__(self, "replay", tuple(map(Path, replay)))
        if isinstance(self.weights, Mapping):
            weights = tuple(f"{game}={weight}" for game, weight in self.weights.items())
            object.__setattr__(self, "weights", weights)
        elif isinstance(self.weights, str):
            object.__setattr__(self, "weights", (self.weights,))
        counts = ("steps", "batch_size", "accumulate", "heldout_windows", "play_episodes")
        intervals = ("log_interval", "checkpoint_interval", "keep_checkpoints", "heldout_interval")
        rates = ("learning_rate", "weight_decay", "max_gradient_norm")
        check_choices(self)
        check_interval(self, "[1, inf)", *counts, *intervals)
        check_interval(self, "[0, inf)", "play_interval", "warmup_steps", "seed", "workers", *rates)
        check_interval(self, "[0, 100]", "return_weighting")
        check_interval(self, "[0, 1)", "average_decay", "heldout_fraction")
        _ = self.game_weights

    @property
    def game_weights(self) -> Literal["uniform", "size"] | dict[str, float]:
        """How often each game is drawn, as `WindowSampler` takes it.

        Raises:
            ValueError: for anything but a word or a weight for each game.
        """
        if self.weights == ("uniform",):
            return "uniform"
        if self.weights == ("size",):
            return "size"
        try:
            pairs = [text.split("=") for text in self.weights]
            return {game: float(weight) for game, weight in pairs}
        except ValueError:
            raise InvalidArgument(
                "weights must be uniform, size, or a weight for each game such as "
                f"Pong=2,Breakout=1, got {','.join(self.weights)!r}"
            ) from None

    def is_due(self, interval: int, done: int) -> bool:
        """Return whether what is done every `interval` steps, and at the end, is after `done`."""
        return done == self.steps or done % interval == 0

    def is_play_due(self, done: int) -> bool:
        """Return whether the games are played after `done` steps."""
        return self.play_interval > 0 and done > 0 and done % self.play_interval == 0

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of gradient step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        done = step / self.steps
        left = {"none": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.learning_rate * warm * left[self.decay]


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuningConfig(TrainingConfig):
    """How to learn a game that was held out; the defaults are those of Lee et al. 2022, 4.5."""

    steps: int = 100_000
    """Gradient steps."""
    learning_rate: float = 1e-4
    """After the warm-up."""
    weight_decay: float = 1e-2
    """Of the optimizer, for matrices; norms and biases are spared."""
    heldout_fraction: float = 0.99
    """Share of each store's episodes that is not learned from: one per cent is."""
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(shift=4, rotation=3.0))
    """How windows are displaced at random (Lee et al. 2022, appendix B.5; the angle is ours)."""

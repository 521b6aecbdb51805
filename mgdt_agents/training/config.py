"""How to train, and the learning rate's course."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mgdt_agents.training.augmentation import Augmentation
from mgdt_envs.errors import InvalidArgument

FREE_FIELDS = ("replay", "workers", "log_interval", "checkpoint_interval")
"""A run may resume with other values of these: they change no result. Replay may have moved; what
is in it is compared by its checksums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How to train; the defaults are those of Lee et al. 2022, section 4.1, but for the batch."""

    steps: int
    """Gradient steps."""
    replay: tuple[Path, ...] = ()
    """Folders of replay stores; each game is drawn equally often."""
    mix_protocols: bool = False
    """Train on stores that were recorded under other protocols than the agent's."""
    batch_size: int = 256
    """Windows of a gradient step (the paper: 2048)."""
    top_fraction: float = 1.0
    """Train on this share of each store's episodes, those of highest return."""
    optimizer: Literal["lamb", "adamw"] = "lamb"
    """The paper's LAMB, or AdamW."""
    learning_rate: float = 3e-4
    """After the warm-up."""
    warmup_steps: int = 4000
    """Gradient steps over which the learning rate rises from zero."""
    decay: Literal["none", "linear"] = "none"
    """Keep the learning rate, or let it fall to zero at the last step."""
    weight_decay: float = 0.0
    """Of the optimizer."""
    max_gradient_norm: float = 1.0
    """Larger gradients are scaled to this norm."""
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

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: naming the one that cannot be.
        """
        replay = (self.replay,) if isinstance(self.replay, str | Path) else self.replay
        object.__setattr__(self, "replay", tuple(map(Path, replay)))  # the class is frozen
        for name in ("steps", "batch_size", "log_interval", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {getattr(self, name)}")
        choices = {
            "optimizer": ("lamb", "adamw"),
            "decay": ("none", "linear"),
            "precision": ("auto", "bf16", "fp32"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidArgument(
                    f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) >= 0:
                raise InvalidArgument(f"{name} must not be negative, got {getattr(self, name)}")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of gradient step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = 1 - step / self.steps if self.decay == "linear" else 1.0
        return self.learning_rate * warm * left

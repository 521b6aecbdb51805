"""Sizes of the planner's networks, and how they learn."""

from dataclasses import dataclass
from typing import Literal

from mgdt_agents.config_checks import check_actions, check_choices, check_interval
from mgdt_agents.decision_transformer.config import HEAD_SIZE
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryTransformerConfig:
    """A `WorldModel` with its `Tokenizer`, and how both learn."""

    layers: int = 6
    """Transformer blocks."""
    width: int = 512
    """Size of a token; a multiple of 64, each head takes 64 of it."""
    context: int = 4
    """Real steps that a decision sees, the newest of the observation."""
    horizon: int = 2
    """Steps after them that the model learns to imagine: no search looks further."""
    frame_size: int = 84
    """Height and width of a frame in pixels."""
    grid: int = 6
    """A frame becomes this many tokens down and across."""
    cells: int = 2
    """A token covers this many cells down and across; each cell is encoded for itself."""
    channels: int = 256
    """Features of a cell in the tokenizer."""
    code_size: int = 3
    """Numbers that a cell is rounded to (finite scalar quantization, Mentzer et al. 2024)."""
    levels: int = 5
    """Values that each of these numbers can have."""
    changed_weight: float = 1.0
    """Of the error of the pixels that differ from the frame before, beside that of all pixels.
    Without it, small things such as a ball vanish."""
    tokenizer_steps: int = 20_000
    """Gradient steps in which the tokenizer alone learns. Then it is frozen and the rest learns."""
    actions: int = 18
    """Number of actions."""
    rewards: int = 4
    """Number of reward tokens; see `mgdt_agents.decision_transformer.tokens`."""
    atoms: int = 51
    """Points of the distributions of values."""
    max_value: float = 10.0
    """Their support is -max_value..max_value."""
    value_loss: Literal["hl_gauss", "c51"] = "hl_gauss"
    """What values' targets are; see `dtq`."""
    value_discount: float = 0.99
    """Of values and of imagined rewards, for each agent step."""
    n_steps: int = 4
    """Agent steps before the target network's value."""
    likely: float = 0.1
    """Targets look at the actions whose likelihood, by the policy head, is at least this share of
    the likeliest one's."""
    conservative_weight: float = 0.0
    """Of the conservative term."""
    target_period: int = 256
    """Gradient steps between copies to the target network."""
    frame_weight: float = 1.0
    """Of the next frame's cross-entropy, a sum over a token's numbers and a mean over tokens."""
    reward_weight: float = 1.0
    """Of the reward's."""
    end_weight: float = 1.0
    """Of the end's."""
    action_weight: float = 1.0
    """Of the policy's."""
    value_weight: float = 1.0
    """Of the value's."""
    dropout: float = 0.0
    """On the outputs of attention and of the MLP."""

    def __post_init__(self) -> None:
        sizes = ("layers", "context", "frame_size", "grid", "cells", "channels", "code_size")
        weights = (
            *("changed_weight", "frame_weight", "reward_weight", "end_weight", "action_weight"),
            *("value_weight", "conservative_weight"),
        )
        check_choices(self)
        check_actions(self)
        check_interval(self, "[4, inf)", "rewards")
        check_interval(self, "[1, inf)", *sizes, "n_steps", "target_period")
        check_interval(self, "[2, inf)", "levels", "atoms")
        check_interval(self, "[0, inf)", "horizon", "tokenizer_steps", *weights)
        check_interval(self, "(0, inf)", "max_value")
        check_interval(self, "(0, 1]", "value_discount")
        check_interval(self, "[0, 1]", "likely")
        check_interval(self, "[0, 1)", "dropout")
        if self.width < HEAD_SIZE or self.width % HEAD_SIZE:
            raise InvalidArgument(f"width must be a multiple of {HEAD_SIZE}, got {self.width}")
        if self.frame_size % (self.grid * self.cells):
            raise InvalidArgument(
                "frame_size must be a multiple of grid times cells, got "
                f"{self.frame_size}, {self.grid} and {self.cells}"
            )

    @property
    def frame_tokens(self) -> int:
        """Tokens a frame becomes."""
        return self.grid**2

    @property
    def token_numbers(self) -> int:
        """Numbers of a frame's token, those of all its cells."""
        return self.cells**2 * self.code_size

    @property
    def steps(self) -> int:
        """Steps of a sequence: the context's and the imagined ones."""
        return self.context + self.horizon

    @property
    def step_tokens(self) -> int:
        """Tokens of a step: the frame's, the action, the reward."""
        return self.frame_tokens + 2


PRESETS = {
    "base": TrajectoryTransformerConfig(),
    # For two cores.
    "small": TrajectoryTransformerConfig(
        layers=3,
        width=192,
        context=2,
        grid=4,
        cells=3,
        channels=64,
        tokenizer_steps=9000,
        target_period=128,
    ),
    # For tests.
    "tiny": TrajectoryTransformerConfig(
        layers=1,
        width=64,
        context=2,
        grid=2,
        cells=2,
        channels=8,
        code_size=2,
        tokenizer_steps=2,
    ),
}
"""The sizes, by name."""

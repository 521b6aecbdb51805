"""Sizes of the model, and the published ones by name."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from mgdt_agents.config_checks import check_actions, check_choices, check_interval
from mgdt_envs.errors import InvalidArgument

HEAD_SIZE = 64  # Lee et al. 2022, released notebook: key_size=64 at every width.
FIELDS_OF_RETURNS = (
    *("return_definition", "discount", "min_return", "max_return", "return_bin", "rank_bins"),
    "return_weight",
)
"""Of the config, those that an agent without return tokens does not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionTransformerConfig:
    """What a `DecisionTransformer` is made of; the default is the published tokenizer."""

    layers: int = 4
    """Transformer blocks."""
    width: int = 512
    """Size of a token; a multiple of 64, each head takes 64 of it."""
    steps: int = 4
    """Agent steps in a window, one frame each."""
    frame_size: int = 84
    """Height and width of a frame in pixels."""
    stem: Literal["patch", "conv"] = "patch"
    """How a frame becomes tokens: linear patches as published, or a convolutional network that
    gives one token a frame and sees the frames before it in the window too."""
    patch_size: int = 14
    """Height and width of a patch in pixels (stem "patch")."""
    stem_channels: tuple[int, int, int] = (32, 64, 64)
    """Channels of the three convolutions (stem "conv"); the default is Nature DQN's."""
    return_tokens: Literal["single", "every", "none"] = "single"
    """A return token at the window's first step alone, as released; at every step; or none,
    which makes the model a behavioral cloner."""
    return_definition: Literal["to_go", "episode_rank", "rank_and_to_go"] = "to_go"
    """What a return token says: the rewards from its step to the episode's end, as published; or
    the rank of the episode's return among those of its game, as the share of the game's steps in
    episodes of lower return, the same at every step, which means the same in all games; or both,
    a bin for each pair, ordered by rank first."""
    discount: float = 1.0
    """Of returns to go, for each agent step; 1 as published."""
    min_return: float = -20
    """Smallest return to go."""
    max_return: float = 100
    """Largest return to go; the release has no bin for 100, so 99 gives its 120. Returns outside
    are taken for the nearest."""
    return_bin: float = 1
    """Width of a bin of returns to go; 1 as published. It divides the range of returns."""
    rank_bins: int = 20
    """Number of bins of episode ranks."""
    return_at_action: bool = False
    """Add an embedding of the return to what the action is read from, outside of attention, which
    looks at return tokens little (RADT, Tanaka et al. 2024)."""
    actions: int = 18
    """Number of actions."""
    action_tokens: bool = True
    """Whether the model reads the actions that were taken before, as published. What reads them may
    learn to repeat them (Wen et al. 2020, the copycat problem); docs/three_games.md has the cost.
    """
    rewards: int = 4
    """Number of reward tokens; see `mgdt_agents.decision_transformer.tokens`."""
    reward_tokens: bool = True
    """Whether the model reads the rewards that came, and predicts the next, as published."""
    loss_weights: Literal["equal", "vocabulary"] = "equal"
    """Weigh the cross-entropies of return, action and reward alike, which gave the better agent
    (docs/agents.md), or divide each by the size of its vocabulary, as the release's code does:
    actions then count 7 times as much as returns."""
    return_weight: float = 1.0
    """Of the return's cross-entropy, on top of `loss_weights`."""
    action_weight: float = 1.0
    """Of the action's."""
    reward_weight: float = 1.0
    """Of the reward's."""
    dropout: float = 0.1
    """On the outputs of attention and of the MLP."""

    def __post_init__(self) -> None:
        if self.width < HEAD_SIZE or self.width % HEAD_SIZE:
            raise InvalidArgument(f"width must be a multiple of {HEAD_SIZE}, got {self.width}")
        check_choices(self)
        check_interval(self, "[1, inf)", "layers", "steps", "frame_size", "stem_channels")
        check_actions(self)
        check_interval(self, "[4, inf)", "rewards")
        check_interval(self, "[2, inf)", "rank_bins")
        check_interval(self, "(0, inf)", "return_bin")
        check_interval(self, "(-inf, inf)", "min_return", "max_return")
        check_interval(self, "[0, inf)", "return_weight", "action_weight", "reward_weight")
        check_interval(self, "[0, 1)", "dropout")
        check_interval(self, "(0, 1]", "discount")
        if self.stem == "patch" and (self.patch_size < 1 or self.frame_size % self.patch_size):
            raise InvalidArgument(
                f"frame_size must be a multiple of patch_size, got {self.frame_size} "
                f"and {self.patch_size}"
            )
        if self.stem == "conv" and (self.frame_size < 36 or self.frame_size % 4):
            raise InvalidArgument(
                "frame_size must be a multiple of 4, at least 36, for stem 'conv', got "
                f"{self.frame_size}"
            )
        if len(self.stem_channels) != 3:
            raise InvalidArgument(f"stem_channels must be three numbers, got {self.stem_channels}")
        if self.max_return <= self.min_return:
            raise InvalidArgument(
                f"max_return must be above min_return, got {self.max_return} and {self.min_return}"
            )
        bins = (self.max_return - self.min_return) / self.return_bin
        if round(bins) < 1 or not math.isclose(bins, round(bins), rel_tol=1e-6):
            raise InvalidArgument(
                "max_return - min_return must be a whole number of times return_bin, got "
                f"{self.max_return - self.min_return:g} and {self.return_bin:g}"
            )
        if self.return_at_action and self.return_tokens == "none":
            raise InvalidArgument("return_at_action needs return tokens, got return_tokens='none'")

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // HEAD_SIZE

    @property
    def observation_tokens(self) -> int:
        """Tokens a frame becomes."""
        return (self.frame_size // self.patch_size) ** 2 if self.stem == "patch" else 1

    @property
    def step_tokens(self) -> int:
        """Tokens of a step: the observation's, and those of return, action and reward if any."""
        return self.action_place + 1 + self.action_tokens + self.reward_tokens

    @property
    def action_place(self) -> int:
        """Which of a step's tokens the action is read at: the return's, or the frame's last."""
        return self.observation_tokens - 1 + (self.return_tokens != "none")

    @property
    def read_places(self) -> range:
        """Places in a step that logits are read at: those of the return, the action, the reward."""
        reward_alone = self.action_tokens and self.reward_tokens
        return range(self.observation_tokens - 1, self.action_place + 1 + reward_alone)

    @property
    def returns(self) -> int:
        """Number of return bins."""
        return (self.rank_bins if self.ranks else 1) * (self.to_go_bins if self.to_go else 1)

    @property
    def ranks(self) -> bool:
        """Whether a return token says the episode's rank."""
        return self.return_definition != "to_go"

    @property
    def to_go(self) -> bool:
        """Whether a return token says the return to go."""
        return self.return_definition != "episode_rank"

    @property
    def to_go_bins(self) -> int:
        """Number of bins of returns to go."""
        return round((self.max_return - self.min_return) / self.return_bin) + 1

    @property
    def return_range(self) -> tuple[float, float]:
        """What the first and the last bin stand for: ranks where tokens say them, or returns."""
        return (0.0, 1.0) if self.ranks else (self.min_return, self.max_return)


PRESETS = {
    # Lee et al. 2022: DT-10M, DT-40M, DT-200M.
    "10m": DecisionTransformerConfig(layers=4, width=512),
    "40m": DecisionTransformerConfig(layers=6, width=768),
    "200m": DecisionTransformerConfig(layers=10, width=1280),
    # The paper's tokenizer at a size that a laptop trains.
    "2m": DecisionTransformerConfig(layers=3, width=256, dropout=0.0),
    # One token a frame, for two cores; the bundled agents are of this size.
    "small": DecisionTransformerConfig(
        layers=2,
        width=192,
        stem="conv",
        stem_channels=(16, 32, 32),
        return_tokens="every",
        return_definition="episode_rank",  # docs/three_games.md has what decided this and the next
        action_tokens=False,
        dropout=0.0,
    ),
    # For tests.
    "tiny": DecisionTransformerConfig(layers=1, width=64, stem="conv", stem_channels=(8, 8, 8)),
}
"""The sizes, by name."""


def without_returns(config: DecisionTransformerConfig) -> DecisionTransformerConfig:
    """Return the config for agents that read no return."""
    return dataclasses.replace(config, return_tokens="none", return_definition="to_go")

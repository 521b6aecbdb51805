"""Conservative Q-learning on a categorical return distribution (Kumar et al. 2020, Bellemare 2017).

The multi-game baseline of Lee et al. 2022, section 4.2: C51's loss plus behavioral cloning of the
softmax of the action values, on an Impala ResNet (Espeholt et al. 2018). The options `pooling`,
`normalize_features` and `heads` are those of Scaled Q-learning (Kumar et al. 2023).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.action_sets import actions_of_batch, allowed_in_rows
from mgdt_agents.agent import NetworkAgent
from mgdt_agents.config_checks import check_interval
from mgdt_agents.q_learning import losses
from mgdt_agents.q_learning.networks import ImpalaConfig, ImpalaNetwork
from mgdt_agents.random_streams import explored, sample
from mgdt_agents.replay.sampler import WindowBatch, WindowSampler
from mgdt_agents.step_inputs import State, StepInputs
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol


@dataclass(frozen=True, kw_only=True, slots=True)
class CQLConfig(ImpalaConfig):
    """The network and the loss."""

    heads: Literal["shared", "per-game"] = "shared"
    """One head over 18 actions for all games, or one a game (Scaled Q-learning), which must then
    be told at play."""
    loss: Literal["c51", "hl_gauss"] = "c51"
    """C51's projection of the target's distribution, or a normal distribution around its mean
    (Farebrother et al. 2024)."""
    atoms: int = 51
    """Points of the return distribution."""
    max_value: float = 10.0
    """The distribution's support is -max_value..max_value (Bellemare et al. 2017)."""
    discount: float = 0.99
    """Per agent step."""
    n_steps: int = 4
    """Agent steps before the target network's value (Lee et al. 2022, C51)."""
    double_q: bool = True
    """The network chooses the action whose value is the target network's (double Q-learning)."""
    mask_actions: bool = True
    """Leave the actions that a game does not have out of targets, losses and play."""
    conservative_weight: float = 1.0
    """Of the behavioral-cloning term (Lee et al. 2022: 1 on the full data, 4 on one per cent)."""
    target_period: int = 256
    """Gradient steps between copies to the target network (Lee et al. 2022, C51)."""
    exploration: float = 0.001
    """Share of uniformly random actions when acting (Dopamine's evaluation)."""

    def __post_init__(self) -> None:
        ImpalaConfig.__post_init__(self)
        check_interval(self, "[1, inf)", "n_steps", "target_period")
        check_interval(self, "(0, 1]", "discount")
        check_interval(self, "[2, inf)", "atoms")
        check_interval(self, "(0, inf)", "max_value")
        check_interval(self, "[0, inf)", "conservative_weight")
        check_interval(self, "[0, 1]", "exploration")


class CQLAgent(NetworkAgent):
    """Acts greedily on the action values learned by conservative Q-learning.

    Args:
        config: the sizes, or the name of a preset.
        games, protocol, device: see `NetworkAgent`. With a head a game, the games of the heads;
            none leaves them to the first training.
    """

    model: ImpalaNetwork
    target: ImpalaNetwork
    kind = "cql"
    memory = ()
    config_class = CQLConfig
    presets: ClassVar[dict[str, Any]] = {
        # Lee et al. 2022, section 4.2: (blocks, channels) of the scaled networks.
        "5m": CQLConfig(),
        "30m": CQLConfig(blocks=10, stages=(256, 256, 256)),
        "60m": CQLConfig(blocks=5, stages=(512, 512, 512)),
        "120m": CQLConfig(blocks=10, stages=(512, 512, 512)),
        # For two cores; the bundled agent is of this size.
        "small": CQLConfig(
            blocks=1,
            stages=(16, 32, 32),
            stem_stride=2,
            layer_norm=True,
            changes=True,
            hidden=256,
            # With the paper's 1, data of good and bad play make it repeat their most frequent
            # action (docs/agents.md).
            conservative_weight=0.1,
        ),
        # For tests.
        "tiny": CQLConfig(blocks=1, stages=(4, 4), stem_stride=4, hidden=16, target_period=2),
    }

    def __init__(
        self,
        config: CQLConfig | str = "5m",
        *,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(config, games=games, protocol=protocol, device=device)
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        self.replay_games = self.games

    def _make_model(self) -> ImpalaNetwork:
        config = self.config
        heads = len(self.games) if config.heads == "per-game" else 1
        return ImpalaNetwork(config, config.atoms, max(1, heads))

    @property
    def has_parts_of_games(self) -> bool:
        """Whether there is a head a game."""
        return self.config.heads == "per-game"

    @property
    def windows(self) -> dict[str, Any]:
        """Windows down to the frame whose value is looked up."""
        return super().windows | {"future": self.config.n_steps}

    def begin_training(self, sampler: WindowSampler) -> None:
        """Take the replay's games; the heads of a head a game are made if there are none.

        Raises:
            ValueError: if there is a head for each game, and none for one of the replay's.
        """
        self.replay_games = sampler.games
        if self.config.heads == "shared":
            self.games = sampler.games
        elif not self.games:
            self.games = sampler.games
            self.model = self._make_model().to(self.device)
            self.target = copy.deepcopy(self.model).requires_grad_(False)
        else:
            self._heads(sampler.games)

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the distributional loss plus the conservative term, for the windows' drawn steps.

        The windows hold `frame_stack` rows up to the drawn step and `n_steps` after it. Steps
        followed by a time limit have no frame to go on from and do not count in the distributional
        loss.
        """
        config = self.config
        now = config.frame_stack - 1
        ahead = slice(now, now + config.n_steps)
        frames = self._to_device(batch.frames)
        actions, allowed, heads = self._of_batch(batch, now)
        logits = self.model(frames[:, : config.frame_stack], heads)
        values = losses.expected_values(logits, config.max_value)
        returns, discounts, known = losses.n_step_returns(
            self._to_device(batch.rewards[:, ahead]),
            self._to_device(batch.terminated[:, ahead]),
            self._to_device(batch.valid[:, -1]),
            config.discount,
        )
        later = frames[:, -config.frame_stack :]
        target = self._target_distribution(later, allowed, heads, returns, discounts)
        chosen = losses.of_actions(logits, actions)
        distributional = (F.cross_entropy(chosen, target, reduction="none") * known).mean()
        conservative = losses.conservative_loss(values, actions, allowed).mean()
        return distributional + config.conservative_weight * conservative, {
            f"{config.loss}_loss": distributional,
            "conservative_loss": conservative,
            "value": ((values * allowed).sum(1) / allowed.sum(1)).mean(),
            "accuracy": (losses.best_actions(values, allowed) == actions).float().mean(),
        }

    @torch.no_grad()
    def _target_distribution(
        self,
        frames: Tensor,
        allowed: Tensor,
        heads: Tensor | None,
        returns: Tensor,
        discounts: Tensor,
    ) -> Tensor:
        """Return `(B, atoms)`, what the chosen action's distribution shall be."""
        pixels = self.target.pixels(frames)
        target_logits = self.target(pixels, heads)
        choosing = self.model(pixels, heads) if self.config.double_q else target_logits
        max_value = self.config.max_value
        best = losses.best_actions(losses.expected_values(choosing, max_value), allowed)
        logits = losses.of_actions(target_logits, best)
        return losses.value_target(self.config.loss, logits, returns, discounts, max_value)

    def _of_batch(self, batch: WindowBatch, now: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the rows' actions `(B,)`, their games' actions `(B, A)`, and their heads."""
        games = self.replay_games if self.config.mask_actions else ()
        actions, allowed = actions_of_batch(batch, games, self.protocol)
        heads = self._heads(self.replay_games)
        return (
            self._to_device(actions[:, now]),
            self._to_device(allowed),
            None if heads is None else self._to_device(heads[batch.games]),
        )

    def _heads(self, games: Sequence[str] | None) -> np.ndarray | None:
        """Return `(games,)` int64, the number of each game's head; None if all have the same.

        Raises:
            ValueError: if the games are not known, or have no head.
        """
        if self.config.heads == "shared":
            return None
        if not games or not set(games) <= set(self.games):
            raise InvalidArgument(
                f"This {self.kind} agent has a head for each of {list(self.games)}, and was asked "
                f"about {'a game without its name' if not games else sorted(set(games))}. Pass "
                "one of its games to predict(game=...), or take an agent with heads='shared'."
            )
        return np.array([self.games.index(name) for name in games])

    @torch.no_grad()
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        heads = self._heads(inputs.games)
        logits = self.model(
            self._to_device(inputs.observations),
            None if heads is None else self._to_device(heads),
        )
        values = losses.expected_values(logits, self.config.max_value)
        rows = len(inputs.observations)
        allowed = np.ones((rows, self.config.actions), bool)
        if self.config.mask_actions:
            allowed = allowed_in_rows(inputs.games, rows, self.games, self.protocol)
        values = values.cpu().masked_fill(~torch.from_numpy(allowed), -torch.inf)
        actions = sample(values, None).numpy()
        if not inputs.deterministic:
            actions = explored(actions, allowed, self.config.exploration, inputs.draws)
        return actions, None

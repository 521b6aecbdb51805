"""Conservative Q-learning on a categorical return distribution (Kumar et al. 2020, Bellemare 2017).

The multi-game baseline of Lee et al. 2022, section 4.2: C51's loss plus behavioral cloning of the
softmax of the action values, on an Impala ResNet (Espeholt et al. 2018).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.agent import NetworkAgent, State
from mgdt_agents.frames import frame_changes
from mgdt_agents.replay.sampler import WindowBatch
from mgdt_envs import AtariProtocol


@dataclass(frozen=True, kw_only=True, slots=True)
class CQLConfig:
    """The network and the loss; the default is the paper's smallest, of about 5M parameters."""

    stages: tuple[int, ...] = (128, 128, 128)
    """Channels of the stages; each halves the picture."""
    blocks: int = 5
    """Residual blocks of a stage."""
    stem_stride: int = 1
    """Stride of the first convolution; 1 in Espeholt et al. 2018."""
    layer_norm: bool = False
    """Normalise after the first convolution of each stage."""
    changes: bool = False
    """See the newest frame and the changes between frames, instead of the frames."""
    hidden: int = 512
    """Units of the layer between the pictures and the values."""
    atoms: int = 51
    """Points of the return distribution."""
    max_value: float = 10.0
    """The distribution's support is -max_value..max_value (Bellemare et al. 2017)."""
    discount: float = 0.99
    """Per agent step."""
    n_steps: int = 4
    """Agent steps before the target network's value (Lee et al. 2022, C51)."""
    conservative_weight: float = 1.0
    """Of the behavioral-cloning term (Lee et al. 2022: 1 on the full data, 4 on one per cent)."""
    target_period: int = 256
    """Gradient steps between copies to the target network (Lee et al. 2022, C51)."""
    exploration: float = 0.001
    """Share of uniformly random actions when acting (Dopamine's evaluation)."""
    frame_stack: int = 4
    """Frames that the network sees."""
    frame_size: int = 84
    """Height and width of a frame in pixels."""
    actions: int = 18
    """Number of actions."""


class ResidualBlock(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        """Make a block of `channels`."""
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` changed by the convolutions, the same shape."""
        return x + self.convolutions(x)


class ImpalaC51(nn.Module):
    """An Impala ResNet whose output is a return distribution for each action."""

    def __init__(self, config: CQLConfig) -> None:
        """Make the network that `config` describes, randomly initialised."""
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels, side = config.frame_stack, config.frame_size
        for number, width in enumerate(config.stages):
            stride = config.stem_stride if number == 0 else 1
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1),
                nn.GroupNorm(1, width) if config.layer_norm else nn.Identity(),
                nn.MaxPool2d(3, 2, padding=1),
                *(ResidualBlock(width) for _ in range(config.blocks)),
            ]
            channels, side = width, math.ceil(math.ceil(side / stride) / 2)
        self.trunk = nn.Sequential(*layers, nn.ReLU())
        self.hidden = nn.Linear(channels * side * side, config.hidden)
        self.output = nn.Linear(config.hidden, config.actions * config.atoms)
        self.support: Tensor
        support = torch.linspace(-config.max_value, config.max_value, config.atoms)
        self.register_buffer("support", support, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Return `(B, actions, atoms)` logits of uint8 frames `(B, frame_stack, height, width)`."""
        pixels = frames.to(self.output.weight.dtype) / 255
        if self.config.changes:
            pixels = torch.cat([pixels[:, -1:], frame_changes(pixels)], dim=1)
        features = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        logits = self.output(F.relu(self.hidden(features.flatten(1))))
        return logits.unflatten(-1, (self.config.actions, self.config.atoms)).float()

    def values(self, logits: Tensor) -> Tensor:
        """Return `(B, actions)` expected returns of the distributions' logits."""
        return logits.softmax(-1) @ self.support


class CQLAgent(NetworkAgent):
    """Acts greedily on the action values learned by conservative Q-learning.

    Args:
        config: the sizes, or the name of a preset.
        games, protocol, device: see `NetworkAgent`.
    """

    model: ImpalaC51
    kind = "cql"
    config_class = CQLConfig
    presets: ClassVar[dict[str, Any]] = {
        # Lee et al. 2022, section 4.2: (blocks, channels) of the scaled networks.
        "5m": CQLConfig(),
        "30m": CQLConfig(blocks=10, stages=(256, 256, 256)),
        "60m": CQLConfig(blocks=5, stages=(512, 512, 512)),
        "120m": CQLConfig(blocks=10, stages=(512, 512, 512)),
        # For two cores; the bundled agent is of this size.
        "small": CQLConfig(
            blocks=1, stages=(16, 32, 32), stem_stride=2, layer_norm=True, changes=True, hidden=256
        ),
        # For tests.
        "tiny": CQLConfig(blocks=1, stages=(4, 4), stem_stride=4, hidden=16, target_period=2),
    }

    def __init__(
        self,
        config: CQLConfig | str = "5m",
        *,
        games: Sequence[str] = (),
        protocol: AtariProtocol | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        """Make the agent, randomly initialised."""
        super().__init__(config, games=games, protocol=protocol, device=device)
        self.target = copy.deepcopy(self.model).requires_grad_(False)

    def _make_model(self) -> ImpalaC51:
        return ImpalaC51(self.config)

    @property
    def future(self) -> int:
        """Rows after the learned step, down to the frame whose value is looked up."""
        return self.config.n_steps

    def training_modules(self) -> dict[str, nn.Module]:
        """Return the network and its target."""
        return {"model": self.model, "target": self.target}

    def after_step(self, step: int) -> None:
        """Copy the network to the target when it is time."""
        if step % self.config.target_period == 0:
            self.target.load_state_dict(self.model.state_dict())

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return C51's cross-entropy plus the conservative term, for the windows' drawn steps.

        The windows hold `frame_stack` rows up to the drawn step and `n_steps` after it. Steps
        followed by a time limit have no frame to go on from and do not count in C51's term.
        """
        config = self.config
        now = config.frame_stack - 1
        frames = self._to_device(batch.frames)
        actions = self._to_device(batch.actions[:, now])
        logits = self.model(frames[:, : config.frame_stack])

        ahead = slice(now, now + config.n_steps)
        terminated = batch.terminated[:, ahead].any(1)
        continues = batch.valid[:, -1]
        discounts = config.discount ** np.arange(config.n_steps)
        returns = np.clip(batch.rewards[:, ahead], -1, 1) @ discounts
        final_discounts = continues * config.discount**config.n_steps
        target = self._target_distribution(
            frames[:, -config.frame_stack :],
            self._to_device(returns.astype(np.float32)),
            self._to_device(final_discounts.astype(np.float32)),
        )
        chosen = logits[torch.arange(len(actions)), actions]
        known = self._to_device((continues | terminated).astype(np.float32))
        c51 = (F.cross_entropy(chosen, target, reduction="none") * known).mean()
        values = self.model.values(logits)
        conservative = F.cross_entropy(values, actions)
        return c51 + config.conservative_weight * conservative, {
            "c51_loss": c51,
            "conservative_loss": conservative,
            "value": values.mean(),
            "accuracy": (values.argmax(-1) == actions).float().mean(),
        }

    @torch.no_grad()
    def _target_distribution(self, frames: Tensor, returns: Tensor, discounts: Tensor) -> Tensor:
        """Return `(B, atoms)`: the best action's distribution, discounted, shifted and projected.

        Bellemare et al. 2017, algorithm 1: the mass of a moved atom goes to its two neighbours.
        """
        logits = self.target(frames)
        best = self.target.values(logits).argmax(-1)
        probabilities = logits.softmax(-1)[torch.arange(len(best)), best]
        support = self.target.support
        moved = returns[:, None] + discounts[:, None] * support
        moved = moved.clamp(-self.config.max_value, self.config.max_value)
        spacing = support[1] - support[0]
        shares = (1 - (moved[:, :, None] - support).abs() / spacing).clamp(0, 1)
        return (probabilities[:, :, None] * shares).sum(1)

    @property
    def memory(self) -> tuple[int, ...]:
        """Nothing is remembered."""
        return ()

    @torch.no_grad()
    def _act(
        self,
        observations: np.ndarray,
        state: State | None,
        starts: np.ndarray,
        rewards: np.ndarray,
        deterministic: bool,
    ) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        actions = (
            self.model.values(self.model(self._to_device(observations))).argmax(-1).cpu().numpy()
        )
        if not deterministic:
            explore = self.draws.uniform() < self.config.exploration
            drawn = (self.draws.uniform() * self.config.actions).astype(np.int64)
            actions = np.where(explore, drawn, actions)
        return actions, None

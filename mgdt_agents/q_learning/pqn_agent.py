"""The network that PQN learns, as an agent; the learner is in `online/pqn.py`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.step_inputs import State, StepInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class PQNNetworkConfig:
    """The network, and how it acts."""

    actions: tuple[int, ...] = tuple(range(18))
    """Full-set ids of the actions that have a value: those that do something in the game."""
    channels: tuple[int, int, int] = (16, 32, 64)
    """Of the three convolutions (the authors: 32, 64, 64)."""
    hidden: int = 256
    """Width of the layer after them (the authors: 512)."""
    exploration: float = 0.001
    """Share of uniformly random actions when acting (Dopamine's evaluation)."""
    frame_stack: int = 4
    """Frames that the network sees."""
    frame_size: int = 84
    """Height and width of a frame in pixels."""


class QNetwork(nn.Module):
    """Nature DQN's network (Mnih et al. 2015) with a layer norm before each rectifier.

    Observations come with the stack of frames last, `(..., height, width, stack)`: CPUs convolve
    faster so, and turning them around at each pass would take as long as a convolution.
    """

    def __init__(self, config: PQNNetworkConfig) -> None:
        """Make the network that `config` describes, randomly initialized."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs, size = config.frame_stack, config.frame_size
        for channels, kernel, stride in zip(config.channels, (8, 4, 3), (4, 2, 1), strict=True):
            layers += [nn.Conv2d(inputs, channels, kernel, stride), nn.GroupNorm(1, channels)]
            layers += [nn.ReLU(inplace=True)]
            inputs, size = channels, (size - kernel) // stride + 1
        layers += [nn.Flatten(), nn.Linear(inputs * size * size, config.hidden)]
        layers += [nn.LayerNorm(config.hidden), nn.ReLU()]
        layers += [nn.Linear(config.hidden, len(config.actions))]
        # PyTorch declares no types for this call.
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observations: Tensor) -> Tensor:
        """Return the Q-values `(batch, actions)` of uint8 `(batch, height, width, stack)`."""
        pixels = observations.permute(0, 3, 1, 2).float().mul_(1 / 255)
        return self.layers(pixels)


class PQNAgent(NetworkAgent):
    """Plays the action of the highest Q-value, and sometimes a random one of the game's.

    Args:
        config: the sizes, or the name of a preset.
        games, protocol, device: see `NetworkAgent`.
    """

    model: QNetwork
    kind = "pqn"
    config_class = PQNNetworkConfig
    presets: ClassVar[dict[str, Any]] = {"small": PQNNetworkConfig()}

    def _make_model(self) -> QNetwork:
        return QNetwork(self.config)

    @property
    def memory(self) -> tuple[int, ...]:
        """Nothing is remembered."""
        return ()

    @torch.no_grad()
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        frames = self._to_device(np.ascontiguousarray(np.moveaxis(inputs.observations, 1, -1)))
        chosen = self.model(frames).argmax(-1).cpu().numpy()
        if not inputs.deterministic:
            explores = inputs.draws.uniform() < self.config.exploration
            drawn = (inputs.draws.uniform() * len(self.config.actions)).astype(np.int64)
            chosen = np.where(explores, drawn, chosen)
        return np.array(self.config.actions)[chosen], None

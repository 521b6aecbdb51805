"""The network that PQN learns, as an agent; the learner is in `online/pqn.py`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.frames import computing_dtype, to_pixels
from mgdt_agents.linear import fp32_linear
from mgdt_agents.random_streams import explored, sample
from mgdt_agents.step_inputs import State, StepInputs
from mgdt_envs.errors import InvalidArgument


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
    """Height and width of a frame in pixels; the network sees halves."""


class QNetwork(nn.Module):
    """A small dueling network (Wang et al. 2016) with a layer norm before each rectifier."""

    def __init__(self, config: PQNNetworkConfig) -> None:
        super().__init__()
        if config.frame_size % 2:
            raise InvalidArgument(f"frame_size must be even, got {config.frame_size}")
        layers: list[nn.Module] = []
        inputs, size = config.frame_stack, config.frame_size // 2
        for channels, kernel, stride in zip(config.channels, (4, 3, 3), (2, 2, 1), strict=True):
            layers += [nn.Conv2d(inputs, channels, kernel, stride), nn.GroupNorm(1, channels)]
            layers += [nn.ReLU(inplace=True)]
            inputs, size = channels, (size - kernel) // stride + 1
        # PyTorch declares no types for this call.
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.hidden = nn.Sequential(
            nn.Linear(inputs * size * size, config.hidden), nn.LayerNorm(config.hidden), nn.ReLU()
        )
        self.outputs = nn.Linear(config.hidden, 1 + len(config.actions))
        # What random values the network begins with, it must unlearn by bootstrapping, slowly.
        nn.init.zeros_(self.outputs.bias)
        with torch.no_grad():
            self.outputs.weight[0] = 0
            self.outputs.weight[1:] *= 0.1

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the Q-values, `(batch, actions)` fp32, of uint8 `(batch, height, width, stack)`.

        See `mgdt_agents.frames.to_pixels`. Their scale does not matter to the first layer norm.
        """
        dtype = computing_dtype(next(self.parameters()))
        maps = self.convolutions(pixels.permute(0, 3, 1, 2).to(dtype))
        # Flattened as they lie in memory.
        features = self.hidden(maps.permute(0, 2, 3, 1).flatten(1))
        # The values of two actions often differ by less than bf16 resolves.
        outputs = fp32_linear(self.outputs, features)
        value, advantages = outputs.tensor_split([1], 1)
        return value + advantages - advantages.mean(1, keepdim=True)


class PQNAgent(NetworkAgent):
    """Plays the action of the highest Q-value, and sometimes a random one of the game's.

    Args:
        config: the sizes, or the name of a preset.
        games, protocol, device: see `NetworkAgent`.
    """

    model: QNetwork
    kind = "pqn"
    memory = ()
    config_class = PQNNetworkConfig
    presets: ClassVar[dict[str, Any]] = {"small": PQNNetworkConfig()}

    def _make_model(self) -> QNetwork:
        return QNetwork(self.config)

    @torch.no_grad()
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        pixels = self._to_device(to_pixels(inputs.observations))
        chosen = sample(self.model(pixels).cpu(), None).numpy()
        if not inputs.deterministic:
            allowed = np.ones((len(chosen), len(self.config.actions)), bool)
            chosen = explored(chosen, allowed, self.config.exploration, inputs.draws)
        return np.array(self.config.actions)[chosen], None

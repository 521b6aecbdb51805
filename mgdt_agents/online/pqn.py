"""PQN: Q-learning online without a replay buffer or a target network (Gallici et al. 2024).

Many environments are played for a short rollout; the network, stable through its layer norms,
learns the rollout's Q(lambda) returns and forgets it. On a CPU that is several times faster than
DQN. The defaults are those of the authors' Atari configuration (arXiv 2407.04811, appendix), but
for fewer environments and a narrower network, which one core can play and train.

Observations come with the stack of frames last, `(..., height, width, stack)`: CPUs convolve faster
so, and turning them around at each pass would take as long as a convolution.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class PQNConfig:
    """How PQN learns."""

    num_envs: int = 32
    """Environments played together (the authors: 128)."""
    rollout_steps: int = 32
    """Steps of each environment between two updates."""
    epochs: int = 2
    """Times that an update goes through its rollout."""
    minibatches: int = 8
    """Gradient steps an epoch (the authors: 32; of 128 samples each, as here)."""
    learning_rate: float = 2.5e-4
    """Of RAdam."""
    discount: float = 0.99
    """Of rewards a step later."""
    trace_decay: float = 0.65
    """Lambda: weight of the sampled return against the network's own estimate."""
    final_epsilon: float = 0.01
    """Share of random actions, after it has fallen from 1."""
    exploration_fraction: float = 0.1
    """Share of all steps over which it falls."""
    max_gradient_norm: float = 10.0
    """Larger gradients are scaled to this norm."""
    channels: tuple[int, int, int] = (16, 32, 64)
    """Of the three convolutions (the authors: 32, 64, 64)."""
    hidden: int = 256
    """Width of the layer after them (the authors: 512)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network's passes; "auto" is bf16 on a GPU and fp32 on a CPU, where bf16 pays only
    with AMX or AVX512-BF16."""
    seed: int = 0
    """Of the network and of the random actions."""


class Rollout(NamedTuple):
    """What N environments saw, did and got in T steps."""

    observations: NDArray[np.uint8]
    """`(T, N, height, width, stack)`."""
    actions: NDArray[np.int64]
    """`(T, N)` indices of Q-values."""
    rewards: NDArray[np.float32]
    """`(T, N)`, as the learner shall see them."""
    ends: NDArray[np.bool_]
    """`(T, N)`: nothing comes after the step."""
    cuts: NDArray[np.bool_]
    """`(T, N)`: the step's successor is known, but not what was done there."""
    is_transition: NDArray[np.bool_]
    """`(T, N)`; false where the step only began a new episode."""
    values: NDArray[np.float32]
    """`(T + 1, N)`: the highest Q-value at each step and after the last."""


class QNetwork(nn.Module):
    """Nature DQN's network (Mnih et al. 2015) with a layer norm before each rectifier."""

    def __init__(self, config: PQNConfig, num_actions: int, stack: int, size: int) -> None:
        """Make the network for observations of `stack` frames of `size` pixels a side."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs = stack
        for channels, kernel, stride in zip(config.channels, (8, 4, 3), (4, 2, 1), strict=True):
            layers += [nn.Conv2d(inputs, channels, kernel, stride), nn.GroupNorm(1, channels)]
            layers += [nn.ReLU(inplace=True)]
            inputs, size = channels, (size - kernel) // stride + 1
        layers += [nn.Flatten(), nn.Linear(inputs * size * size, config.hidden)]
        layers += [nn.LayerNorm(config.hidden), nn.ReLU(), nn.Linear(config.hidden, num_actions)]
        # PyTorch declares no types for this call.
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observations: Tensor) -> Tensor:
        """Return the Q-values `(batch, num_actions)` of uint8 `(batch, height, width, stack)`."""
        pixels = observations.permute(0, 3, 1, 2).float().mul_(1 / 255)
        return self.layers(pixels)


def lambda_returns(rollout: Rollout, discount: float, trace_decay: float) -> NDArray[np.float32]:
    """Return the Q(lambda) return of each step, `(T, N)`: Gallici et al. 2024, equation 16.

    Where a rollout or an episode is cut off, the highest Q-value stands for the rest.
    """
    returns = np.empty_like(rollout.rewards)
    later = rollout.values[-1]
    for step in reversed(range(len(returns))):
        value = rollout.values[step + 1]
        later = np.where(rollout.cuts[step], value, trace_decay * later + (1 - trace_decay) * value)
        later = rollout.rewards[step] + discount * np.where(rollout.ends[step], 0, later)
        returns[step] = later
    return returns


class PQN:
    """The learner.

    Args:
        config: how it learns.
        num_actions: Q-values of an observation.
        steps: agent steps of the whole training, to which the exploration is fitted.
        stack: frames of an observation.
        size: height and width of a frame.
        device: where to compute.

    Attributes:
        steps_learned: agent steps learned from so far.

    Example:
        >>> learner = PQN(PQNConfig(), num_actions=6, steps=1000)
        >>> actions, values = learner.act(np.zeros((32, 84, 84, 4), np.uint8), steps_taken=0)
        >>> actions.shape, values.shape
        ((32,), (32,))
    """

    def __init__(
        self,
        config: PQNConfig,
        num_actions: int,
        steps: int,
        *,
        stack: int = 4,
        size: int = 84,
        device: str | torch.device = "cpu",
    ) -> None:
        """Make a learner that knows nothing yet."""
        self.config, self.num_actions, self.steps = config, num_actions, steps
        self.device = torch.device(device)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network = QNetwork(config, num_actions, stack, size).to(self.device)
        self.optimizer = torch.optim.RAdam(self.network.parameters(), lr=config.learning_rate)
        self.random = np.random.default_rng(config.seed)
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and self.device.type == "cuda"
        )

    def epsilon(self, steps_taken: int) -> float:
        """Return the share of random actions after `steps_taken` agent steps."""
        share = min(1.0, steps_taken / (self.config.exploration_fraction * self.steps))
        return 1 + share * (self.config.final_epsilon - 1)

    def _q_values(self, observations: NDArray[np.uint8]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            return self.network(torch.from_numpy(observations).to(self.device)).float()

    def values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the highest Q-value of each observation."""
        with torch.inference_mode():
            return self._q_values(observations).amax(1).cpu().numpy()

    def act(
        self, observations: NDArray[np.uint8], steps_taken: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return an epsilon-greedy action for each observation, and its highest Q-value."""
        with torch.inference_mode():
            values, greedy = self._q_values(observations).max(1)
        explores = self.random.random(len(observations)) < self.epsilon(steps_taken)
        drawn = self.random.integers(self.num_actions, size=len(observations))
        return np.where(explores, drawn, greedy.cpu().numpy()), values.cpu().numpy()

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Take an update's gradient steps and return the mean loss and Q-value."""
        config = self.config
        returns = lambda_returns(rollout, config.discount, config.trace_decay)
        rows = np.flatnonzero(rollout.is_transition)
        observations = rollout.observations.reshape(-1, *rollout.observations.shape[2:])
        actions = torch.from_numpy(rollout.actions.reshape(-1)).to(self.device)
        targets = torch.from_numpy(returns.reshape(-1)).to(self.device)
        losses = []
        for _ in range(config.epochs):
            for batch in np.array_split(self.random.permutation(rows), config.minibatches):
                q = self._q_values(observations[batch])
                chosen = q.gather(1, actions[batch, None])[:, 0]
                loss = (chosen - targets[batch]).square().mean() / 2
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm)
                self.optimizer.step()
                losses.append(loss.detach())
        return {
            "loss": float(torch.stack(losses).mean()),
            "value": float(rollout.values.mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that a learner needs to go on as this one would."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            # As text: PyTorch's safe loader takes no integers of 128 bits.
            "random": json.dumps(self.random.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.bit_generator.state = json.loads(state["random"])

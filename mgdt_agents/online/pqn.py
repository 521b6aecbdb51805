"""PQN: Q-learning online without a replay buffer or a target network (Gallici et al. 2024).

Many environments are played for a short rollout; the network, stable through its layer norms,
learns the rollout's Q(lambda) returns and forgets it. On a CPU that is several times faster than
DQN. The defaults are those of the authors' Atari configuration (arXiv 2407.04811, appendix), but
for fewer environments and a narrower network, which one core can play and train.

Observations come with the stack of frames last, `(..., height, width, stack)`: CPUs convolve faster
so, and turning them around at each pass would take as long as a convolution.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgdt_agents.online.learner import Learner, PlayedStep, check_fields
from mgdt_agents.q_learning.pqn_agent import PQNAgent, PQNNetworkConfig
from mgdt_envs import AtariProtocol
from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument


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
    """Of the network, the random actions and the environments."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: naming the one that cannot be.
        """
        at_least_one = ("num_envs", "epochs", "minibatches", "channels", "hidden")
        shares = ("discount", "trace_decay", "final_epsilon", "exploration_fraction")
        check_fields(
            self,
            {
                **dict.fromkeys(at_least_one, (1, math.inf)),
                **dict.fromkeys(shares, (0, 1)),
                **dict.fromkeys(("learning_rate", "max_gradient_norm"), (0, math.inf)),
                # So that at least every second step is one to learn from.
                "rollout_steps": (2, math.inf),
                "seed": (0, MAX_SEED - self.num_envs),
            },
        )
        check_fields(self, {"minibatches": (1, self.num_envs * (self.rollout_steps // 2))})


class Rollout(NamedTuple):
    """What N environments saw, did and got in T steps."""

    observations: NDArray[np.uint8]
    """`(T, N, height, width, stack)`."""
    actions: NDArray[np.int64]
    """`(T, N)` indices of Q-values."""
    rewards: NDArray[np.float32]
    """`(T, N)`, as the learner shall see them."""
    terminated: NDArray[np.bool_]
    """`(T, N)`: nothing comes after the step."""
    truncated: NDArray[np.bool_]
    """`(T, N)`: the step's successor is known, but not what was done there."""
    is_transition: NDArray[np.bool_]
    """`(T, N)`; false where the step only began a new episode."""
    values: NDArray[np.float32]
    """`(T + 1, N)`: the highest Q-value at each step and after the last."""


def lambda_returns(rollout: Rollout, discount: float, trace_decay: float) -> NDArray[np.float32]:
    """Return the Q(lambda) return of each step, `(T, N)`: Gallici et al. 2024, equation 16.

    Where a rollout ends or an episode is truncated, the highest Q-value stands for the rest.
    """
    returns = np.empty_like(rollout.rewards)
    later = rollout.values[-1]
    for step in reversed(range(len(returns))):
        value = rollout.values[step + 1]
        mixed = trace_decay * later + (1 - trace_decay) * value
        later = np.where(rollout.truncated[step], value, mixed)
        later = rollout.rewards[step] + discount * np.where(rollout.terminated[step], 0, later)
        returns[step] = later
    return returns


class PQN(Learner):
    """The learner of one game: rewards are their sign to it, and a lost life is an end.

    Args:
        config: how it learns.
        games_of_envs, steps, protocol, device: see `Learner`; the exploration is fitted to `steps`.

    Example:
        >>> learner = PQN(PQNConfig(num_envs=4), ["Pong"] * 4, steps=1000)
        >>> learner.act(np.zeros((4, 4, 84, 84), np.uint8)).shape
        (4,)
    """

    name = "pqn"
    config_class = PQNConfig
    agent: PQNAgent

    def __init__(
        self,
        config: PQNConfig,
        games_of_envs: Sequence[str],
        steps: int,
        *,
        protocol: AtariProtocol | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        """Make a learner that knows nothing yet.

        Raises:
            ValueError: for several games.
        """
        if len(set(games_of_envs)) != 1:
            games = ", ".join(sorted(set(games_of_envs)))
            raise InvalidArgument(f"PQN learns one game, got {games}.")
        super().__init__(config, games_of_envs, steps, protocol=protocol, device=device)
        stack, size = self.protocol.stack, self.protocol.screen_size
        network = PQNNetworkConfig(
            actions=tuple(self.actions.tolist()),
            channels=config.channels,
            hidden=config.hidden,
            frame_stack=stack,
            frame_size=size,
        )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.agent = PQNAgent(
                network, games=self.games, protocol=self.protocol, device=self.device
            )
        self.network = self.agent.model
        self.optimizer = torch.optim.RAdam(self.network.parameters(), lr=config.learning_rate)
        self.random = np.random.default_rng(config.seed)
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and self.device.type == "cuda"
        )
        shape = config.rollout_steps, self.num_envs
        self.rollout = Rollout(
            observations=np.empty((*shape, size, size, stack), np.uint8),
            actions=np.empty(shape, np.int64),
            rewards=np.empty(shape, np.float32),
            terminated=np.empty(shape, bool),
            truncated=np.empty(shape, bool),
            is_transition=np.empty(shape, bool),
            values=np.empty((shape[0] + 1, shape[1]), np.float32),
        )
        self.row = 0  # of the rollout, which is played next

    @property
    def epsilon(self) -> float:
        """The share of random actions."""
        falling_steps = self.config.exploration_fraction * self.steps
        share = min(1.0, self.steps_played / max(1.0, falling_steps))
        return 1 + share * (self.config.final_epsilon - 1)

    def _q_values(self, observations: NDArray[np.uint8]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            return self.network(torch.from_numpy(observations).to(self.device)).float()

    def values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the highest Q-value of each observation."""
        with torch.inference_mode():
            return self._q_values(observations).amax(1).cpu().numpy()

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return an epsilon-greedy full-set action for each observation."""
        frames = self.rollout.observations[self.row]
        for place in range(frames.shape[-1]):  # three times faster than all at once
            frames[..., place] = observations[:, place]
        with torch.inference_mode():
            values, greedy = self._q_values(frames).max(1)
        explores = self.random.random(len(observations)) < self.epsilon
        drawn = self.random.integers(len(self.actions), size=len(observations))
        chosen = np.where(explores, drawn, greedy.cpu().numpy())
        self.rollout.values[self.row], self.rollout.actions[self.row] = values.cpu(), chosen
        return self.actions[chosen]

    def learn(self, step: PlayedStep) -> dict[str, float] | None:
        """Keep the step; with the last of a rollout, learn the rollout."""
        rollout, row = self.rollout, self.row
        rollout.rewards[row] = np.sign(step.rewards)
        rollout.terminated[row] = step.terminated | step.life_lost
        rollout.truncated[row] = step.truncated
        rollout.is_transition[row] = step.is_transition
        self.steps_played += self.num_envs
        self.row = (row + 1) % self.config.rollout_steps
        if self.row:
            return None
        rollout.values[-1] = self.values(np.moveaxis(step.next_observations, 1, -1))
        return self.update(rollout) | {"epsilon": self.epsilon}

    def update(self, rollout: Rollout) -> dict[str, float]:
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
        """Return what a learner needs to resume as this one would, after an update."""
        return {
            **super().state_dict(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            # As text: PyTorch's safe loader takes no integers of 128 bits.
            "random": json.dumps(self.random.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        super().load_state_dict(state)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.bit_generator.state = json.loads(state["random"])

"""PQN: Q-learning online without a replay buffer or a target network (Gallici et al. 2024).

Many environments are played for a short rollout; the network, stable through its layer norms,
learns the rollout's Q(lambda) returns and forgets it. On a CPU that is several times faster than
DQN. What differs from the authors' Atari configuration (arXiv 2407.04811, appendix) is said at each
setting; `docs/data.md` has the trials that decided it.
"""

import copy
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mgdt_agents.config_checks import check_choices, check_interval
from mgdt_agents.devices import uses_bf16
from mgdt_agents.frames import to_pixels
from mgdt_agents.online.learner import Learner, PlayedStep
from mgdt_agents.q_learning.pqn_agent import PQNAgent, PQNNetworkConfig
from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class PQNConfig:
    """How PQN learns."""

    num_envs: int = 32
    """Environments played together (the authors: 128)."""
    rollout_steps: int = 128
    """Steps of each environment between two updates (the authors: 32)."""
    epochs: int = 1
    """Times that an update goes through its rollout (the authors: 2)."""
    minibatches: int = 64
    """Gradient steps an epoch (the authors: 32, of twice as many samples each)."""
    learning_rate: float = 2.5e-4
    """Of Adam (the authors: RAdam), at first; it falls to 0 over all steps."""
    discount: float = 0.99
    """Of rewards a step later."""
    trace_decay: float = 0.9
    """Lambda: weight of the sampled return against the network's own estimate (the authors:
    0.65)."""
    final_epsilon: float = 0.01
    """Probability that a step begins to explore, after it has fallen from 1."""
    exploration_fraction: float = 0.1
    """Share of all steps over which it falls."""
    max_repeats: int = 100
    """Steps for which exploring keeps to an action at most; mostly it is one (the authors: 1)."""
    max_gradient_norm: float = 10.0
    """Larger gradients are scaled to this norm; 0 leaves them as they are."""
    channels: tuple[int, int, int] = (16, 32, 64)
    """Of the three convolutions (the authors: 32, 64, 64)."""
    hidden: int = 256
    """Width of the layer after them (the authors: 512)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of all layers but the last; "auto" is bf16 on a GPU and on a CPU that has AMX or
    AVX512-BF16, and else fp32."""
    seed: int = 0
    """Of the network, the random actions and the environments."""

    def __post_init__(self) -> None:
        sizes = ("num_envs", "epochs", "minibatches", "max_repeats", "channels", "hidden")
        shares = ("discount", "trace_decay", "final_epsilon", "exploration_fraction")
        check_choices(self)
        check_interval(self, "[1, inf)", *sizes)
        check_interval(self, "[2, inf)", "rollout_steps")  # so that half or more are learned from
        check_interval(self, "[0, inf)", "learning_rate", "max_gradient_norm")
        check_interval(self, "[0, 1]", *shares)
        check_interval(self, f"[0, {MAX_SEED - self.num_envs}]", "seed")
        check_interval(self, f"[1, {self.num_envs * (self.rollout_steps // 2)}]", "minibatches")


class Rollout(NamedTuple):
    """What N environments saw, did and got in T steps."""

    pixels: NDArray[np.uint8]
    """`(T, N, height, width, stack)`: what `to_pixels` makes of the observations."""
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

    Raises:
        ValueError: for several games.

    Example:
        >>> learner = PQN(PQNConfig(num_envs=4), ["Pong"] * 4, steps=1000)
        >>> learner.act(np.zeros((4, 4, 84, 84), np.uint8)).shape
        (4,)
    """

    name = "pqn"
    config_class = PQNConfig
    agent: PQNAgent

    def _setup(self) -> None:
        if len(self.games) != 1:
            raise InvalidArgument(f"PQN learns one game, got {', '.join(sorted(self.games))}.")
        config: PQNConfig = self.config
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
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )
        self.random = np.random.default_rng(config.seed)
        self.explores_for = np.zeros(self.num_envs, np.int64)  # steps to come
        self.explored = np.zeros(self.num_envs, np.int64)  # the action of these steps
        self.bf16 = uses_bf16(config.precision, self.device)
        # A copy, so that the weights are converted once an update and not once a step.
        self.player = copy.deepcopy(self.network).requires_grad_(False)
        if self.bf16:
            self.player.bfloat16().outputs.float()
        shape = config.rollout_steps, self.num_envs
        self.rollout = Rollout(
            pixels=np.empty((*shape, size // 2, size // 2, stack), np.uint8),
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
        """The probability that a step begins to explore."""
        falling_steps = self.config.exploration_fraction * self.steps
        share = min(1.0, self.steps_played / max(1.0, falling_steps))
        return 1 + share * (self.config.final_epsilon - 1)

    def values(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the highest Q-value of each observation, and its index."""
        with torch.inference_mode():
            values, greedy = self.player(torch.from_numpy(pixels).to(self.device)).max(1)
        return values.cpu().numpy(), greedy.cpu().numpy()

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return a full-set action for each observation: the best, or one that explores.

        Exploring keeps to a random action for a random number of steps (Dabney et al. 2020, arXiv
        2006.01782): n steps with a probability proportional to n^-2.
        """
        pixels = self.rollout.pixels[self.row] = to_pixels(observations)
        self.rollout.values[self.row], greedy = self.values(pixels)
        begins = (self.random.random(self.num_envs) < self.epsilon) & (self.explores_for == 0)
        drawn = self.random.integers(len(self.actions), size=self.num_envs)
        lengths = np.minimum(self.random.zipf(2, self.num_envs), self.config.max_repeats)
        self.explored[begins], self.explores_for[begins] = drawn[begins], lengths[begins]
        explores = self.explores_for > 0
        self.explores_for -= explores
        chosen = self.rollout.actions[self.row] = np.where(explores, self.explored, greedy)
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
        rollout.values[-1], _ = self.values(to_pixels(step.next_observations))
        return self.update(rollout) | {"epsilon": self.epsilon}

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Take an update's gradient steps and return the mean loss and Q-value."""
        config = self.config
        returns = lambda_returns(rollout, config.discount, config.trace_decay)
        rows = np.flatnonzero(rollout.is_transition)
        pixels = torch.from_numpy(rollout.pixels).flatten(0, 1)
        actions = torch.from_numpy(rollout.actions).flatten().to(self.device)
        targets = torch.from_numpy(returns).flatten().to(self.device)
        self._set_learning_rate(self.optimizer, rollout.actions.size)
        most = config.max_gradient_norm or math.inf
        losses = []
        for _ in range(config.epochs):
            for batch in np.array_split(self.random.permutation(rows), config.minibatches):
                chosen = torch.from_numpy(batch)
                inputs = pixels.index_select(0, chosen).to(self.device)
                chosen = chosen.to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
                    q = self.network(inputs).gather(1, actions[chosen, None])[:, 0]
                loss = (q - targets[chosen]).square().mean() / 2
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), most)
                self.optimizer.step()
                losses.append(loss.detach())
        self._update_player()
        return {
            "loss": float(torch.stack(losses).mean()),
            "value": float(rollout.values.mean()),
        }

    @torch.no_grad()
    def _update_player(self) -> None:
        parameters = zip(self.player.parameters(), self.network.parameters(), strict=True)
        for played, learned in parameters:
            played.copy_(learned)

    def state_dict(self) -> dict[str, Any]:
        """Return what a learner needs to resume as this one would, after an update."""
        return {
            **super().state_dict(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "exploring": torch.from_numpy(np.stack((self.explores_for, self.explored))),
            # As text: PyTorch's safe loader takes no integers of 128 bits.
            "random": json.dumps(self.random.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        super().load_state_dict(state)
        self.network.load_state_dict(state["network"])
        self._update_player()
        self.explores_for, self.explored = state["exploring"].cpu().numpy().copy()
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.bit_generator.state = json.loads(state["random"])

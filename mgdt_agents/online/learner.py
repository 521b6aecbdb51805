"""What every learner that plays has in common, and the play that it learns from."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.devices import resolve_device
from mgdt_agents.sb3_agent import SB3Agent
from mgdt_envs import AtariProtocol, game

RECENT_EPISODES = 100  # whose mean return is logged


class PlayedStep(NamedTuple):
    """What N environments saw, got and saw next at one step."""

    observations: NDArray[np.uint8]
    """`(N, stack, height, width)`, before the action."""
    rewards: NDArray[np.float64]
    """`(N,)`, the game's own."""
    terminated: NDArray[np.bool_]
    """`(N,)`: the game is over."""
    truncated: NDArray[np.bool_]
    """`(N,)`: a time limit ended the episode."""
    life_lost: NDArray[np.bool_]
    """`(N,)`: a life was lost, the last one or not."""
    is_transition: NDArray[np.bool_]
    """`(N,)`; false where the step only began a new episode, whatever the action was."""
    next_observations: NDArray[np.uint8]
    """`(N, stack, height, width)`: an episode's last at its end, the next one's first after."""


class Learner(ABC):
    """A network that plays environments and learns from what it plays.

    A loop asks it for actions, plays them, and shows it what came of them; see `updates`.

    Args:
        config: how it learns; of the class `config_class`.
        games_of_envs: the game of each environment.
        steps: agent steps of the whole run, to which schedules are fitted.
        protocol: the rules of play.
        device: where to compute.

    Attributes:
        agent: what it has learned so far, to be saved and played.
        games: the games that it plays.
        actions: full-set ids of the actions that do something in one of the games.
        device: where it computes.
        steps_played: agent steps that it has been shown.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    can_resume: ClassVar[bool] = True
    """Whether `state_dict` is enough to resume as if nothing had happened."""
    card_note: ClassVar[str] = ""
    """What the card of the agent says of the method."""
    agent: NetworkAgent | SB3Agent

    def __init__(
        self,
        config: Any,
        games_of_envs: Sequence[str],
        steps: int,
        *,
        protocol: AtariProtocol | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.config, self.steps, self.device = config, steps, resolve_device(device)
        self.games_of_envs, self.num_envs = tuple(games_of_envs), len(games_of_envs)
        self.games = tuple(dict.fromkeys(games_of_envs))
        self.protocol = protocol or AtariProtocol()
        self.actions = np.array(
            sorted({action for name in self.games for action in game(name).minimal_actions})
        )
        self.steps_played = 0
        self._setup()

    @abstractmethod
    def _setup(self) -> None:
        """Make the agent, and what it takes to learn."""

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, update_steps: int) -> None:
        """Set the learning rate of the update just played, of so many agent steps.

        It falls from the config's to 0 over all steps.
        """
        steps_before = max(0, self.steps_played - update_steps)
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * max(0.0, 1 - steps_before / self.steps)

    @abstractmethod
    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Choose an action for each environment.

        Args:
            observations: `(N, stack, height, width)`.

        Returns:
            `(N,)` full-set ids.
        """

    @abstractmethod
    def learn(self, step: PlayedStep) -> dict[str, float] | None:
        """Take in what the actions that `act` last returned have brought.

        Returns:
            Figures to log, where the learner is between two updates and may be saved, else None.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a learner needs to resume as this one would, after an update.

        It consists of tensors and plain types.
        """
        return {"steps_played": self.steps_played}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self.steps_played = state["steps_played"]


class Play:
    """The environments that a learner plays, of which it remembers what the learner must know.

    Args:
        envs: with autoreset in the step after an end, and `infos["lives"]`.

    Attributes:
        observations: the last, `(N, stack, height, width)`.
        episodes: episodes that have ended.
        returns: those of the last 100 episodes, by game.
    """

    def __init__(self, envs: VectorEnv, games_of_envs: Sequence[str], seed: int) -> None:
        """Reset the environments to `seed`, `seed + 1`, ..."""
        self.envs, self.games_of_envs = envs, tuple(games_of_envs)
        self.observations, infos = envs.reset(seed=seed)
        self._lives, self._begins = infos["lives"], np.zeros(envs.num_envs, bool)
        self.episodes = 0
        self.returns: dict[str, deque[float]] = {
            name: deque(maxlen=RECENT_EPISODES) for name in self.games_of_envs
        }

    def step(self, actions: NDArray[np.integer]) -> PlayedStep:
        """Play full-set `actions`, `(N,)`."""
        observations, is_transition = self.observations, ~self._begins
        self.observations, rewards, terminated, truncated, infos = self.envs.step(actions)
        life_lost = (infos["lives"] < self._lives) & is_transition
        self._lives, self._begins = infos["lives"], terminated | truncated
        for env in np.flatnonzero(self._begins):
            self.returns[self.games_of_envs[env]].append(float(infos["episode"]["r"][env]))
            self.episodes += 1
        return PlayedStep(
            observations,
            rewards,
            terminated,
            truncated,
            life_lost,
            is_transition,
            self.observations,
        )


def mean_returns(returns: Mapping[str, Collection[float]]) -> dict[str, float | None]:
    """Return the mean of a game's returns as "mean_return", for several games each its."""
    means = {name: sum(each) / len(each) if each else None for name, each in returns.items()}
    if len(means) == 1:
        return {"mean_return": means.popitem()[1]}
    return {f"mean_return/{name}": mean for name, mean in means.items()}


def updates(learner: Learner, play: Play) -> Iterator[dict[str, float]]:
    """Let the learner play and learn without end; yield the figures of each of its updates."""
    while True:
        figures = learner.learn(play.step(learner.act(play.observations)))
        if figures is not None:
            yield figures

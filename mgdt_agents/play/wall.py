"""One agent at many games at once, to be watched."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mgdt_agents.action_sets import effective_actions
from mgdt_agents.agent import Agent
from mgdt_agents.step_inputs import State
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv
from mgdt_envs.errors import InvalidArgument


class WallStep(NamedTuple):
    """One agent step of n games."""

    screens: tuple[np.ndarray, ...]
    """The console's pictures after the step, `(height, width, 3)` uint8 each."""
    actions: np.ndarray
    """`(n,)` int64 full-set ids, those of people included."""
    scores: np.ndarray
    """`(n,)` float64, the rewards of each episode so far."""
    last_scores: np.ndarray
    """`(n,)` float64, the score of the last finished episode; NaN before the first."""
    returns: np.ndarray | None
    """`(n, R)` probabilities of each return that the agent predicted before it chose one; None if
    it predicts none."""
    attention: np.ndarray | None
    """`(n, steps, rows, columns)`: where the agent looked, the mean over layers and heads, oldest
    frame first; None if it has no attention, or a frame is one token, which has no places."""
    imagined: np.ndarray | None = None
    """`(n, side, side)` uint8: what the agent imagined that its actions, or people's, would show;
    None if it imagines nothing."""


class Wall:
    """An environment of each game that an agent plays without end; people may take games over.

    Args:
        agent: who plays. It may be replaced between steps; the play goes on.
        games: names, one environment each.
        protocol: the rules; None takes those the agent was trained under.
        seed: of the first game, the next has `seed + 1`, and of the agent's draws.
        explain: ask the agent for predicted returns, attention and imagined frames, too, which
            takes longer.

    Raises:
        ValueError: for an unknown game, or a protocol whose frames the agent cannot see.

    Example:
        >>> from mgdt_agents import load_agent
        >>> wall = Wall(load_agent("random"), ["Pong", "Breakout"])
        >>> step = wall.step()
        >>> step.screens[0].shape, step.scores
        ((210, 160, 3), array([0., 0.]))
        >>> wall.close()
    """

    def __init__(
        self,
        agent: Agent,
        games: Sequence[str],
        *,
        protocol: AtariProtocol | None = None,
        seed: int = 0,
        explain: bool = False,
    ) -> None:
        self.envs = MultiGameAtariVectorEnv(
            games=games,
            protocol=protocol or agent.known_protocol(),
            render_mode="rgb_array",
            autoreset_mode="SameStep",
        )
        self.games, self.explain = self.envs.games, explain
        self._observations, _ = self.envs.reset(seed=seed)
        rows = self.envs.num_envs
        self._rewards, self._scores = np.zeros(rows), np.zeros(rows)
        self._last_scores = np.full(rows, np.nan)
        self._begins = np.ones(rows, bool)
        self._state: State | None = None
        self.seed = seed
        self.agent = agent

    @property
    def agent(self) -> Agent:
        """Who plays."""
        return self._agent

    @agent.setter
    def agent(self, agent: Agent) -> None:
        if agent.observation_space != self.envs.single_observation_space:
            raise InvalidArgument(
                f"The agent sees {agent.observation_space}, and the games are played with "
                f"{self.envs.single_observation_space}."
            )
        agent.set_random_seed(self.seed)
        self._agent = agent
        self._looks_at_places = True  # until it turns out not to: that costs a pass a step
        self.forget()

    def forget(self) -> None:
        """Have the agent forget what it remembers, as after its acting rule has changed."""
        self._state = None

    def step(self, taken: Mapping[int, int] | None = None) -> WallStep:
        """Play one agent step of every game.

        Args:
            taken: full-set ids of the actions that people take, by the number of the game; the
                agent plays the others.
        """
        asked = self._observations, self._state, self._begins
        actions, self._state = self._agent.predict(
            *asked, reward=self._rewards, game=self.envs.games_of_envs
        )
        returns = attention = None
        if self.explain:
            returns = getattr(self._agent, "predicted_returns", None)
            if returns is None:  # the rule gives them, or there are none
                returns = self._explanation("return_distribution", asked)
            attention = self._attention(asked)
        played = actions  # what the agent is told of them
        if taken:
            rows = list(taken)
            actions, played = actions.copy(), actions.copy()
            actions[rows] = list(taken.values())
            # As in training, an action that a game does not have is what it amounts to there.
            amounts = effective_actions([self.games[row] for row in rows], self.envs.protocol)
            played[rows] = amounts[np.arange(len(rows)), actions[rows]]
            self._state = self._agent.with_actions(self._state, played)
        imagined = None
        if self.explain and hasattr(self._agent, "imagine"):
            observations, state, begins = asked
            imagined = self._agent.imagine(
                observations, played[:, None], state, begins, reward=self._rewards
            ).frames[:, 0]
        self._observations, self._rewards, terminated, truncated, _ = self.envs.step(actions)
        self._scores += self._rewards
        scores = self._scores.copy()
        self._begins = terminated | truncated
        self._last_scores[self._begins] = scores[self._begins]
        self._scores[self._begins] = 0
        screens = self.envs.render()
        assert screens is not None, "the environments were made with render_mode='rgb_array'"
        return WallStep(
            screens, actions, scores, self._last_scores.copy(), returns, attention, imagined
        )

    def _attention(self, asked: tuple[Any, ...]) -> np.ndarray | None:
        """Return where the agent looked, in the mean over layers and heads, if it says so."""
        if not self._looks_at_places:
            return None
        attention = self._explanation("attention_maps", asked)
        if attention is None or attention.shape[-2:] == (1, 1):
            self._looks_at_places = False
            return None
        return attention.mean((1, 2))

    def _explanation(self, name: str, asked: tuple[Any, ...]) -> np.ndarray | None:
        """Return what the agent's method `name` says of a decision, if it has it."""
        method = getattr(self._agent, name, None)
        if method is None:
            return None
        try:
            return method(*asked, reward=self._rewards)
        except InvalidArgument:  # behavioral cloning predicts no returns
            return None

    def close(self) -> None:
        """Stop the emulators."""
        self.envs.close()

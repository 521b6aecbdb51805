"""Small decision problems with pictures, whose exact answers are known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mgdt_envs import AtariProtocol

ACTIONS = (0, 2, 5)
"""Freeway's actions, in the order in which policies and values here list them."""
GAME = "Freeway"
SIDE = 12
Outcome = tuple[float, int | None, float]
"""Probability, next state or None for the end, reward."""


class Problem(NamedTuple):
    """What follows from each of the actions in each state; episodes begin in state 0."""

    outcomes: Sequence[Sequence[Sequence[Outcome]]]

    def q_values(self, discount: float, policy: np.ndarray | None = None) -> np.ndarray:
        """Return `(S, 3)`: what actions are worth if `policy` follows, or the best one."""
        values = np.zeros((len(self.outcomes), len(ACTIONS)))
        for _ in range(500):
            following = values.max(1) if policy is None else (policy * values).sum(1)
            values = np.array(
                [
                    [
                        sum(
                            p * (reward + (0 if after is None else discount * following[after]))
                            for p, after, reward in outcomes
                        )
                        for outcomes in actions
                    ]
                    for actions in self.outcomes
                ]
            )
        return values

    def value(self, policy: np.ndarray) -> float:
        """Return the expected return of an episode under `policy`, `(S, 3)`."""
        return float(policy[0] @ self.q_values(1.0, policy)[0])

    def record(
        self, policy: np.ndarray, episodes: int, seed: int = 0, max_steps: int = 50
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]:
        """Return frames, full-set ids, rewards and whether truncated, of episodes of `policy`."""
        random = np.random.default_rng(seed)
        played = []
        for _ in range(episodes):
            state: int | None = 0
            states: list[int] = []
            actions, rewards = [], []
            while state is not None and len(states) < max_steps:
                action = random.choice(len(ACTIONS), p=policy[state])
                outcomes = self.outcomes[state][action]
                number = random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
                states.append(state)
                _, state, reward = outcomes[number]
                actions.append(ACTIONS[action])
                rewards.append(reward)
            played.append(
                (pictures(states), np.array(actions), np.array(rewards), state is not None)
            )
        return played


class Row:
    """An episode as `write_store` takes it."""

    def __init__(self, frames, actions, rewards, truncated) -> None:
        self.frames, self.actions, self.rewards, self.truncated = (
            frames,
            actions,
            rewards,
            truncated,
        )


def pictures(states: Sequence[int]) -> np.ndarray:
    """Return `(n, 12, 12)` uint8: a white square, whose place is the state."""
    frames = np.zeros((len(states), SIDE, SIDE), np.uint8)
    for frame, state in zip(frames, states, strict=True):
        row, column = divmod(state, 3)
        frame[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    return frames


def protocol() -> AtariProtocol:
    """Return the protocol of the pictures."""
    return AtariProtocol(stack=1, screen_size=SIDE)


def _chain(length: int = 4, slip: float = 0.2) -> Problem:
    """Return a corridor: 2 goes on, but slips now and then, 5 goes back, 0 stays; the end is +1."""
    rows = []
    for state in range(length):
        forward = (None, 1.0) if state == length - 1 else (state + 1, 0.0)
        rows.append(
            [
                [(1.0, state, 0.0)],
                [(1 - slip, *forward), (slip, state, 0.0)],
                [(1.0, max(0, state - 1), 0.0)],
            ]
        )
    return Problem(rows)


CHAIN = _chain()
TREE = Problem(
    [
        [[(1.0, 1, 0.0)], [(1.0, 2, 1.0)], [(1.0, 3, -1.0)]],
        *[[[(1.0, None, 0.0)], [(1.0, None, 0.0)], [(1.0, None, 1.0)]]] * 3,
    ]
)
"""Two choices: the first brings 0, 1 or -1, the second 0, 0 or 1."""
GAMBLE = Problem(
    [
        [[(1.0, None, 0.0)], [(0.2, 1, 1.0), (0.8, None, -1.0)], [(1.0, 2, 0.0)]],
        *[[[(1.0, None, 1.0)]] * 3] * 2,
    ]
)
"""Action 2 brings 2 with luck and -1 without, -0.4 on average; action 5 brings 1 for sure."""
WAIT = Problem(
    [
        [[(1.0, 0, 0.0)], [(1.0, 1, 0.0)], [(1.0, 0, 0.0)]],
        [[(0.9, 1, 1.0), (0.1, None, 0.0)]] * 3,
    ]
)
"""Nothing happens until action 2 is taken; then each step brings 1 until the end."""

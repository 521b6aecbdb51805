"""Which of the 18 actions a game has."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mgdt_agents.replay.sampler import WindowBatch
from mgdt_envs import AtariProtocol
from mgdt_envs.emulator import NUM_ACTIONS, emulator_actions
from mgdt_envs.games import game


def effective_actions(games: Sequence[str], protocol: AtariProtocol) -> np.ndarray:
    """Return `(games, 18)` int64: the action that each of the 18 amounts to.

    Example:
        >>> effective_actions(["Freeway"], AtariProtocol())[0]
        array([0, 0, 2, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    """
    rows = [_effective_actions(name, protocol) for name in games]
    return np.array(rows, np.int64).reshape(-1, NUM_ACTIONS)


@lru_cache(maxsize=1024)
def _effective_actions(name: str, protocol: AtariProtocol) -> np.ndarray:
    return emulator_actions(game(name), protocol)


def actions_of_batch(
    batch: WindowBatch, games: Sequence[str], protocol: AtariProtocol
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the actions of windows amount to in their games, and which the games have.

    Args:
        batch: B windows of W steps.
        games: as the batch numbers them; none takes all 18 actions as they are.
        protocol: the rules.

    Returns:
        `(B, W)` int64 and `(B, 18)` bool.
    """
    if not games:
        return batch.actions, np.ones((len(batch.actions), NUM_ACTIONS), bool)
    actions = effective_actions(games, protocol)[batch.games[:, None], batch.actions]
    return actions, allowed_actions(games, protocol)[batch.games]


def allowed_in_rows(
    games: Sequence[str] | None, rows: int, known: Sequence[str], protocol: AtariProtocol
) -> np.ndarray:
    """Return `(rows, 18)` bool: the actions that each row's game has.

    Args:
        games: of the rows; None if they are not told, and then it is the actions that any of the
            known games has.
        rows: how many.
        known: games that they may be; none allows all actions.
        protocol: the rules.
    """
    if games is not None:
        return allowed_actions(games, protocol)
    if not known:
        return np.ones((rows, NUM_ACTIONS), bool)
    return allowed_actions(known, protocol).any(0, keepdims=True).repeat(rows, 0)


def allowed_actions(games: Sequence[str], protocol: AtariProtocol) -> np.ndarray:
    """Return `(games, 18)` bool: the actions that the game has, which do not amount to others."""
    return effective_actions(games, protocol) == np.arange(NUM_ACTIONS)

"""Scores and lengths of the episodes that a vector environment plays."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgdt_envs.protocol import AtariProtocol
from mgdt_envs.scoring import human_normalized_score, reason_without_score


class EpisodeStatistics:
    """Counts the episodes of each environment.

    Args:
        games: the game of each environment.
        protocol: the rules, under which some scores have no human reference.
    """

    def __init__(self, games: Sequence[str], protocol: AtariProtocol) -> None:
        """Begin an episode everywhere."""
        self.games = games
        reasons = [reason_without_score(name, protocol) for name in games]
        self._hns_missing = np.array(reasons, object)
        self._has_hns = np.array([reason is None for reason in reasons])
        self._returns = np.zeros(len(games))
        self._lengths = np.zeros(len(games), np.int64)  # agent steps
        self._starts = np.zeros(len(games))  # seconds

    def begin(self, mask: NDArray[np.bool_]) -> None:
        """Begin new episodes where `mask`, `(num_envs,)`, is true."""
        self._returns[mask] = 0
        self._lengths[mask] = 0
        self._starts[mask] = time.perf_counter()

    def count(self, rewards: NDArray[np.float64], is_step: NDArray[np.bool_]) -> None:
        """Add a step's rewards, `(num_envs,)`, and the step itself where `is_step`."""
        self._returns += rewards
        self._lengths += is_step

    def of(self, ended: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Return the statistics of the episodes that have just `ended`, and their masks.

        Args:
            ended: `(num_envs,)`.

        Returns:
            Arrays `(num_envs,)` as Gymnasium's: the return "r", float64, the length "l" in agent
            steps, int64, the seconds since the last reset "t", and the human-normalized score
            "hns", NaN where there is none; where that is for want of a reference, "hns_missing"
            says why. "_r" and so on are bool: where each holds.
        """
        scored, unscored = ended & self._has_hns, ended & ~self._has_hns
        scores = np.full(len(self.games), np.nan)
        for row in np.flatnonzero(scored).tolist():
            scores[row] = human_normalized_score(self.games[row], self._returns[row])
        seconds = np.round(time.perf_counter() - self._starts, 6)
        episodes: dict[str, NDArray[Any]] = {
            "r": np.where(ended, self._returns, 0.0),
            "l": np.where(ended, self._lengths, 0),
            "t": np.where(ended, seconds, 0.0),
            "hns": scores,
        }
        episodes |= {f"_{name}": ended.copy() for name in episodes} | {"_hns": scored}
        if unscored.any():
            reasons = self._hns_missing.copy()
            reasons[~unscored] = None
            episodes |= {"hns_missing": reasons, "_hns_missing": unscored}
        return episodes

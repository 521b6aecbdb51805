"""Splits of a learner's play by how well it played, defined once for all games and stores.

A learner's level is the mean human-normalized return of `WINDOW` episodes on end, in the order in
which they ended. A split is a range of episodes: from the middle of the first window whose level is
at least its lower bound, to the middle of the first whose level is at least its upper bound. What
the very first window reaches begins with the first episode.

- `random`: until a tenth of the way from random play to human play;
- `medium`: from a quarter, a third of where `expert` begins, as D4RL's `medium` has about a third
  of the expert's performance (Fu et al. 2020);
- `expert`: from three quarters on, which Mnih et al. 2015 (figure 3) count as human level;
- `mixed`: the whole run.

What is between `random` and `medium` is in `mixed` alone. A split is named where a store is named:
`replay/Pong:medium`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean
from mgdt_envs.scoring import human_normalized_score, reason_without_score

WINDOW = 50  # episodes
ALL = "mixed"
BOUNDS = {
    "random": (-np.inf, 0.1),
    "medium": (0.25, 0.75),
    "expert": (0.75, np.inf),
    ALL: (-np.inf, np.inf),
}
"""Human-normalized level at which each split begins, and at which it ends."""


def find_split(path: str | Path) -> tuple[Path, str | None]:
    """Return the folder and the split that a name such as `replay/Pong:medium` means.

    Without a split, it is None. A folder of that very name comes first.

    Raises:
        ValueError: if there is no split of that name.
    """
    path = Path(path)
    name, _, split = path.name.rpartition(":")
    if not name or path.exists():
        return path, None
    check_split(split)
    return path.parent / name, split  # with_name refuses the name .


ROUNDING = 1e-9
"""By which a level may miss a bound that it is exactly at."""


def check_split(split: str) -> None:
    """Check that there is a split of this name.

    Raises:
        ValueError: naming those that are near, or all.
    """
    if split not in BOUNDS:
        raise InvalidArgument(f"Unknown split {split!r}. {did_you_mean(split, BOUNDS)}")


def levels(game: str, returns: np.ndarray) -> np.ndarray:
    """Return the level of each window of `returns`, `(max(0, episodes - WINDOW + 1),)` float64."""
    # Returns are whole numbers, whose sums are exact; those of scores would not be.
    sums = np.cumsum(np.append(0.0, returns))
    return human_normalized_score(game, (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW)


def split_range(
    split: str,
    game: str,
    protocol: AtariProtocol,
    source: Mapping[str, Any],
    returns: np.ndarray,
    *,
    what: str,
) -> range:
    """Return the numbers of the episodes of a split.

    Args:
        split: a key of `BOUNDS`.
        game: name of the game.
        protocol: the rules that it was played by.
        source: what the store or trace says of its play. Where it holds a part of a trace, its
            `splits` are those of the trace.
        returns: `(episodes,)`, in the order in which the episodes ended.
        what: what messages call the play.

    Raises:
        ReplayError: if the play does not give the split, saying which level it reached; if it is
            damaged.
    """
    check_split(split)
    if not np.isfinite(returns).all():
        raise ReplayError(f"Expected returns of {what} that are numbers: it is damaged.")
    if "splits" in source:
        return _of_part(source, split, len(returns), what)
    if split == ALL:
        return range(len(returns))
    reason = reason_without_score(game, protocol, may_be_cut=False)
    if reason is None and source.get("rewards_clipped"):
        reason = "its rewards are clipped"
    if reason is not None:
        raise ReplayError(f"{what} has no split but {ALL}: {reason}.")
    if len(returns) < WINDOW:
        raise ReplayError(
            f"{what} has no split but {ALL}: its level is measured over {WINDOW} episodes, and it "
            f"has {len(returns)}."
        )
    level = levels(game, returns) + ROUNDING
    begin, end = BOUNDS[split]
    if level.max() < begin:
        raise ReplayError(
            f"{what} has no split {split}, which begins where the mean human-normalized return of "
            f"{WINDOW} episodes reaches {begin:g}: the highest is {level.max():.2f}."
        )
    first = _first(level, begin)
    stop = len(returns) if level.max() < end else _first(level, end)
    if first >= stop:
        window = int(np.argmax(level >= end))
        how = f"jumps to {level[window]:.2f}" if window else f"begins with {level[0]:.2f}"
        raise ReplayError(
            f"{what} has no split {split}, which ends where the mean human-normalized return of "
            f"{WINDOW} episodes reaches {end:g}: it {how}."
        )
    return range(first, stop)


def split_ranges(
    game: str, protocol: AtariProtocol, source: Mapping[str, Any], returns: np.ndarray
) -> dict[str, range]:
    """Return the episodes of every split that the play gives; see `split_range`."""
    ranges = {}
    for split in BOUNDS:
        try:
            ranges[split] = split_range(split, game, protocol, source, returns, what=game)
        except ReplayError:
            continue
    return ranges


def _first(level: np.ndarray, bound: float) -> int:
    """Return the number of the first episode of a level: of that in the middle of its window."""
    window = int(np.argmax(level >= bound))
    return window + WINDOW // 2 if window else 0


def _of_part(source: Mapping[str, Any], split: str, episodes: int, what: str) -> range:
    """Return the episodes of a split in a store of a part of a trace."""
    splits = source["splits"]
    try:
        given = {name: range(int(first), int(stop)) for name, (first, stop) in splits.items()}
        # A data set may have been imported in part.
        most = max(episodes, int(source.get("episodes", 0)))
        is_damaged = any(not 0 <= it.start <= it.stop <= most for it in given.values())
        bounds = {name: range(it.start, min(it.stop, episodes)) for name, it in given.items()}
    except (AttributeError, TypeError, ValueError):
        is_damaged = True
    if is_damaged:
        raise ReplayError(
            f"Expected splits of {what} by the numbers of their first episodes and of those after "
            f"their last, found {splits!r}: the store is damaged."
        )
    if split not in bounds or not bounds[split]:
        held = ", ".join(name for name, it in bounds.items() if it) or "none"
        raise ReplayError(
            f"{what} has no split {split}: of the splits of the play that it comes from, it holds "
            f"{held}."
        )
    return bounds[split]

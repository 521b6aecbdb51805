"""How sides are compared on a machine whose speed changes from minute to minute."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Figure(NamedTuple):
    """A measured figure, as it stands in `perf.json` under its name."""

    value: float
    unit: str
    """"x" for a ratio of speeds, ours over the peer's."""
    peer: str
    """What the value is measured against."""


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Return the seconds that each side takes, `(rounds,)`.

    The sides take turns, who goes first too, so that what else the machine does hits all of them.

    Args:
        sides: functions that do the same amount of work, by name.
        rounds: times that each is measured.
        warm_ups: rounds before them that do not count.
        clock: what tells the seconds; `time.process_time` tells those of this process on the
            processors.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_ups + rounds):
        for name in sorted(sides, reverse=number % 2 == 1):
            start = clock()
            sides[name]()
            seconds[name].append(clock() - start)
    return {name: np.array(taken[warm_ups:]) for name, taken in seconds.items()}


def ratio(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 7) -> float:
    """Return how many times as fast `ours` is as `peer`, the median over the rounds."""
    seconds = take_turns({"ours": ours, "peer": peer}, rounds)
    return float(np.median(seconds["peer"] / seconds["ours"]))

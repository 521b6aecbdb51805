"""How two sides are compared on a machine whose speed changes from minute to minute."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Figure(NamedTuple):
    """A measured figure, as it stands in `perf.json` under its name."""

    value: float
    unit: str
    """"x" for a ratio of speeds, ours over the peer's."""
    peer: str
    """What the value is measured against."""


def ratio(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 7) -> float:
    """Return how many times as fast `ours` is as `peer`, both doing the same amount of work.

    The sides take turns, who goes first too, and the median over the rounds is taken, so that
    what else the machine does hits both. One round before that warms them up.
    """
    sides = {"ours": ours, "peer": peer}
    ratios = []
    for number in range(rounds + 1):
        seconds = {}
        for name in sorted(sides, reverse=number % 2 == 1):
            start = time.perf_counter()
            sides[name]()
            seconds[name] = time.perf_counter() - start
        ratios.append(seconds["peer"] / seconds["ours"])
    return float(np.median(ratios[1:]))

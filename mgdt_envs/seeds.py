"""Seeds of environments: who begins to count where, so that nobody meets the starts of another.

What an agent learned from must not be what it is measured on. Under the default protocol an
episode is a function of its seed and its actions, so an agent that was trained on a recording with
some seed has seen that very start.
"""

import operator
from typing import Any

import numpy as np

from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument

RECORDING_SEED = 0
"""Recordings, collections, and learners that play count up from here."""
EVALUATION_SEED = 1_000_000
"""Evaluations during training, by which settings and checkpoints are chosen."""
BENCHMARK_SEED = 2_000_000
"""The benchmark, whose scores are reported."""

BENCHMARK_SEEDS = range(BENCHMARK_SEED, MAX_SEED + 1)


def checked_seed(seed: Any) -> int:
    """Return an environment's seed as an int.

    Raises:
        ValueError: if it is no integer, or negative.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidArgument(f"A seed must be an integer, at least 0, got {seed!r}")
    return number


def emulator_seed(seed: int) -> int:
    """Return what the emulator is seeded with for an environment's seed, 0 to `MAX_SEED`.

    Seeds in that range are taken as they are. Larger ones, such as the 32 bits that other libraries
    draw, are hashed into it, by numpy's `SeedSequence`: with a remainder, those just above the
    range would begin where recordings do.

    Example:
        >>> emulator_seed(5), emulator_seed(2**31), emulator_seed(2**31 + 1)
        (5, 1577607325, 810733843)
    """
    if seed <= MAX_SEED:
        return seed
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)

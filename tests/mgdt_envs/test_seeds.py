"""Ranges of seeds: nobody begins where another counts."""

import numpy as np
import pytest

from mgdt_envs import seeds
from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument


def test_ranges_are_apart_and_the_emulators():
    starts = [seeds.RECORDING_SEED, seeds.EVALUATION_SEED, seeds.BENCHMARK_SEED]
    room = 100_000  # more environments, runs or episodes than anybody counts up
    assert starts[0] >= 0
    for start, next_start in zip(starts, [*starts[1:], MAX_SEED], strict=True):
        assert next_start - start > room
    assert seeds.BENCHMARK_SEED in seeds.BENCHMARK_SEEDS
    assert seeds.EVALUATION_SEED + room not in seeds.BENCHMARK_SEEDS


def test_emulators_get_seeds_of_their_range():
    exact = [0, 1, seeds.BENCHMARK_SEED, MAX_SEED]
    assert [seeds.emulator_seed(seed) for seed in exact] == exact
    larger = [*range(2**31, 2**31 + 500), *range(2**32 - 500, 2**32 + 500), 2**64, 10**40]
    folded = [seeds.emulator_seed(seed) for seed in larger]
    assert all(0 <= seed <= MAX_SEED for seed in folded)
    assert len(set(folded)) == len(larger)


def test_seeds_are_integers_from_zero_up():
    assert [seeds.checked_seed(seed) for seed in (7, np.uint32(2**32 - 1))] == [7, 2**32 - 1]
    for seed in (-1, np.int64(-5), 1.5, "7", [7]):
        with pytest.raises(InvalidArgument, match="A seed must be an integer, at least 0, got"):
            seeds.checked_seed(seed)

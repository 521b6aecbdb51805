"""Ranges of seeds: nobody begins where another counts."""

from mgdt_envs import seeds
from mgdt_envs.emulator import MAX_SEED


def test_ranges_are_apart_and_the_emulators():
    starts = [seeds.RECORDING_SEED, seeds.EVALUATION_SEED, seeds.BENCHMARK_SEED]
    room = 100_000  # more environments, runs or episodes than anybody counts up
    assert starts[0] >= 0
    for start, next_start in zip(starts, [*starts[1:], MAX_SEED], strict=True):
        assert next_start - start > room
    assert seeds.BENCHMARK_SEED in seeds.BENCHMARK_SEEDS
    assert seeds.EVALUATION_SEED + room not in seeds.BENCHMARK_SEEDS

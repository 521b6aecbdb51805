"""Seeds of environments: who begins to count where, so that nobody meets the starts of another.

What an agent learned from must not be what it is measured on. Under the default protocol an
episode is a function of its seed and its actions, so an agent that was trained on a recording with
some seed has seen that very start.
"""

from mgdt_envs.emulator import MAX_SEED

RECORDING_SEED = 0
"""Recordings, collections, and learners that play count up from here."""
EVALUATION_SEED = 1_000_000
"""Evaluations during training, by which settings and checkpoints are chosen."""
BENCHMARK_SEED = 2_000_000
"""The benchmark, whose scores are reported."""

BENCHMARK_SEEDS = range(BENCHMARK_SEED, MAX_SEED + 1)

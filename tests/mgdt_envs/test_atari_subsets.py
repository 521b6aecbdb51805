"""The estimate of the Atari-57 median."""

import math

import numpy as np
import pytest

from mgdt_envs import suite
from mgdt_envs.atari_subsets import SUBSETS, estimate_atari57_median


def test_subsets_are_the_suites():
    for name, subset in SUBSETS.items():
        assert set(subset.coefficients) == set(suite(name))
        assert len(suite(name)) == int("".join(filter(str.isdigit, name)))
    assert set(suite("atari5")) < set(suite("atari10"))
    assert not set(suite("atari3_val")) & set(suite("atari10"))


def test_best_subset_is_taken():
    three, five, ten = (dict.fromkeys(suite(n), 0.5) for n in ("atari3_val", "atari5", "atari10"))
    assert estimate_atari57_median(three | five).subset == "atari5"
    assert estimate_atari57_median(three | ten).subset == "atari10"
    assert estimate_atari57_median(three | {"Pong": 1.0}).subset == "atari3_val"
    assert estimate_atari57_median({"Pong": 1.0}) is None


def test_estimate():
    scores = dict.fromkeys(suite("atari5"), 0.5)
    estimate = estimate_atari57_median(scores)
    power = sum(SUBSETS["atari5"].coefficients.values()) * math.log10(51)
    assert estimate.value == pytest.approx((10**power - 1) / 100)
    factor = 10 ** (1.96 * SUBSETS["atari5"].error)
    assert 100 * estimate.interval[1] + 1 == pytest.approx(10**power * factor)
    assert 100 * estimate.interval[0] + 1 == pytest.approx(10**power / factor)
    # Below the random policy counts as the random policy.
    assert estimate_atari57_median(dict.fromkeys(suite("atari5"), -3.0)).value == 0


def test_noise_of_episodes_widens_the_interval():
    random = np.random.default_rng(0)
    noisy = {game: random.normal(1, 0.8, size=4) for game in suite("atari5")}
    quiet = {game: scores.mean() for game, scores in noisy.items()}
    (low, high), (quiet_low, quiet_high) = (
        estimate_atari57_median(scores).interval for scores in (noisy, quiet)
    )
    assert low < quiet_low < quiet_high < high

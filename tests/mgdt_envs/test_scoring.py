"""Scores, their aggregate and their intervals."""

import numpy as np
import pytest

from mgdt_envs import GAMES, AtariProtocol
from mgdt_envs.scoring import (
    dqn_normalised_score,
    human_normalised_score,
    iqm,
    iqm_interval,
    mean_interval,
    reason_without_score,
)


def test_human_normalised_score():
    assert human_normalised_score("Pong", -20.7) == 0
    assert human_normalised_score("Pong", 14.6) == 1
    assert human_normalised_score("pong", 21) == pytest.approx(41.7 / 35.3)
    scores = human_normalised_score("Breakout", [[1.7, 30.5], [16.1, 59.3]])
    np.testing.assert_allclose(scores, [[0, 1], [0.5, 2]])


def test_dqn_normalised_score():
    assert dqn_normalised_score("Pong", -20.7) == 0
    assert dqn_normalised_score("Pong", 16.6097) == 1
    # A game where DQN scores below the random policy is still a line through both.
    assert dqn_normalised_score("Carnival", 4784.8411) == 1


def test_scores_without_reference():
    without = [game.name for game in GAMES if not game.has_human_reference]
    assert len(without) == 5
    for name in without:
        with pytest.raises(ValueError, match=f"{name} has no published human score"):
            human_normalised_score(name, 1.0)
    for name in ("Defender", "Surround"):
        with pytest.raises(ValueError, match=f"DQN Replay does not hold {name}"):
            dqn_normalised_score(name, 1.0)
    with pytest.raises(ValueError, match="Unknown game 'Pang'"):
        human_normalised_score("Pang", 1.0)


def test_reason_without_score():
    assert reason_without_score("Pong", AtariProtocol()) is None
    assert reason_without_score("AirRaid", AtariProtocol()) == (
        "AirRaid has no published human score"
    )
    assert "lost life" in reason_without_score("Pong", AtariProtocol(life_loss_ends=True))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7], 7),
        ([1, 2, 6], 3),  # a quarter of three is less than one value
        ([100, 2, 3, -50], 2.5),
        ([1, 2, 3, 4, 1000], 3),
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),
        ([[0, 10, 20, 30], [1, 11, 21, 31]], 15.5),  # 10, 11, 20, 21
    ],
)
def test_iqm(scores, expected):
    assert iqm(scores) == pytest.approx(expected)


def test_iqm_needs_a_score():
    with pytest.raises(ValueError, match="at least one score, got none"):
        iqm([])


def test_iqm_is_rliables():
    metrics = pytest.importorskip("rliable.metrics")
    random = np.random.default_rng(0)
    for shape in ((1, 7), (3, 41), (5, 26)):
        scores = random.lognormal(size=shape)
        assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))


def test_mean_interval_is_the_normal_one_for_many_episodes():
    scores = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = mean_interval(scores)
    half = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)
    narrow = mean_interval(scores, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_intervals_depend_on_the_seed_alone():
    scores = np.random.default_rng(0).normal(size=20)
    assert mean_interval(scores) == mean_interval(scores)
    assert mean_interval(scores, seed=1) != mean_interval(scores)


def test_iqm_interval_resamples_within_games():
    # No game has any noise, so there is none, however far the games lie apart.
    constant = {f"game {value}": [value] * 5 for value in range(8)}
    assert iqm_interval(constant) == (3.5, 3.5)
    # Noise in the games that the interquartile mean drops does not count.
    noisy = constant | {"game 7": [100, 0, 300, 50], "game 0": [-9, 0, -7]}
    assert iqm_interval(noisy) == (3.5, 3.5)
    noisy = constant | {"game 3": [2.5, 3.5, 2.5, 3.5]}
    low, high = iqm_interval(noisy)
    assert 3.375 <= low < 3.5 < high <= 3.625


def test_iqm_interval_covers():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        episodes = {str(game): random.normal(1, 1, size=20) for game in range(4)}
        low, high = iqm_interval(episodes, resamples=300, seed=trial)
        covered += low <= 1 <= high
    assert 85 <= covered <= 100


def test_one_episode_shows_no_noise():
    assert np.isnan(mean_interval([3.0])).all()
    assert np.isnan(iqm_interval({"Pong": [1.0, 2.0], "Breakout": [1.0]})).all()


@pytest.mark.parametrize(
    ("episodes", "confidence", "message"),
    [
        ({}, 0.95, r"at least one episode, got \[\]"),
        ({"Pong": []}, 0.95, r"at least one episode, got \[\(0,\)\]"),
        ({"Pong": [[1.0]]}, 0.95, r"at least one episode, got \[\(1, 1\)\]"),
        ({"Pong": [1.0, 2.0]}, 95, r"confidence must be in \(0, 1\), got 95"),
    ],
)
def test_refused_episodes(episodes, confidence, message):
    with pytest.raises(ValueError, match=message):
        iqm_interval(episodes, confidence=confidence)

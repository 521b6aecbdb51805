"""Aggregates over games and their intervals, against rliable and against what theory says."""

from functools import partial

import numpy as np
import pytest

from mgdt_envs.aggregates import (
    AGGREGATES,
    interval_over_episodes,
    interval_over_runs,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

SHAPES = [(1, 7), (3, 41), (5, 26), (10, 2)]


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


def test_other_aggregates():
    scores = [[0.0, 0.5, 4.0], [0.5, 0.75, 6.0]]
    assert mean(scores) == pytest.approx(11.75 / 6)
    assert median(scores) == pytest.approx(0.625)  # of the games' means 0.25, 0.625, 5
    assert optimality_gap(scores) == pytest.approx(1 - 3.75 / 6)
    assert optimality_gap(scores, target=0.5) == pytest.approx(0.5 - 2.5 / 6)
    assert performance_profile(scores, [-1, 0, 0.5, 6]).tolist() == [1, 5 / 6, 0.5, 0]


def test_probability_of_improvement():
    assert probability_of_improvement([[1.0], [3.0]], [[0.0], [2.0], [3.0]]) == pytest.approx(
        (1 + 2.5) / 6  # above 0; above 0 and 2, equal to 3
    )
    # Two games: X always better in one, always worse in the other.
    assert probability_of_improvement([[2.0, 0.0]], [[1.0, 1.0], [0.0, 2.0]]) == 0.5
    scores = np.random.default_rng(0).normal(size=(4, 5))
    assert probability_of_improvement(scores, scores) == 0.5
    with pytest.raises(ValueError, match="got 5 and 4 games"):
        probability_of_improvement(scores, scores[:, :4])


@pytest.mark.parametrize("metric", AGGREGATES.values())
def test_leading_axes_are_kept(metric):
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    values = metric(scores)
    assert values.shape == (2, 3)
    assert values[1, 2] == metric(scores[1, 2])
    assert metric(scores[0, 0, 0]) == metric(scores[0, 0, :1])  # games alone are one run


@pytest.mark.parametrize("metric", AGGREGATES.values())
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "at least one score, got none"),
        (np.empty((0, 3)), "at least one score, got none"),
        ([[1.0, np.nan]], "finite scores"),
    ],
)
def test_refused_scores(metric, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(scores)
    with pytest.raises(ValueError, match=message):
        interval_over_runs(metric, scores)


@pytest.mark.parametrize("shape", SHAPES)
def test_aggregates_are_rliables(shape):
    metrics = pytest.importorskip("rliable.metrics")
    scores = np.random.default_rng(0).lognormal(size=shape)
    for name, metric in AGGREGATES.items():
        expected = getattr(metrics, f"aggregate_{name}")(scores)
        assert metric(scores) == pytest.approx(expected), name


@pytest.mark.parametrize("runs_y", [1, 3, 7])
def test_probability_of_improvement_is_rliables(runs_y):
    metrics = pytest.importorskip("rliable.metrics")
    random = np.random.default_rng(0)
    # Whole numbers, so that there are ties.
    x, y = random.integers(4, size=(5, 20)), random.integers(5, size=(runs_y, 20))
    expected = metrics.probability_of_improvement(x, y)
    assert probability_of_improvement(x, y) == pytest.approx(expected)


def test_performance_profile_is_rliables():
    library = pytest.importorskip("rliable.library")
    scores = np.random.default_rng(0).lognormal(size=(5, 26)).round(1)
    thresholds = np.arange(0, 30) / 10
    expected = library.score_distributions(scores, thresholds)
    np.testing.assert_allclose(performance_profile(scores, thresholds), expected)


def test_intervals_over_runs_are_rliables():
    library = pytest.importorskip("rliable.library")
    random = np.random.default_rng(0)
    x = random.lognormal(size=(5, 26))
    y = random.lognormal(0.2, size=(4, 26))
    profile = partial(performance_profile, thresholds=[0.5, 1.0, 2.0])
    cases = [*((metric, (x,)) for metric in AGGREGATES.values())]
    cases += [(profile, (x,)), (probability_of_improvement, (x, y))]
    for metric, scores in cases:
        # The bootstrap of rliable draws from numpy's global stream.
        np.random.seed(0)  # noqa: NPY002
        # A list of arrays is what it resamples independently.
        argument = list(scores) if len(scores) > 1 else scores[0]
        _, expected = library.get_interval_estimates(
            {"": argument}, lambda *drawn, metric=metric: np.atleast_1d(metric(*drawn)), reps=2000
        )
        interval = interval_over_runs(metric, *scores, resamples=20_000)
        width = np.diff(expected[""], axis=0).max()
        np.testing.assert_allclose(
            np.reshape(interval, expected[""].shape), expected[""], atol=0.1 * width
        )


def test_interval_over_runs_is_the_normal_one_for_many_runs():
    random = np.random.default_rng(0)
    # The games differ far more than the runs; resampling within games does not see it.
    scores = np.array([0.0, 10.0, 50.0]) + random.normal(0, 1, size=(400, 3))
    low, high = interval_over_runs(mean, scores)
    half = 1.96 * np.sqrt((scores.var(axis=0) / 400).sum()) / 3
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_interval_over_runs_covers():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        low, high = interval_over_runs(
            mean, random.normal(1, 1, size=(10, 5)), resamples=300, seed=trial
        )
        covered += low <= 1 <= high
    assert 85 <= covered <= 100


def test_interval_of_a_comparison_resamples_both():
    random = np.random.default_rng(0)
    x, y = random.normal(0.5, 1, size=(6, 10)), random.normal(0, 1, size=(3, 10))
    low, high = interval_over_runs(probability_of_improvement, x, y)
    assert low < probability_of_improvement(x, y) < high
    # Runs of Y that are all alike leave less to vary.
    alike = np.repeat(y.mean(axis=0, keepdims=True), 3, axis=0)
    narrow = interval_over_runs(probability_of_improvement, x, alike)
    assert np.diff(narrow) < high - low


def test_interval_over_episodes_is_the_normal_one_for_many_episodes():
    scores = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = interval_over_episodes(mean, {"Pong": scores})
    half = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)
    narrow = interval_over_episodes(mean, {"Pong": scores}, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_over_episodes_resamples_within_games():
    # No game has any noise, so there is none, however far the games lie apart.
    constant = {f"game {value}": [value] * 5 for value in range(8)}
    assert interval_over_episodes(iqm, constant).tolist() == [3.5, 3.5]
    # Noise in the games that the interquartile mean drops does not count.
    noisy = constant | {"game 7": [100, 90, 110, 95], "game 0": [-9, -8, -7]}
    assert interval_over_episodes(iqm, noisy).tolist() == [3.5, 3.5]
    noisy = constant | {"game 3": [2.5, 3.5] * 8}
    low, high = interval_over_episodes(iqm, noisy)
    # A quarter of the noise of the one game: it is one of the four in the middle.
    error = np.std([2.5, 3.5] * 8, ddof=1) / np.sqrt(16) / 4
    assert 1.8 * error < 3.5 - low < 2.7 * error
    assert 1.8 * error < high - 3.5 < 2.7 * error


def test_interval_over_episodes_of_two_agents():
    x = {"Pong": [1.0, 3.0, 2.0], "Breakout": [50.0, 52.0]}
    y = {"Breakout": [1.0, 2.0, 3.0], "Pong": [90.0, 88.0]}  # another order of the games
    assert interval_over_episodes(probability_of_improvement, x, y).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"same games for all agents.*'Breakout', 'Pong'.*'Pong'"):
        interval_over_episodes(probability_of_improvement, x, {"Pong": [1.0, 2.0]})


def test_interval_over_episodes_of_several_runs():
    random = np.random.default_rng(0)
    # Each run plays another game well: the middle half of all scores is far below that of means.
    means = 3.0 * np.eye(3, 4)
    x = {str(game): random.normal(means[:, game, None], 0.1, size=(3, 8)) for game in range(4)}
    y = {game: random.normal(0.5, 0.1, size=(1, 8)) for game in x}
    runs = [
        np.stack([scores.mean(axis=1) for scores in agent.values()], axis=1) for agent in (x, y)
    ]

    def difference(x, y):
        return iqm(x) - iqm(y)

    low, high = interval_over_episodes(difference, x, y)
    assert low < difference(*runs) < high < 0
    alone = {game: scores[0] for game, scores in y.items()}
    assert interval_over_episodes(difference, x, alone).tolist() == [low, high]
    # Of the mean each run is a column as any other.
    columns = {(game, run): scores for game in x for run, scores in enumerate(x[game])}
    expected = interval_over_episodes(mean, columns)
    np.testing.assert_allclose(interval_over_episodes(mean, x), expected, atol=0.02)
    with pytest.raises(ValueError, match=r"as many runs in each game, got \[\(3, 8\), \(1, 8\)\]"):
        interval_over_episodes(mean, {"Pong": x["0"], "Breakout": y["0"]})


def coverage(metric, num_games, num_episodes, trials, resamples=300):
    """Return how often an interval covers, where games differ much and scores are exponential."""
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(trials):
        means = random.lognormal(0, 1, size=num_games)
        scores = random.exponential(means, size=(num_episodes, num_games))
        episodes = {str(game): scores[:, game] for game in range(num_games)}
        low, high = interval_over_episodes(metric, episodes, resamples=resamples, seed=trial)
        covered += low <= metric(means) <= high
    return covered / trials


@pytest.mark.parametrize("metric", [iqm, mean, optimality_gap])
def test_interval_over_episodes_covers(metric):
    assert coverage(metric, num_games=8, num_episodes=16, trials=100, resamples=200) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("num_games", "trials"), [(8, 2000), (57, 400)])
@pytest.mark.parametrize("metric", [iqm, mean, optimality_gap])
def test_interval_over_episodes_covers_exactly(metric, num_games, trials):
    # Of 2,000 trials the share has a standard error of 0.005.
    assert coverage(metric, num_games, num_episodes=16, trials=trials, resamples=1000) >= 0.93


def test_interval_of_rare_scores():
    # One of 16 episodes scored. Clopper and Pearson's interval of 1 in 16 is 0.002 to 0.302.
    low, high = interval_over_episodes(mean, {"Venture": [0.0] * 15 + [1.0]})
    assert low < 1 / 16
    assert high == pytest.approx(0.302, abs=0.05)


@pytest.mark.parametrize(
    ("interval", "scores"),
    [
        (interval_over_runs, np.arange(12.0).reshape(3, 4)),
        (interval_over_episodes, {"Pong": np.arange(20.0)}),
    ],
)
def test_intervals_depend_on_the_seed_alone(interval, scores):
    assert interval(mean, scores).tolist() == interval(mean, scores).tolist()
    assert interval(mean, scores, seed=1).tolist() != interval(mean, scores).tolist()


def test_one_run_or_episode_has_no_interval():
    profile = partial(performance_profile, thresholds=[0.5, 1.0, 2.0])
    many = [[1.0, 2.0], [3.0, 4.0]]
    assert np.isnan(interval_over_runs(iqm, [[1.0, 2.0]])).tolist() == [True, True]
    assert np.isnan(interval_over_runs(probability_of_improvement, many, many[:1])).all()
    assert interval_over_runs(profile, [[1.0, 2.0]]).shape == (2, 3)
    episodes = {"Pong": [1.0, 2.0], "Breakout": [1.0]}
    assert np.isnan(interval_over_episodes(iqm, episodes)).tolist() == [True, True]
    assert interval_over_episodes(profile, episodes).shape == (2, 3)


def test_refused_intervals():
    runs, episodes = np.ones((2, 3)), {"Pong": [1.0, 2.0]}
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        interval_over_runs(mean, runs, confidence=95)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        interval_over_episodes(mean, episodes, resamples=0)
    with pytest.raises(ValueError, match=r"\(runs, games\), got \[\(1, 2, 3\)\]"):
        interval_over_runs(mean, runs[None])
    for wrong, shapes in (
        ({}, r"\[\]"),
        ({"Pong": []}, r"\[\(0,\)\]"),
        ({"Pong": [[[1.0]]]}, r"\[\(1, 1, 1\)\]"),
    ):
        with pytest.raises(ValueError, match=f"at least one episode, got {shapes}"):
            interval_over_episodes(mean, wrong)
    with pytest.raises(ValueError, match="finite scores"):
        interval_over_episodes(mean, {"Pong": [1.0, np.nan]})

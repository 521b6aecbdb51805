"""Aggregates of normalized scores over games, and intervals that say how sure they are.

The aggregates are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv 2108.13264). The games are fixed. Two kinds of interval answer
different questions:

- *runs*, `interval_over_runs`: what would other training runs of the same method score? Scores are
  (runs, games), as in rliable, one row for each trained agent. The interval is that paper's: the
  percentiles of a bootstrap that resamples runs within each game.
- *episodes*, `interval_over_episodes`: how exactly were these very agents measured? Scores are
  (episodes,) by game, or (runs, episodes), all of one agent, of which each run's score in a game is
  its mean over episodes. Percentiles would not cover here; see there.

The second is usually narrower, and says nothing about the first.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mgdt_envs.errors import InvalidArgument

CONFIDENCE = 0.95
"""Probability that an interval is to cover the value, unless another is asked for."""
RESAMPLES = 2000
"""Bootstrap samples of an interval, unless another number is asked for."""
FEWEST_EPISODES = 8
"""With fewer episodes of a game, `interval_over_episodes` covers less than it says where scores are
skewed; docs/benchmark.md has the simulation."""
TRIMMED = 0.25  # of the scores, at each end
_INNER_RESAMPLES = 16  # of each bootstrap sample
_LEAST_ERROR = 0.25  # of a bootstrap sample, as a fraction of the scores' own standard error

# Of scores (..., runs, games), possibly of several agents; the leading axes are the result's.
Metric = Callable[..., NDArray[np.float64]]


def mean(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the mean of all scores.

    Args:
        scores: normalized scores, (games,) or (..., runs, games).

    Returns:
        float64 of the shape of the axes before the last two; here and below.

    Raises:
        ValueError: if there is no score, or one is not finite; here and below.
    """
    return _with_runs(scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the median over games of their mean over runs.

    Args:
        scores: normalized scores, (games,) or (..., runs, games).
    """
    return np.median(_with_runs(scores).mean(axis=-2), axis=-1)


def iqm(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the interquartile mean: the mean of the middle half of the scores of all runs.

    A quarter of the values is dropped at each end, rounded down, as in rliable.

    Args:
        scores: normalized scores, (games,) or (..., runs, games).
    """
    values = _with_runs(scores)
    values = np.sort(values.reshape(*values.shape[:-2], -1))
    cut = int(TRIMMED * values.shape[-1])
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> NDArray[np.float64]:
    """Return how far the scores fall short of `target` in the mean; those above it count as it.

    Args:
        scores: normalized scores, (games,) or (..., runs, games).
        target: the score to reach; 1 is the human's.
    """
    return target - np.minimum(_with_runs(scores), target).mean(axis=(-2, -1))


AGGREGATES: dict[str, Metric] = {
    "iqm": iqm,
    "mean": mean,
    "median": median,
    "optimality_gap": optimality_gap,
}


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Return which fraction of the scores of all runs lies above each threshold.

    Args:
        scores: normalized scores, (games,) or (..., runs, games).
        thresholds: (n,).

    Returns:
        (..., n) float64.

    Example:
        The profile of three runs in four games, and its interval over runs:

        >>> from functools import partial
        >>> from mgdt_envs.aggregates import interval_over_runs, performance_profile
        >>> scores = [[0.1, 0.4, 0.8, 2.0], [0.2, 0.4, 1.2, 2.0], [0.3, 0.4, 0.8, 3.0]]
        >>> profile = partial(performance_profile, thresholds=[0.25, 0.5, 1.0])
        >>> profile(scores)
        array([0.83333333, 0.5       , 0.33333333])
        >>> low, high = interval_over_runs(profile, scores)
        >>> low, high
        (array([0.75, 0.5 , 0.25]), array([1. , 0.5, 0.5]))
    """
    values = _with_runs(scores)
    above = [(values > threshold).mean(axis=(-2, -1)) for threshold in np.asarray(thresholds)]
    return np.stack(above, axis=-1)


def probability_of_improvement(scores_x: ArrayLike, scores_y: ArrayLike) -> NDArray[np.float64]:
    """Return how probably a run of X scores more than a run of Y, in the mean over games.

    Equal scores count half, as in the Mann-Whitney statistic.

    Args:
        scores_x: scores of X, normalized or not, (games,) or (..., runs of X, games).
        scores_y: scores of Y in the same games, (games,) or (..., runs of Y, games).
    """
    x, y = _with_runs(scores_x), _with_runs(scores_y)
    if x.shape[-1] != y.shape[-1]:
        raise InvalidArgument(
            f"Expected scores of X and of Y in the same games, got {x.shape[-1]} and "
            f"{y.shape[-1]} games"
        )
    x, y = x[..., :, None, :], y[..., None, :, :]
    pairs = (-3, -2, -1)
    return ((x > y).mean(axis=pairs) + (x >= y).mean(axis=pairs)) / 2


def interval_over_runs(
    metric: Metric,
    *scores: ArrayLike,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return an interval of `metric` for other training runs of the same methods.

    Args:
        metric: a function of this module, or one like them.
        scores: (runs, games) for each argument of `metric`; they are resampled independently,
            and may differ in their number of runs.
        confidence: probability that such intervals are to cover the value, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        (2, ...) float64, the lower and the upper end; all NaN if there is a single run of a
        method, which shows no variance.

    Raises:
        ValueError: if there is no score, one is not finite, or an option is out of its range.

    Example:
        >>> from mgdt_envs.aggregates import interval_over_runs, iqm
        >>> scores = [[0.1, 0.4, 0.8, 2.0], [0.2, 0.4, 1.2, 2.0], [0.3, 0.4, 0.8, 3.0]]
        >>> low, high = interval_over_runs(iqm, scores)
        >>> bool(low < iqm(scores) < high)
        True
    """
    _check_options(confidence, resamples)
    arrays = [_with_runs(values) for values in scores]
    shapes = [values.shape for values in arrays]
    if any(len(shape) != 2 for shape in shapes):
        raise InvalidArgument(f"Expected scores of shape (runs, games), got {shapes}")
    if any(runs == 1 for runs, _ in shapes):
        return _no_interval(metric, *arrays)
    random = np.random.default_rng(seed)
    samples = [
        values[random.integers(len(values), size=(resamples, *values.shape)), np.arange(games)]
        for values, (_, games) in zip(arrays, shapes, strict=True)
    ]
    return _percentiles(metric(*samples), confidence)


def interval_over_episodes(
    metric: Metric,
    *episodes_by_game: Mapping[str, ArrayLike],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return an interval of `metric` for the agents' scores over infinitely many episodes.

    It is evaluation noise, not training variance. `metric` gets the mean score of each of the
    agent's runs in each game.

    Percentiles of a bootstrap would be off: noise spreads the games' means, which shifts an IQM, a
    median or an optimality gap (the worst mean looks worse than it is, the best one better), and
    resampling adds the same shift once more. So the shift is estimated by the bootstrap and taken
    off (Efron and Tibshirani 1993, chapter 10), the standard error is that of the corrected value,
    by a second bootstrap within the first, and the interval is studentized (chapter 12.5), which
    follows skewed scores. The correction counts as uncertain by its own size.

    Args:
        metric: a function of this module, or one like them.
        episodes_by_game: for each argument of `metric` the score of each episode, (episodes,) or
            (runs, episodes), by game; all of the same games. They are resampled independently, and
            games may differ in their number of episodes, arguments in their number of runs.
        confidence: probability that such intervals are to cover the value, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        (2, ...) float64, the lower and the upper end; all NaN if a game has a single episode,
        which shows no noise.

    Raises:
        ValueError: if there is no game, a game has no episode, a score is not finite, the games
            of the agents differ, an agent's games differ in their number of runs, or an option is
            out of its range.

    Example:
        >>> from mgdt_envs.aggregates import interval_over_episodes, mean
        >>> low, high = interval_over_episodes(mean, {"Pong": [-21.0, -19.0, -20.0, -20.0]})
        >>> bool(low < -20 < high)
        True
    """
    _check_options(confidence, resamples)
    if len({frozenset(episodes) for episodes in episodes_by_game}) > 1:
        games = [sorted(episodes) for episodes in episodes_by_game]
        raise InvalidArgument(f"Expected episodes of the same games for all agents, got {games}")
    agents = [
        [np.asarray(episodes[game], np.float64) for game in episodes_by_game[0]]
        for episodes in episodes_by_game
    ]
    shapes = [values.shape for scores in agents for values in scores]
    if not shapes or any(len(shape) not in (1, 2) or 0 in shape for shape in shapes):
        raise InvalidArgument(
            f"Expected (episodes,) or (runs, episodes) scores of at least one episode, got {shapes}"
        )
    agents = [[np.atleast_2d(values) for values in scores] for scores in agents]
    if any(len({len(values) for values in scores}) > 1 for scores in agents):
        raise InvalidArgument(
            f"Expected an agent's scores of as many runs in each game, got {shapes}"
        )
    # Columns are the games of the first agent's first run, of its next runs, then those of the
    # second agent, and so on.
    columns = [values for scores in agents for run in zip(*scores, strict=True) for values in run]
    runs = [len(scores[0]) for scores in agents]
    ends = np.cumsum(runs)[:-1] * len(agents[0])

    def value(columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the metric of (..., columns), with the leading axes in front of its own."""
        parts = zip(np.split(columns, ends, axis=-1), runs, strict=True)
        return metric(*(part.reshape(*part.shape[:-1], number, -1) for part, number in parts))

    means = np.array([values.mean() for values in columns])
    if 1 in map(len, columns):
        return _no_interval(value, means)
    random = np.random.default_rng(seed)
    resampled = [random.choice(values, (resamples, len(values))) for values in columns]
    errors = np.array([_standard_errors(values) for values in columns])
    sampled_means = np.stack([values.mean(axis=1) for values in resampled], axis=-1)
    sampled_errors = np.stack([_standard_errors(values) for values in resampled], axis=-1)

    half = random.normal(size=(_INNER_RESAMPLES // 2, resamples, len(columns)))
    noise = np.concatenate([half, -half]) * sampled_errors
    sampled = value(sampled_means)
    shift = sampled.mean(axis=0) - value(means)
    # The corrected value, and what it would be of each sample.
    center = value(means) - shift
    corrected = 2 * sampled - value(sampled_means + noise).mean(axis=0)
    # A bootstrap's variance falls short by (n - 1) / n.
    fewest = min(map(len, columns))
    error = corrected.std(axis=0) * np.sqrt(fewest / (fewest - 1))
    low, high = _studentized(
        corrected,
        sampled_means - means,
        np.maximum(sampled_errors, _LEAST_ERROR * errors),
        confidence,
    )
    width = np.hypot(error, shift)
    return np.stack([center - high * width, center - low * width])


def _with_runs(scores: ArrayLike) -> NDArray[np.float64]:
    """Return `scores` as (..., runs, games); scores of games alone are of one run."""
    values = np.asarray(scores, np.float64)
    if values.size == 0:
        raise InvalidArgument("Expected at least one score, got none")
    if not np.isfinite(values).all():
        raise InvalidArgument(
            "Expected finite scores, got NaN or infinity; leave out runs or games without a score"
        )
    return np.atleast_2d(values)


def _standard_errors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of the mean over the last axis."""
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])


def _studentized(
    sampled: NDArray[np.float64],
    deviations: NDArray[np.float64],
    errors: NDArray[np.float64],
    confidence: float,
) -> NDArray[np.float64]:
    """Return between how many standard errors a metric's deviations lie, (2, ...).

    The metric is taken as linear in the means, with the slopes that the samples show.

    Args:
        sampled: the metric of bootstrap samples, (resamples, ...).
        deviations: of the samples' means from the means, (resamples, columns).
        errors: standard errors of the samples' means, (resamples, columns).
        confidence: probability that the deviations lie between.
    """
    centered = deviations - deviations.mean(axis=0)
    variances = (centered**2).mean(axis=0)
    flat = sampled.reshape(len(sampled), -1)
    covariances = centered.T @ (flat - flat.mean(axis=0)) / len(flat)
    slopes = np.divide(
        covariances,
        variances[:, None],
        out=np.zeros_like(covariances),
        where=variances[:, None] > 0,
    )
    noise = np.sqrt(errors**2 @ slopes**2)
    studentized = np.divide(deviations @ slopes, noise, out=np.zeros_like(noise), where=noise > 0)
    return _percentiles(studentized.reshape(sampled.shape), confidence)


def _check_options(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise InvalidArgument(f"confidence must be in (0, 1), got {confidence}")
    if resamples < 1:
        raise InvalidArgument(f"resamples must be at least 1, got {resamples}")


def _percentiles(samples: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """Return the ends between which the middle `confidence` of the samples lie."""
    tail = (1 - confidence) / 2
    return np.quantile(samples, [tail, 1 - tail], axis=0)


def _no_interval(metric: Metric, *scores: ArrayLike) -> NDArray[np.float64]:
    """Return NaN for both ends, of the shape that an interval of `metric` has."""
    return np.full((2, *np.shape(metric(*scores))), np.nan)

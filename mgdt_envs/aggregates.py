"""Aggregates of normalised scores over games, and intervals that say how sure they are.

The aggregates are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv 2108.13264), and so are the intervals: percentiles of a bootstrap
that resamples within each game. The games are fixed. Two things can be resampled, and they answer
different questions:

- *runs*, `interval_over_runs`: what would other training runs of the same method score? Scores are
  (runs, games), as in rliable, one row for each trained agent.
- *episodes*, `interval_over_episodes`: how exactly were these very agents measured? Scores are
  (episodes,) by game, all of one agent, whose score in a game is its mean over episodes.

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
TRIMMED = 0.25  # of the scores, at each end

# Of scores (..., runs, games), possibly of several agents; the leading axes are the result's.
Metric = Callable[..., NDArray[np.float64]]


def mean(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the mean of all scores.

    Args:
        scores: normalised scores, (games,) or (..., runs, games).

    Returns:
        float64 of the shape of the axes before the last two; here and below.

    Raises:
        ValueError: if there is no score, or one is not finite; here and below.
    """
    return _with_runs(scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the median over games of their mean over runs.

    Args:
        scores: normalised scores, (games,) or (..., runs, games).
    """
    return np.median(_with_runs(scores).mean(axis=-2), axis=-1)


def iqm(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the interquartile mean: the mean of the middle half of the scores of all runs.

    A quarter of the values is dropped at each end, rounded down, as in rliable.

    Args:
        scores: normalised scores, (games,) or (..., runs, games).
    """
    values = _with_runs(scores)
    values = np.sort(values.reshape(*values.shape[:-2], -1))
    cut = int(TRIMMED * values.shape[-1])
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> NDArray[np.float64]:
    """Return how far the scores fall short of `target` in the mean; those above it count as it.

    Args:
        scores: normalised scores, (games,) or (..., runs, games).
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
        scores: normalised scores, (games,) or (..., runs, games).
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
        scores_x: scores of X, normalised or not, (games,) or (..., runs of X, games).
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
    """Return an interval of `metric` for other episodes of the same trained agents.

    It is evaluation noise, not training variance. `metric` gets the agent's mean score in each
    game as its only run.

    Args:
        metric: a function of this module, or one like them.
        episodes_by_game: for each argument of `metric` the score of each episode, (episodes,),
            by game; all of the same games. They are resampled independently, and games may
            differ in their number of episodes.
        confidence: probability that such intervals are to cover the value, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        (2, ...) float64, the lower and the upper end; all NaN if a game has a single episode,
        which shows no noise.

    Raises:
        ValueError: if there is no game, a game has no episode, a score is not finite, the games
            of the agents differ, or an option is out of its range.

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
    if not shapes or any(len(shape) != 1 or shape == (0,) for shape in shapes):
        raise InvalidArgument(f"Expected (episodes,) scores of at least one episode, got {shapes}")
    if (1,) in shapes:
        return _no_interval(metric, *([values.mean() for values in scores] for scores in agents))
    random = np.random.default_rng(seed)
    samples = [
        np.stack([_resampled_means(values, resamples, random) for values in scores], axis=-1)
        for scores in agents
    ]
    return _percentiles(metric(*(means[:, None, :] for means in samples)), confidence)


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


def _resampled_means(
    values: NDArray[np.float64], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean of each bootstrap sample of `values`, (n,) -> (resamples,)."""
    return values[random.integers(len(values), size=(resamples, len(values)))].mean(axis=1)


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

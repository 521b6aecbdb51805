"""Normalised scores, their aggregate over games, and intervals of evaluation noise.

The interquartile mean and the stratified bootstrap are those of Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).

The intervals here resample *episodes*. They say how exactly the given agents were measured,
which is evaluation noise; they say nothing about how much another training run would differ.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mgdt_envs import games
from mgdt_envs.protocol import AtariProtocol

TRIMMED = 0.25  # of the scores, at each end


def reason_without_score(game: str, protocol: AtariProtocol) -> str | None:
    """Return why an episode's return has no human-normalised score, `None` if it has one."""
    if not games.game(game).has_human_reference:
        return f"{game} has no published human score"
    if protocol.life_loss_ends:
        return "the protocol ends episodes at a lost life, and human scores are of whole games"
    return None


def human_normalised_score(game: str, score: ArrayLike) -> NDArray[np.float64]:
    """Return 0 for the uniformly random policy's score and 1 for the human's.

    Args:
        game: name of the game.
        score: raw score of whole games, of any shape.

    Returns:
        float64 of the shape of `score`.

    Raises:
        ValueError: if the game has no published human score.
    """
    entry = games.game(game)
    if not entry.has_human_reference:
        raise ValueError(
            f"{entry.name} has no published human score, so its scores cannot be normalised by "
            'one; the suite "atari57" is the games that have one'
        )
    return (np.asarray(score, np.float64) - entry.random) / (entry.human - entry.random)


def dqn_normalised_score(game: str, score: ArrayLike) -> NDArray[np.float64]:
    """Return 0 for the uniformly random policy's score and 1 for DQN's that recorded DQN Replay.

    Args:
        game: name of the game.
        score: raw score of whole games, of any shape.

    Returns:
        float64 of the shape of `score`.

    Raises:
        ValueError: if DQN Replay does not hold the game.
    """
    entry = games.game(game)
    if entry.dqn is None:
        raise ValueError(
            f"DQN Replay does not hold {entry.name}, so its scores cannot be normalised by DQN's; "
            'the suite "dqn_replay60" is the games that it holds'
        )
    return (np.asarray(score, np.float64) - entry.random) / (entry.dqn - entry.random)


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of all `scores`.

    A quarter of the values is dropped at each end, rounded down, as in rliable.

    Args:
        scores: normalised scores of any shape, such as (runs, games).

    Raises:
        ValueError: if there is no score.
    """
    values = np.asarray(scores, np.float64).reshape(-1)
    if values.size == 0:
        raise ValueError("Expected at least one score, got none")
    return float(_iqm_of_rows(values[None])[0])


def _iqm_of_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the interquartile mean of each row of `values`, (rows, n) -> (rows,)."""
    cut = int(TRIMMED * values.shape[1])
    return np.sort(values, axis=1)[:, cut : values.shape[1] - cut].mean(axis=1)


def mean_interval(
    scores: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return a bootstrap interval of the mean score of one agent in one game.

    It is the percentile interval over resampled episodes: evaluation noise, not training
    variance.

    Args:
        scores: score of each episode, (episodes,).
        confidence: probability that such intervals are to cover the mean, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        The lower and the upper end; both NaN for a single episode, which shows no noise.

    Raises:
        ValueError: if there is no episode, or `confidence` is not in (0, 1).
    """
    return iqm_interval({"": scores}, confidence=confidence, resamples=resamples, seed=seed)


def iqm_interval(
    episodes_by_game: Mapping[str, ArrayLike],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a stratified bootstrap interval of the interquartile mean over games.

    Episodes are resampled within each game; each sample is the interquartile mean of the games'
    mean scores. The games are fixed, and so is the agent: this is evaluation noise, not training
    variance, for which runs would have to be resampled.

    Args:
        episodes_by_game: normalised score of each episode, (episodes,), by game.
        confidence: probability that such intervals are to cover the value, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        The lower and the upper end; both NaN if a game has a single episode, which shows no
        noise.

    Raises:
        ValueError: if there is no game, a game has no episode, or `confidence` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    games_scores = [np.asarray(scores, np.float64) for scores in episodes_by_game.values()]
    shapes = [scores.shape for scores in games_scores]
    if not shapes or any(len(shape) != 1 or shape == (0,) for shape in shapes):
        raise ValueError(f"Expected (episodes,) scores of at least one episode, got {shapes}")
    if (1,) in shapes:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    means = np.empty((resamples, len(games_scores)))
    for column, scores in enumerate(games_scores):
        drawn = random.integers(len(scores), size=(resamples, len(scores)))
        means[:, column] = scores[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_iqm_of_rows(means), [tail, 1 - tail])
    return float(low), float(high)

"""Normalized scores: what a game's own points are worth beside the random policy's and a human's.

Aggregates over games and their intervals are in `mgdt_envs.aggregates`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mgdt_envs import games
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AtariProtocol

HUMAN_MAX_FRAMES = 108_000
"""Emulator frames that the games of the human references lasted at most (dqn_zoo,
`dqn_zoo/atari_data.py`). Scores of games that are cut earlier are not quite comparable."""


class HumanNormalized(NamedTuple):
    """Human-normalized scores of the games that have them, and the games that have none."""

    scores: dict[str, NDArray[np.float64]]
    """By game, in the order and the shapes given."""
    left_out: dict[str, str]
    """Why each of the other games has none, by game."""


def reason_without_score(
    game: str,
    protocol: AtariProtocol,
    *,
    self_played: bool = False,
    may_be_cut: bool = True,
) -> str | None:
    """Return why an episode's return has no human-normalized score, `None` if it has one.

    Args:
        game: name of the game.
        protocol: the rules that the episode was played by.
        self_played: whether a score that is not published serves as the human's.
        may_be_cut: whether episodes count that the protocol cuts before `HUMAN_MAX_FRAMES`.
    """
    if not (games.game(game).has_human_reference or self_played):
        return f"{game} has no published human score"
    if protocol.life_loss_ends:
        return "the protocol ends episodes at a lost life, and human scores are of whole games"
    if protocol.max_frames < HUMAN_MAX_FRAMES and not may_be_cut:
        return (
            f"the protocol cuts episodes at {protocol.max_frames:,} frames, and human scores are "
            f"of games of up to {HUMAN_MAX_FRAMES:,}"
        )
    return None


def human_normalized_score(
    game: str, score: ArrayLike, *, self_played: bool = False
) -> NDArray[np.float64]:
    """Return 0 for the uniformly random policy's score and 1 for the human's.

    Args:
        game: name of the game.
        score: raw score of whole games, of any shape.
        self_played: take the score that the authors of Atari-PB reached themselves where no
            human score is published; see `mgdt_envs.games`.

    Returns:
        float64 of the shape of `score`.

    Raises:
        ValueError: if the game has no published human score.
    """
    entry = games.game(game)
    if not (entry.has_human_reference or self_played):
        raise InvalidArgument(
            f"{entry.name} has no published human score, so its scores cannot be normalized by "
            'one; the suite "atari57" is the games that have one'
        )
    return (np.asarray(score, np.float64) - entry.random) / (entry.human - entry.random)


def human_normalized_scores(
    scores_by_game: Mapping[str, ArrayLike],
    protocol: AtariProtocol | None = None,
    *,
    self_played: bool = False,
) -> HumanNormalized:
    """Return the human-normalized scores of many games, without the games that have none.

    Args:
        scores_by_game: raw scores of whole games, such as of each run or of each episode, by
            the game's name.
        protocol: the rules that they were played by; `AtariProtocol()` by default.
        self_played: keep the games whose human score is not published; see
            `human_normalized_score`.

    Returns:
        By the game's name, float64 arrays of the shapes given, and why games are left out.

    Raises:
        ValueError: for a game that is unknown.

    Example:
        >>> from mgdt_envs.scoring import human_normalized_scores
        >>> scores, left_out = human_normalized_scores(
        ...     {"Pong": [-3.05, 14.6], "Pooyan": [900.0, 700.0], "Breakout": [1.7, 16.1]}
        ... )
        >>> np.stack(list(scores.values()), axis=-1)  # (runs, games)
        array([[0.5, 0. ],
               [1. , 0.5]])
        >>> left_out
        {'Pooyan': 'Pooyan has no published human score'}
    """
    protocol = protocol or AtariProtocol()
    normalized = HumanNormalized({}, {})
    for game, scores in scores_by_game.items():
        reason = reason_without_score(game, protocol, self_played=self_played)
        if reason is None:
            normalized.scores[game] = human_normalized_score(game, scores, self_played=self_played)
        else:
            normalized.left_out[game] = reason
    return normalized


def dqn_normalized_score(game: str, score: ArrayLike) -> NDArray[np.float64]:
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
        raise InvalidArgument(
            f"DQN Replay does not hold {entry.name}, so its scores cannot be normalized by DQN's; "
            'the suite "dqn_replay60" is the games that it holds'
        )
    return (np.asarray(score, np.float64) - entry.random) / (entry.dqn - entry.random)

"""Normalized scores."""

import numpy as np
import pytest

from mgdt_envs import GAMES, AtariProtocol
from mgdt_envs.scoring import (
    dqn_normalized_score,
    human_normalized_score,
    human_normalized_scores,
    reason_without_score,
)


def test_human_normalized_score():
    assert human_normalized_score("Pong", -20.7) == 0
    assert human_normalized_score("Pong", 14.6) == 1
    assert human_normalized_score("pong", 21) == pytest.approx(41.7 / 35.3)
    scores = human_normalized_score("Breakout", [[1.7, 30.5], [16.1, 59.3]])
    np.testing.assert_allclose(scores, [[0, 1], [0.5, 2]])


def test_dqn_normalized_score():
    assert dqn_normalized_score("Pong", -20.7) == 0
    assert dqn_normalized_score("Pong", 16.6097) == 1
    # A game where DQN scores below the random policy is still a line through both.
    assert dqn_normalized_score("Carnival", 4784.8411) == 1


def test_scores_without_reference():
    without = [game.name for game in GAMES if not game.has_human_reference]
    assert len(without) == 5
    for name in without:
        with pytest.raises(ValueError, match=f"{name} has no published human score"):
            human_normalized_score(name, 1.0)
    for name in ("Defender", "Surround"):
        with pytest.raises(ValueError, match=f"DQN Replay does not hold {name}"):
            dqn_normalized_score(name, 1.0)
    with pytest.raises(ValueError, match="Unknown game 'Pang'"):
        human_normalized_score("Pang", 1.0)


def test_self_played_reference():
    assert human_normalized_score("Pooyan", [371.2, 3004.3], self_played=True).tolist() == [0, 1]
    assert human_normalized_score("Pong", -20.7, self_played=True) == 0
    assert reason_without_score("Pooyan", AtariProtocol(), self_played=True) is None


def test_reason_without_score():
    assert reason_without_score("Pong", AtariProtocol()) is None
    assert reason_without_score("AirRaid", AtariProtocol()) == (
        "AirRaid has no published human score"
    )
    assert "lost life" in reason_without_score("Pong", AtariProtocol(life_loss_ends=True))


def test_scores_of_many_games():
    raw = {entry.name: np.array([entry.random, entry.human]) for entry in GAMES}
    normalized = human_normalized_scores(raw)
    assert len(normalized.scores) == 57
    for game, scores in normalized.scores.items():
        assert scores.tolist() == [0, 1], game
    assert normalized.left_out == {
        game: f"{game} has no published human score"
        for game in ("AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan")
    }
    everything = human_normalized_scores(raw, self_played=True)
    assert list(everything.scores) == list(raw)
    assert everything.left_out == {}
    lives = human_normalized_scores(raw, AtariProtocol(life_loss_ends=True), self_played=True)
    assert lives.scores == {}
    assert list(lives.left_out) == list(raw)

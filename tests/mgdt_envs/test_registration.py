"""Games from outside the package."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import registry

from mgdt_envs import Game, MultiGameAtariEnv, game, games, register_game, suite
from mgdt_envs.errors import InvalidArgument

FROGGER = Game(
    "Frogger", "frogger", 0.0, 1.0, "self-played", None, (0, 2, 3, 4, 5), "excluded", "not_recorded"
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Begin with the package's games, and forget what a test registers."""
    own = {entry.name: entry for entry in games.GAMES}
    loose = {key: entry for entry in own.values() for key in (entry.name.lower(), entry.rom)}
    monkeypatch.setattr(games, "_BY_NAME", own)
    monkeypatch.setattr(games, "_BY_LOOSE_NAME", loose)
    yield
    registry.pop("MultiGameAtari/Frogger-v0", None)


def test_a_game_from_outside_the_package():
    with pytest.raises(ValueError, match="Unknown game"):
        game("frogger")
    register_game(FROGGER)
    assert game("frogger") is FROGGER
    assert "Frogger" not in suite("all")
    env = gym.make("MultiGameAtari/Frogger-v0")
    observation, info = env.reset(seed=0)
    assert info["game"] == "Frogger"
    # The table's actions are the emulator's, so both environments play alike.
    vector = gym.make_vec("MultiGameAtari/Frogger-v0", num_envs=1)
    batch, _ = vector.reset(seed=0)
    for action in (2, 5, 17, 2) * 10:
        np.testing.assert_array_equal(batch[0], observation)
        observation = env.step(action)[0]
        batch = vector.step(np.array([action]))[0]
    assert MultiGameAtariEnv(["Pong", "frogger"]).games == ("Pong", "Frogger")


def test_games_that_cannot_be():
    with pytest.raises(InvalidArgument, match=r"no ROM 'frogge'. Did you mean 'frogger'"):
        register_game(Game("Frog", "frogge", *_rest()))
    with pytest.raises(InvalidArgument, match="name or ROM 'Pong' already"):
        register_game(Game("Pong", "frogger", *_rest()))
    with pytest.raises(InvalidArgument, match="name or ROM 'pong' already"):
        register_game(Game("Pong2", "pong", *_rest((0, 1, 3, 4, 11, 12))))
    with pytest.raises(InvalidArgument, match=r"suite of the name 'Bundled' already"):
        register_game(Game("Bundled", "frogger", *_rest()))
    with pytest.raises(InvalidArgument, match=r"minimal actions \(0, 2, 3, 4, 5\), got \(0, 2\)"):
        register_game(Game("Frog", "frogger", *_rest((0, 2))))
    with pytest.raises(InvalidArgument, match=r"other scores of a human .* got 1.0 for both"):
        register_game(dataclasses.replace(FROGGER, random=1.0, human_source="dqn_zoo"))
    assert "MultiGameAtari/Pong2-v0" not in registry
    for name in ("My Frogger", "a/b", ""):
        with pytest.raises(InvalidArgument, match=f"name of letters, digits.*got '{name}'"):
            register_game(dataclasses.replace(FROGGER, name=name))
    register_game(dataclasses.replace(FROGGER, minimal_actions=[0, 2, 3, 4, 5]))
    assert game("frogger") == FROGGER


def _rest(actions=(0, 2, 3, 4, 5)):
    return (0.0, 1.0, "self-played", None, actions, "excluded", "not_recorded")

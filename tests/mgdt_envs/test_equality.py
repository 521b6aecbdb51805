"""The single and the vector environment play the same: pixels, rewards, ends, infos."""

import dataclasses

import numpy as np
import pytest

from mgdt_envs import GAMES, PROTOCOLS, AtariProtocol, MultiGameAtariEnv, MultiGameAtariVectorEnv

NUM_STEPS = 500


def ends_of_same_play(name, protocol, *, seed=3, num_steps=NUM_STEPS):
    """Play random actions in both environments and return the number of episodes' ends."""
    single = MultiGameAtariEnv(name, protocol)
    vector = MultiGameAtariVectorEnv(1, name, protocol)
    observation, info = single.reset(seed=seed)
    observations, infos = vector.reset(seed=seed)
    random = np.random.default_rng(seed)
    done, ends = False, 0
    for step in range(num_steps):
        assert np.array_equal(observation, observations[0]), step
        for key in ("game", "lives", "frame_number", "episode_frame_number"):
            assert info[key] == infos[key][0], (step, key)
        action = random.integers(18)
        observations, rewards, terminations, truncations, infos = vector.step([action])
        if done:
            (observation, info), outcome = single.reset(), (0.0, False, False)
        else:
            observation, *outcome, info = single.step(action)
        assert tuple(outcome) == (rewards[0], terminations[0], truncations[0]), step
        done = outcome[1] or outcome[2]
        assert ("episode" in info) == ("episode" in infos) == done
        if done:
            ends += 1
            for key in ("r", "l"):
                assert info["episode"][key] == infos["episode"][key][0]
            hns = info["episode"].get("hns", np.nan)
            assert np.array_equal(hns, infos["episode"]["hns"][0], equal_nan=True)
    vector.close()
    return ends


@pytest.mark.parametrize("name", ["Pong", "Breakout", "Freeway", "Asterix", "Carnival"])
def test_default_protocol(name):
    steps = 1000 if name == "Pong" else NUM_STEPS
    ends = ends_of_same_play(name, AtariProtocol(), num_steps=steps)
    # Freeway's and Carnival's games are longer.
    assert (ends > 0) == (name in {"Pong", "Breakout", "Asterix"})


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("Freeway", {"max_frames": 501}),  # truncated in the middle of a skip
        ("Breakout", {"noop_max": 30, "max_frames": 200}),  # many draws of no-ops
        ("Breakout", {"noop_max": 30, "fire_reset": True, "life_loss_ends": True}),
        ("Breakout", {"outside_action": "native", "fire_reset": True}),
        ("Riverraid", {"jpeg": True, "sticky": 0.0, "max_frames": 400}),
        ("Pong", {"frame_skip": 1, "stack": 2, "screen_size": 96}),
        ("Breakout", {"frame_skip": 3, "max_pool": False, "max_frames": 100}),
    ],
    ids=str,
)
def test_switches(name, switches):
    ends = ends_of_same_play(name, AtariProtocol(**switches), seed=11)
    assert ends > 0 or name == "Pong"


@pytest.mark.parametrize("protocol", ["mgdt_release", "nature", "machado"])
def test_named_protocols(protocol):
    limited = dataclasses.replace(PROTOCOLS[protocol], max_frames=201)
    assert ends_of_same_play("Freeway", limited, num_steps=120) == 2


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["default", "nature"])
@pytest.mark.parametrize("name", [game.name for game in GAMES])
def test_every_game(name, protocol):
    # Every game ends at least once, some in the middle of a skip. Under "nature" the console
    # gets all 18 actions and up to 30 no-ops; the default has sticky actions.
    outside_action = {"default": "noop", "nature": "native"}[protocol]
    played = dataclasses.replace(
        PROTOCOLS[protocol], max_frames=1201, outside_action=outside_action
    )
    assert ends_of_same_play(name, played) >= 1

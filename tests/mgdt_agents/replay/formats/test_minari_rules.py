"""Game and protocol from the specifications of environments."""

from dataclasses import replace

import ale_py
import gymnasium as gym
import pytest
from gymnasium.spaces import Discrete
from gymnasium.wrappers import (
    AtariPreprocessing,
    ClipReward,
    FrameStackObservation,
    GrayscaleObservation,
    MaxAndSkipObservation,
    TimeLimit,
)

import mgdt_envs
from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.formats.minari_rules import NO_LIMIT, recorded_rules
from mgdt_envs import AtariProtocol

gym.register_envs(ale_py)
gym.register_envs(mgdt_envs)

V5 = AtariProtocol(max_pool=False)
PONG_ACTIONS = [0, 1, 3, 4, 11, 12]


def rules_of(*wrappers, env_id="ALE/Pong-v5", **kwargs):
    env = gym.make(env_id, **kwargs)
    for wrapper in wrappers:
        env = wrapper(env)
    # As it is read from a data set.
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    rules = recorded_rules(spec, env.action_space)
    env.close()
    return rules


@pytest.mark.parametrize(
    ("kwargs", "protocol"),
    [
        ({}, V5),
        (
            {"repeat_action_probability": 0, "max_episode_steps": 500},
            replace(V5, sticky=0.0, max_frames=2000),
        ),
        ({"max_episode_steps": 100_000}, V5),
        ({"env_id": "PongNoFrameskip-v4"}, replace(V5, sticky=0.0, frame_skip=1)),
        ({"max_num_frames_per_episode": None}, replace(V5, max_frames=NO_LIMIT)),
    ],
)
def test_ale(kwargs, protocol):
    rules = rules_of(**kwargs)
    assert rules.game.name == "Pong"
    assert rules.protocol == protocol
    assert rules.action_ids.tolist() == PONG_ACTIONS
    assert rules.notes == ()
    assert not rules.rewards_clipped


def test_ale_with_all_actions_and_another_mode():
    rules = rules_of(full_action_space=True, mode=1, difficulty=0)
    assert rules.protocol == replace(V5, outside_action="native")
    assert rules.action_ids.tolist() == list(range(18))
    assert rules.notes == ("mode 1", "difficulty 0")


def test_preprocessing():
    def preprocess(env):
        return AtariPreprocessing(env, noop_max=30, terminal_on_life_loss=True)

    def stack(env):
        return FrameStackObservation(env, 3)

    def limit(env):
        return TimeLimit(env, 1000)

    def clip(env):
        return ClipReward(env, -1, 1)

    rules = rules_of(preprocess, stack, limit, clip, env_id="PongNoFrameskip-v4")
    assert rules.protocol == AtariProtocol(
        sticky=0.0, noop_max=31, life_loss_ends=True, stack=3, max_frames=4000
    )
    assert rules.notes == (
        "a reset presses NOOP at least once, and up to 30 times",
        "the limit of 1000 steps may be one of 1000 frames",
    )
    assert rules.rewards_clipped


def test_other_wrappers():
    rules = rules_of(GrayscaleObservation, MaxAndSkipObservation, frameskip=2)
    assert rules.protocol == AtariProtocol(frame_skip=8)
    assert rules.notes == ()
    unknown = gym.envs.registration.WrapperSpec("Invert", "my:Invert", None)
    spec = replace(gym.spec("ALE/Pong-v5"), additional_wrappers=(unknown,))
    assert recorded_rules(spec, Discrete(6)).notes == ("wrapped in Invert",)


def test_suite():
    protocol = AtariProtocol(sticky=0.0, screen_size=96, max_frames=400)
    rules = rules_of(env_id="MultiGameAtari/Boxing-v0", protocol=protocol.to_dict())
    assert (rules.game.name, rules.protocol) == ("Boxing", protocol)
    assert rules.action_ids.tolist() == list(range(18))
    rules = rules_of(env_id="MultiGameAtari-v0", games=["Krull"], max_episode_steps=10)
    assert (rules.game.name, rules.protocol) == ("Krull", AtariProtocol(max_frames=40))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env_id": "CartPole-v1"}, r"Atari play, .* found CartPole-v1 \(gymnasium"),
        ({"env_id": "Pong-v4"}, r"fixed number of frames a step, found Pong-v4, .* \[2, 5\]"),
        ({"env_id": "MultiGameAtari-v0"}, "data set of one game, found 57"),
        ({"env_id": "ALE/Tetris-v5"}, "Unknown game 'tetris'"),
        ({"continuous": True}, r"Expected actions Discrete\(6\) of ALE/Pong-v5, found Box"),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        rules_of(**kwargs)


def test_nothing_is_known():
    with pytest.raises(ReplayError, match="neither its game nor its rules are known"):
        recorded_rules(None, Discrete(6))

"""The single environment: Gymnasium's contract, its own promises, its errors."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from mgdt_envs import GAMES, AtariProtocol, MultiGameAtariEnv

IDS = ["MultiGameAtari-v0", *(f"MultiGameAtari/{game.name}-v0" for game in GAMES)]
QUICK = {"MultiGameAtari-v0", "MultiGameAtari/AirRaid-v0", "MultiGameAtari/Pong-v0"}
FREEWAY_UP = 2
FREEWAY_UP_RIGHT = 6  # outside Freeway's minimal set; the console takes it for up
SHORT = AtariProtocol(max_frames=40)
"""Ten agent steps an episode."""


def play(env, actions, **reset):
    """Return the observations, (steps + 1, ...), the rewards and the last info of `actions`."""
    observation, info = env.reset(**reset)
    observations, rewards = [observation], []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), rewards, info


def test_every_id_is_registered():
    assert len(IDS) == 63
    registered = {name for name in gym.registry if name.startswith("MultiGameAtari")}
    assert registered == set(IDS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "env_id",
    [pytest.param(env_id, marks=() if env_id in QUICK else pytest.mark.slow) for env_id in IDS],
)
def test_checkers(env_id):
    env = gym.make(env_id).unwrapped
    check_env(env)
    check_env_sb3(env)


def test_every_id_is_of_its_game():
    for env_id, entry in zip(IDS[1:], GAMES, strict=True):
        assert gym.make(env_id).unwrapped.games == (entry.name,)


def test_spec_survives_json():
    env = gym.make("MultiGameAtari-v0", games=["Pong", "Breakout"], protocol=SHORT)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert again.protocol == SHORT
    assert again.games == ("Pong", "Breakout")
    named = gym.make("MultiGameAtari/Pong-v0", protocol="machado").unwrapped
    assert named.protocol == AtariProtocol.machado()


def test_stack_is_zero_padded_and_oldest_first():
    env = MultiGameAtariEnv("Pong")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4, 84, 84)
    assert observation.dtype == np.uint8
    assert not observation[:3].any()
    assert observation[3].any()
    for step in range(1, 6):
        before = observation
        observation, *_ = env.step(0)
        assert np.array_equal(observation[:3], before[1:])
        assert [frame.any() for frame in observation] == [step >= 3, step >= 2, step >= 1, True]


def test_observations_are_the_callers_to_keep():
    env = MultiGameAtariEnv("Pong")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second, *_ = env.step(0)
    assert np.array_equal(first, kept)
    second[:] = 7
    third, *_ = env.step(0)
    assert not (third[2] == 7).all()


def test_seed_repeats_an_episode_of_a_drawn_game():
    actions = np.random.default_rng(0).integers(18, size=30)
    env = MultiGameAtariEnv(["Pong", "Breakout", "Freeway"])
    first = play(env, actions, seed=5)
    for name in env.games:  # leaves every emulator elsewhere
        play(env, actions, options={"game": name})
    again = play(env, actions, seed=5)
    assert np.array_equal(first[0], again[0])
    assert first[2] == again[2]
    # What follows an episode depends on the seed too, whatever was played before.
    other = MultiGameAtariEnv(["Pong", "Breakout", "Freeway"])
    play(other, actions, seed=5)
    for _ in range(4):
        mine, theirs = play(env, actions), play(other, actions)
        assert mine[2] == theirs[2]
        assert np.array_equal(mine[0], theirs[0])


def test_every_game_is_drawn():
    env = MultiGameAtariEnv(["Pong", "Breakout"])
    names = [env.reset(seed=0)[1]["game"]] + [env.reset()[1]["game"] for _ in range(15)]
    assert set(names) == {"Pong", "Breakout"}


def test_named_game_plays_as_it_does_alone():
    actions = [1, 3, 4] * 10
    many = MultiGameAtariEnv(["Pong", "Breakout"])
    named = play(many, actions, seed=3, options={"game": "breakout"})
    alone = play(MultiGameAtariEnv("Breakout"), actions, seed=3)
    assert named[2]["game"] == "Breakout"
    assert np.array_equal(named[0], alone[0])


def test_unseeded_reset_goes_on_with_the_random_stream():
    actions = np.random.default_rng(0).integers(18, size=60)
    env = MultiGameAtariEnv("Breakout")
    first, *_ = play(env, actions, seed=1)
    second, *_ = play(env, actions)
    assert not np.array_equal(first, second)
    assert env.step(0)[-1]["frame_number"] > env.step(0)[-1]["episode_frame_number"]


@pytest.mark.parametrize(("sticky", "same"), [(0.0, True), (0.25, False)])
def test_sticky_actions_depend_on_the_seed(sticky, same):
    actions = np.random.default_rng(0).integers(18, size=60)
    env = MultiGameAtariEnv("Pong", AtariProtocol(sticky=sticky))
    one, *_ = play(env, actions, seed=1)
    other, *_ = play(env, actions, seed=2)
    assert np.array_equal(one, other) == same


@pytest.mark.parametrize(("outside_action", "as_action"), [("noop", 0), ("native", FREEWAY_UP)])
def test_action_outside_the_minimal_set(outside_action, as_action):
    env = MultiGameAtariEnv("Freeway", AtariProtocol(sticky=0, outside_action=outside_action))
    outside, *_ = play(env, [FREEWAY_UP_RIGHT] * 20, seed=0)
    noop, *_ = play(env, [0] * 20, seed=0)
    up, *_ = play(env, [FREEWAY_UP] * 20, seed=0)
    assert not np.array_equal(noop, up)
    assert np.array_equal(outside, {0: noop, FREEWAY_UP: up}[as_action])


def test_truncation_and_the_statistics_of_the_episode():
    env = MultiGameAtariEnv("Boxing", AtariProtocol(max_frames=2000))
    env.reset(seed=0)
    random = np.random.default_rng(0)
    score, terminated, truncated, steps = 0.0, False, False, 0
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(random.integers(18))
        assert isinstance(reward, float)
        assert ("episode" in info) == (terminated or truncated)
        score += reward
        steps += 1
    assert (terminated, truncated, steps) == (False, True, 500)
    assert score != 0
    assert info["episode"]["r"] == score
    assert info["episode"]["l"] == 500
    assert info["episode"]["t"] > 0
    assert info["episode"]["hns"] == pytest.approx((score - 0.1) / (12.1 - 0.1))
    assert info["episode_frame_number"] == 2000


def test_termination_and_rewards_above_one():
    env = MultiGameAtariEnv("Riverraid")
    env.reset(seed=0)
    random = np.random.default_rng(0)
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(random.integers(18))
        rewards.append(reward)
    assert (terminated, truncated) == (True, False)
    assert max(rewards) >= 30
    assert info["lives"] == 0
    assert info["episode"]["r"] == sum(rewards)


def test_no_human_normalized_score_without_a_reference():
    _, _, info = play(MultiGameAtariEnv("AirRaid", SHORT), [0] * 10)
    assert "hns" not in info["episode"]
    assert info["episode"]["hns_missing"] == "AirRaid has no published human score"


def test_life_loss_ends_an_episode_that_is_no_score():
    env = MultiGameAtariEnv("Breakout", AtariProtocol(life_loss_ends=True, sticky=0))
    _, info = env.reset(seed=0)
    assert info["lives"] == 5
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(1)
    assert info["lives"] == 4
    assert "lost life" in info["episode"]["hns_missing"]


def test_render():
    env = gym.make("MultiGameAtari/Pong-v0", render_mode="rgb_array")
    env.reset(seed=0)
    screen = env.render()
    assert screen.shape == (210, 160, 3)
    assert screen.dtype == np.uint8
    assert screen.any()
    assert MultiGameAtariEnv("Pong").render() is None
    assert MultiGameAtariEnv("Pong", AtariProtocol(frame_skip=2)).metadata["render_fps"] == 30


def test_step_needs_an_episode():
    env = MultiGameAtariEnv("Pong", SHORT)
    with pytest.raises(ResetNeeded, match="before the first reset"):
        env.step(0)
    play(env, [0] * 10)
    with pytest.raises(ResetNeeded, match="after the episode's end"):
        env.step(0)
    env.reset()
    env.step(0)


@pytest.mark.parametrize("action", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers_of_any_kind_are_actions(action):
    env = MultiGameAtariEnv("Pong")
    env.reset(seed=0)
    env.step(action)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (18, "integer in 0..17, got 18"),
        (-1, "integer in 0..17, got -1"),
        (1.0, r"integer in 0..17, got 1.0 \(float\)"),
        ("UP", r"integer in 0..17, got 'UP' \(str\)"),
        (np.array([3]), r"integer in 0..17, got array\(\[3\]\) \(ndarray\)"),
        (None, r"integer in 0..17, got None \(NoneType\)"),
    ],
)
def test_refused_actions(action, message):
    env = MultiGameAtariEnv("Pong")
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        env.step(action)
    env.step(0)  # a refused action leaves the episode as it was


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ({"options": {"game": "Freeway"}}, "one of Pong, Breakout; got 'Freeway'"),
        ({"options": {"gmae": "Pong"}}, r"{'game': name}, got \['gmae'\]"),
        ({"seed": -1}, "an integer, at least 0, got -1"),
        ({"seed": 1.0}, "an integer, at least 0, got 1.0"),
    ],
)
def test_refused_resets(reset, message):
    with pytest.raises(ValueError, match=message):
        MultiGameAtariEnv(["Pong", "Breakout"]).reset(**reset)


def test_refused_constructions():
    with pytest.raises(ValueError, match="Unknown game or suite 'Pang'"):
        MultiGameAtariEnv("Pang")
    with pytest.raises(ValueError, match="'rgb_array' or None, got 'ascii'"):
        MultiGameAtariEnv("Pong", render_mode="ascii")


def test_closed():
    env = MultiGameAtariEnv("Pong")
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        env.reset()
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        env.step(0)


def test_a_copy_begins_anew():
    env = MultiGameAtariEnv(["Pong", "Breakout"], AtariProtocol(sticky=0), "rgb_array")
    env.reset(seed=1)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert (other.games, other.protocol) == (env.games, env.protocol)
        assert np.array_equal(other.reset(seed=3)[0], env.reset(seed=3)[0])
        other.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.render()

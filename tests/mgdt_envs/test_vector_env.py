"""The vector environment: the single one's pixels, games side by side, its errors."""

import gymnasium as gym
import numpy as np
import pytest
from ale_py import AtariVectorEnv
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList

from mgdt_envs import GAMES, AtariProtocol, MultiGameAtariEnv, MultiGameAtariVectorEnv, game
from mgdt_envs.vector_env import emulator_arguments, minimal_action_index

NUM_STEPS = 500
SHORT = AtariProtocol(max_frames=40)
"""Ten agent steps an episode."""


def assert_same_play(name, protocol, *, seed=3, num_steps=NUM_STEPS):
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
    return ends


@pytest.mark.parametrize("name", ["Pong", "Breakout", "Freeway", "Asterix", "Carnival"])
def test_single_equals_vector_under_the_default_protocol(name):
    steps = 1000 if name == "Pong" else NUM_STEPS
    ends = assert_same_play(name, AtariProtocol(), num_steps=steps)
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
def test_single_equals_vector_under_other_protocols(name, switches):
    ends = assert_same_play(name, AtariProtocol(**switches), seed=11)
    assert ends > 0 or name == "Pong"


def test_default_is_what_the_emulator_does_with_these_arguments():
    emulator = AtariVectorEnv(
        "seaquest",
        2,
        repeat_action_probability=0.25,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
        full_action_space=True,
    )
    vector = MultiGameAtariVectorEnv(2, "Seaquest")
    assert np.array_equal(emulator.reset(seed=4)[0], vector.reset(seed=4)[0])
    random = np.random.default_rng(0)
    total = 0
    for _ in range(200):
        actions = random.integers(18, size=2)
        expected, rewards, *_ = emulator.step(actions)
        observations, raw, *_ = vector.step(actions)
        assert np.array_equal(observations, expected)
        assert np.array_equal(raw, rewards)
        total += raw.sum()
    assert total >= 20  # Seaquest's smallest reward: none is clipped


def test_games_side_by_side_play_as_they_do_alone():
    vector = MultiGameAtariVectorEnv(5, ["Breakout", "Pong"], num_threads=2)
    assert vector.games_of_envs == ("Breakout", "Breakout", "Breakout", "Pong", "Pong")
    observations, _ = vector.reset(seed=20)
    singles = [MultiGameAtariEnv(name) for name in vector.games_of_envs]
    for row, env in enumerate(singles):
        assert np.array_equal(env.reset(seed=20 + row)[0], observations[row])
    random = np.random.default_rng(0)
    for _ in range(60):
        actions = random.integers(18, size=5)
        observations, rewards, terminated, *_ = vector.step(actions)
        for row, env in enumerate(singles):
            observation, reward, *_ = env.step(actions[row])
            assert np.array_equal(observation, observations[row])
            assert reward == rewards[row]
        assert not terminated.any()


def test_action_mapping():
    index = minimal_action_index(game("Freeway"), AtariProtocol())
    assert index.tolist() == [0, 0, 1, 0, 0, 2] + [0] * 12
    native = minimal_action_index(game("Freeway"), AtariProtocol(outside_action="native"))
    assert native.tolist() == list(range(18))
    for entry in GAMES:
        index = minimal_action_index(entry, AtariProtocol())
        assert index.shape == (18,)
        for action in range(18):
            played = entry.minimal_actions[index[action]]
            assert played == (action if action in entry.minimal_actions else 0)


def test_emulator_arguments_name_every_switch():
    default = emulator_arguments(AtariProtocol())
    for switches in (
        {"sticky": 0.5},
        {"noop_max": 3},
        {"fire_reset": True},
        {"life_loss_ends": True},
        {"frame_skip": 2},
        {"max_pool": False},
        {"max_frames": 10},
        {"screen_size": 10},
        {"stack": 1},
        {"outside_action": "native"},
    ):
        assert emulator_arguments(AtariProtocol(**switches)) != default, switches
    assert emulator_arguments(AtariProtocol(jpeg=True)) == default


def test_autoreset_and_statistics():
    vector = MultiGameAtariVectorEnv(2, ["Boxing", "AirRaid"], SHORT)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    vector.reset(seed=0)
    for episode in range(3):
        for step in range(1, 11):
            observations, rewards, terminated, truncated, infos = vector.step([1, 1])
            assert not terminated.any()
            assert truncated.tolist() == [step == 10] * 2
            assert ("episode" in infos) == (step == 10)
        assert infos["_episode"].tolist() == [True, True]
        assert infos["episode"]["l"].tolist() == [10, 10]
        assert infos["episode"]["hns"][0] == pytest.approx((infos["episode"]["r"][0] - 0.1) / 12.0)
        assert np.isnan(infos["episode"]["hns"][1])
        observations, rewards, _, truncated, infos = vector.step([1, 1])
        assert not observations[:, :3].any(), episode
        assert not rewards.any()
        assert not truncated.any()
        assert "episode" not in infos


def test_infos_have_gymnasiums_vector_form():
    vector = MultiGameAtariVectorEnv(2, ["Pong", "Breakout"], SHORT)
    listed = DictInfoToList(vector)
    _, infos = listed.reset(seed=0)
    assert [info["game"] for info in infos] == ["Pong", "Breakout"]
    assert [info["lives"] for info in infos] == [0, 5]
    # Of the infos of an end it is the mask that counts: before Gymnasium 1.2.2, DictInfoToList
    # fails on nested ones, RecordEpisodeStatistics' own among them.
    for _ in range(10):
        *_, infos = vector.step(np.zeros(2, int))
    assert infos["_episode"].tolist() == [True, True]
    assert infos["episode"]["l"].tolist() == [10, 10]


@pytest.mark.parametrize(
    "protocol", [AtariProtocol(), AtariProtocol(jpeg=True)], ids=["raw", "jpeg"]
)
def test_reset_mask(protocol):
    games, actions = ["Breakout", "Pong", "Freeway"], [3, 3, 4, 4, 2, 2]
    vector = MultiGameAtariVectorEnv(6, games, protocol)
    undisturbed = MultiGameAtariVectorEnv(6, games, protocol)
    vector.reset(seed=0)
    undisturbed.reset(seed=0)
    for _ in range(12):
        before, *_ = vector.step(actions)
        undisturbed.step(actions)
    # One of two Breakouts, no Pong, both Freeways.
    mask = np.array([False, True, False, False, True, True])
    seeds = [None, 71, None, None, 72, 73]
    observations, infos = vector.reset(seed=seeds, options={"reset_mask": mask})
    assert np.array_equal(observations[~mask], before[~mask])
    assert not observations[mask, :3].any()
    assert infos["episode_frame_number"].tolist() == [48, 0, 48, 48, 0, 0]
    fresh = [MultiGameAtariEnv(vector.games_of_envs[row], protocol) for row in (1, 4, 5)]
    for row, env in zip((1, 4, 5), fresh, strict=True):
        assert np.array_equal(env.reset(seed=seeds[row])[0], observations[row])
    for _ in range(12):
        observations, *_ = vector.step(actions)
        expected, *_ = undisturbed.step(actions)
        assert np.array_equal(observations[~mask], expected[~mask])
        for row, env in zip((1, 4, 5), fresh, strict=True):
            assert np.array_equal(env.step(actions[row])[0], observations[row])


def test_reset_mask_restarts_the_statistics():
    vector = MultiGameAtariVectorEnv(2, "Pong", SHORT)
    vector.reset(seed=0)
    for _ in range(4):
        vector.step([0, 0])
    vector.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(6):
        *_, infos = vector.step([0, 0])
    assert infos["_episode"].tolist() == [False, True]
    assert infos["episode"]["l"].tolist() == [0, 10]
    # A reset between an episode's end and its autoreset takes the place of the latter.
    vector.reset(options={"reset_mask": np.array([False, True])})
    for _ in range(10):
        *_, truncated, infos = vector.step([0, 0])
    assert truncated[1]
    assert infos["episode"]["l"][1] == 10


def test_seeds():
    vector = MultiGameAtariVectorEnv(2, "Pong")

    def frames(**reset):
        vector.reset(**reset)
        return np.stack([vector.step([2 + step % 2, 2 + step % 2])[0] for step in range(40)])

    first = frames(seed=1)
    assert not np.array_equal(first[:, 0], first[:, 1])
    assert not np.array_equal(frames(), first)
    assert np.array_equal(frames(seed=1), first)
    assert np.array_equal(frames(seed=np.array([2, 1]))[:, ::-1], first)


@pytest.mark.parametrize("seed", [None, [None, None]])
def test_unseeded_environments_differ(seed):
    vector = MultiGameAtariVectorEnv(2, "Pong")
    vector.reset(seed=seed)
    frames = np.stack([vector.step([2 + step % 2] * 2)[0] for step in range(40)])
    assert not np.array_equal(frames[:, 0], frames[:, 1])


def test_returned_arrays_are_the_callers_to_keep():
    vector = MultiGameAtariVectorEnv(1, "Pong", AtariProtocol(jpeg=True))
    first, infos = vector.reset(seed=0)
    kept = first.copy()
    second, *_ = vector.step([0])
    assert np.array_equal(first, kept)
    assert infos["frame_number"][0] == 0
    second[:] = 7
    third, *_ = vector.step([0])
    assert not (third[0, 2] == 7).all()


def test_make_vec():
    vector = gym.make_vec("MultiGameAtari-v0", num_envs=3, games=["Pong", "Breakout"])
    assert isinstance(vector, MultiGameAtariVectorEnv)
    assert vector.games_of_envs == ("Pong", "Pong", "Breakout")
    assert vector.single_action_space.n == 18
    observations, _ = vector.reset(seed=0)
    assert vector.observation_space.contains(observations)
    assert gym.make_vec("MultiGameAtari/Hero-v0", num_envs=2).games_of_envs == ("Hero", "Hero")
    assert MultiGameAtariVectorEnv(games=["Pong", "Hero"]).num_envs == 2


def test_max_episode_steps():
    vector = MultiGameAtariVectorEnv(1, "Pong", max_episode_steps=5)
    vector.reset(seed=0)
    assert [bool(vector.step([0])[3][0]) for _ in range(6)] == [False] * 4 + [True, False]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 0, 0], r"2 integers in 0..17, got int64 of shape \(3,\)"),
        (0, r"2 integers in 0..17, got int64 of shape \(\)"),
        ([0.0, 1.0], r"2 integers in 0..17, got float64 of shape \(2,\)"),
        ([0, 18], r"2 integers in 0..17, got \[0, 18\]"),
        ([-1, 0], r"2 integers in 0..17, got \[-1, 0\]"),
    ],
)
def test_refused_actions(actions, message):
    vector = MultiGameAtariVectorEnv(2, "Pong")
    vector.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        vector.step(actions)
    vector.step([0, 17])  # refused actions leave the episodes as they were


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ({"seed": [1, 2, 3]}, "integer or have 2 entries, got 3"),
        ({"seed": -1}, "0..2147483647, the emulator's range, got -1"),
        ({"seed": 2**31 - 1}, "0..2147483647, the emulator's range, got 2147483648"),
        ({"options": {"game": "Pong"}}, r"{'reset_mask': mask}, got \['game'\]"),
        (
            {"options": {"reset_mask": np.array([True])}},
            r"bool of shape \(2,\), got bool of shape \(1,\)",
        ),
        (
            {"options": {"reset_mask": np.array([1, 0])}},
            r"bool of shape \(2,\), got int64 of shape \(2,\)",
        ),
    ],
    ids=str,
)
def test_refused_resets(reset, message):
    vector = MultiGameAtariVectorEnv(2, "Pong")
    with pytest.raises(ValueError, match=message):
        vector.reset(**reset)


def test_reset_comes_first():
    vector = MultiGameAtariVectorEnv(2, "Pong")
    with pytest.raises(ResetNeeded, match="before the first reset"):
        vector.step([0, 0])
    with pytest.raises(ResetNeeded, match="of every environment, got a reset_mask with 1 of 2"):
        vector.reset(options={"reset_mask": np.array([True, False])})


def test_refused_constructions():
    with pytest.raises(ValueError, match="at least 57, one environment a game, got 1"):
        MultiGameAtariVectorEnv(1)
    with pytest.raises(ValueError, match="render_mode must be None, got 'rgb_array'"):
        MultiGameAtariVectorEnv(1, "Pong", render_mode="rgb_array")


def test_closed():
    vector = MultiGameAtariVectorEnv(2, "Pong")
    vector.reset(seed=0)
    vector.close()
    vector.close()
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        vector.reset()
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        vector.step([0, 0])

"""The vector environment: the single one's pixels, games side by side, its errors."""

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from ale_py import AtariVectorEnv
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList

from mgdt_envs import AtariProtocol, MultiGameAtariEnv, MultiGameAtariVectorEnv, suite

SHORT = AtariProtocol(max_frames=40)
"""Ten agent steps an episode."""
STATM = Path("/proc/self/statm")


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
    vector = MultiGameAtariVectorEnv(3, ["Breakout", "Pong"], num_threads=2)
    assert vector.games_of_envs == ("Breakout", "Breakout", "Pong")
    observations, _ = vector.reset(seed=20)
    singles = [MultiGameAtariEnv(name) for name in vector.games_of_envs]
    for row, env in enumerate(singles):
        assert np.array_equal(env.reset(seed=20 + row)[0], observations[row])
    random = np.random.default_rng(0)
    for _ in range(60):
        actions = random.integers(18, size=3)
        observations, rewards, terminated, *_ = vector.step(actions)
        for row, env in enumerate(singles):
            observation, reward, *_ = env.step(actions[row])
            assert np.array_equal(observation, observations[row])
            assert reward == rewards[row]
        assert not terminated.any()


def assert_same_infos(ours, theirs):
    """Check that all `infos` of Gymnasium's are ours too, and that we have no others."""
    assert {name for name, mask in ours.items() if name[0] == "_" and mask.any()} == {
        name for name in theirs if name[0] == "_"
    }
    for name, mask in theirs.items():
        if name[0] != "_":
            continue
        assert np.array_equal(ours[name], mask), name
        our_values, their_values = ours[name[1:]], theirs[name[1:]]
        if isinstance(their_values, dict):
            assert_same_infos(our_values, their_values)
        elif name == "_final_obs":
            for row in range(len(mask)):
                assert np.array_equal(our_values[row], their_values[row])
        elif name != "_t":  # seconds
            assert np.array_equal(our_values[mask], their_values[mask]), name


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    "protocol",
    [
        AtariProtocol(max_frames=41),
        AtariProtocol(max_frames=90, noop_max=10, jpeg=True),
        AtariProtocol(life_loss_ends=True, max_frames=300),
    ],
    ids=["short", "jpeg", "life loss"],
)
def test_autoreset_is_that_of_gymnasiums_sync_vector_env(protocol, mode):
    games = ["Breakout", "AirRaid", "Breakout", "Pong"]
    vector = MultiGameAtariVectorEnv(
        games="all", protocol=protocol, shares=games, autoreset_mode=mode
    )
    assert vector.metadata["autoreset_mode"] is mode
    sync = SyncVectorEnv(
        [lambda name=name: MultiGameAtariEnv(name, protocol) for name in games],
        autoreset_mode=mode,
    )
    random = np.random.default_rng(0)
    ends = np.zeros(2, int)
    ours, theirs = vector.reset(seed=5), sync.reset(seed=5)
    for step in range(100):
        *our_arrays, our_infos = ours
        *their_arrays, their_infos = theirs
        for mine, expected in zip(our_arrays, their_arrays, strict=True):
            assert mine.dtype == expected.dtype
            assert np.array_equal(mine, expected), step
        if mode is AutoresetMode.SAME_STEP and "final_info" in our_infos:
            # Where Gymnasium's vector RecordEpisodeStatistics puts them.
            assert our_infos["_episode"].tolist() == our_infos["_final_info"].tolist()
            del our_infos["_episode"]
            assert our_infos.pop("episode") is our_infos["final_info"]["episode"]
        assert_same_infos(our_infos, their_infos)
        actions = random.integers(18, size=4)
        ours, theirs = vector.step(actions), sync.step(actions)
        ends += ours[2].sum(), ours[3].sum()
    assert ends[1] > 0
    assert (ends[0] > 0) == protocol.life_loss_ends


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
    games, actions = ["Breakout", "Pong", "Freeway"], [3, 3, 4, 2]
    vector = MultiGameAtariVectorEnv(4, games, protocol)
    undisturbed = MultiGameAtariVectorEnv(4, games, protocol)
    vector.reset(seed=0)
    undisturbed.reset(seed=0)
    for _ in range(12):
        before, *_ = vector.step(actions)
        undisturbed.step(actions)
    # One of two Breakouts, no Pong, all of Freeway.
    mask = np.array([False, True, False, True])
    seeds = [None, 71, None, 72]
    observations, infos = vector.reset(seed=seeds, options={"reset_mask": mask})
    assert np.array_equal(observations[~mask], before[~mask])
    assert not observations[mask, :3].any()
    assert infos["episode_frame_number"].tolist() == [48, 0, 48, 0]
    fresh = [MultiGameAtariEnv(vector.games_of_envs[row], protocol) for row in (1, 3)]
    for row, env in zip((1, 3), fresh, strict=True):
        assert np.array_equal(env.reset(seed=seeds[row])[0], observations[row])
    for _ in range(12):
        observations, *_ = vector.step(actions)
        expected, *_ = undisturbed.step(actions)
        assert np.array_equal(observations[~mask], expected[~mask])
        for row, env in zip((1, 3), fresh, strict=True):
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
    assert np.array_equal(frames(seed=[1, 70])[:, 0], first[:, 0])


@pytest.mark.parametrize("first", [2**31 - 2, 2865704314, 2**32 - 2, 2**63 - 1])
def test_seeds_beyond_the_emulators(first):
    vector = MultiGameAtariVectorEnv(3, "Pong", AtariProtocol(noop_max=31))
    actions = [2 + step % 2 for step in range(40)]
    vector.reset(seed=first)
    rows = np.stack([vector.step([action] * 3)[0] for action in actions])
    vector.reset(seed=[first, None, first + 2])
    again = np.stack([vector.step([action] * 3)[0] for action in actions])
    assert np.array_equal(rows[:, [0, 2]], again[:, [0, 2]])
    for row in range(3):
        single = MultiGameAtariEnv("Pong", AtariProtocol(noop_max=31))
        single.reset(seed=first + row)
        assert np.array_equal([single.step(action)[0] for action in actions], rows[:, row])


@pytest.mark.parametrize("seed", [None, [None] * 4])
def test_unseeded_environments_differ(seed):
    vector = MultiGameAtariVectorEnv(4, "Pong")
    vector.reset(seed=seed)
    frames = np.stack([vector.step([2 + step % 2] * 4)[0] for step in range(40)])
    assert (frames != frames[:, :1]).any()  # two of them can play alike


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


def test_make_vec_passes_everything_on():
    vector = gym.make_vec(
        "MultiGameAtari-v0",
        num_envs=4,
        games=["Pong", "Breakout", "Hero"],
        protocol="nature",
        shares={"Hero": 2},
        autoreset_mode="SameStep",
    )
    assert vector.games_of_envs == ("Pong", "Breakout", "Hero", "Hero")
    assert vector.protocol == AtariProtocol.nature()
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert MultiGameAtariVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(vector.spec.to_json()))
    assert again.games_of_envs == vector.games_of_envs


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
        ({"seed": -1}, "an integer, at least 0, got -1"),
        ({"seed": [0, -1]}, "an integer, at least 0, got -1"),
        ({"seed": 1.0}, "an integer, at least 0, got 1.0"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 1}, "at least 57, one environment a game, got 1"),
        ({"games": []}, "at least one game, got none"),
        ({"games": "Pong", "shares": {"Pang": 2}}, "Unknown game 'Pang'"),
        ({"games": "Pong", "render_mode": "human"}, "'rgb_array' or None, got 'human'"),
        ({"games": "Pong", "autoreset_mode": "Disabled"}, r"\('SameStep'\), got 'Disabled'"),
        ({"games": "Pong", "protocol": "natura"}, "Unknown protocol 'natura'. .*'nature'"),
        ({"games": "Pong", "protocol": {"frame_skip": 0}}, "at least 1, got 0"),
    ],
    ids=str,
)
def test_refused_constructions(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiGameAtariVectorEnv(**arguments)


def test_failure_in_a_thread_of_the_emulators_reaches_the_caller(monkeypatch):
    vector = MultiGameAtariVectorEnv(2, ["Pong", "Breakout"])
    vector.reset(seed=0)
    _, pool = vector._pools[1]
    send = pool.send
    monkeypatch.setattr(pool, "send", lambda actions: send(actions + 18))
    # The thread fails and answers nothing, so recv() would wait; what reset() gets is its failure.
    monkeypatch.setattr(pool, "recv", pool.reset)
    with pytest.raises(IndexError, match="Invalid action_id: 18"):
        vector.step([0, 0])
    # Pong is now a step ahead of Breakout.
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        vector.reset()


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="this system does not say how much memory is used")
def test_memory_does_not_grow():
    vector = MultiGameAtariVectorEnv(games=suite("all")[::4])
    assert vector.num_envs == 16
    random = np.random.default_rng(0)

    def mebibytes_after(num_steps):
        for _ in range(num_steps):
            vector.step(random.integers(18, size=16))
            if random.random() < 0.02:
                seeds = random.integers(2**31, size=16)
                vector.reset(seed=seeds, options={"reset_mask": random.random(16) < 0.3})
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    vector.reset(seed=0)
    before = mebibytes_after(100)
    # 400 batches of observations are 172 MiB.
    assert mebibytes_after(400) - before < 50


def test_closed():
    vector = MultiGameAtariVectorEnv(2, "Pong")
    vector.reset(seed=0)
    vector.close()
    vector.close()
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        vector.reset()
    with pytest.raises(ClosedEnvironmentError, match="closed"):
        vector.step([0, 0])

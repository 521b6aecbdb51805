"""Minari data sets as stores."""

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

import mgdt_envs
from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats import import_recording, importing
from mgdt_agents.replay.formats.minari import MinariRecording
from mgdt_agents.replay.formats.minari_rules import Observations
from mgdt_envs import AtariProtocol

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
from minari.data_collector import EpisodeBuffer  # noqa: E402

gym.register_envs(ale_py)
gym.register_envs(mgdt_envs)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def play(env, num_steps, seed=0):
    """Return an episode of at most `num_steps` random steps, as Minari's collector keeps it."""
    random = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, ends = [observation], [], [], []
    for _ in range(num_steps):
        actions.append(int(random.integers(env.action_space.n)))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
        ends.append((terminated, truncated))
        if terminated or truncated:
            break
    terminated, truncated = zip(*ends, strict=True)
    return EpisodeBuffer(
        observations=np.array(observations),
        actions=np.array(actions),
        rewards=np.array(rewards),
        terminations=np.array(terminated),
        truncations=np.array(truncated),
        infos={},
    )


def create(dataset_id, env, episodes, **options):
    options = {"jpeg_encoding": False} | options
    return minari.create_dataset_from_buffers(dataset_id, episodes, env=env, **options)


@pytest.fixture
def breakout():
    """RGB of the console, three episodes: cut off by a limit, played to its end, cut off."""
    env = gym.make("ALE/Breakout-v5", repeat_action_probability=0.1, max_episode_steps=250)
    episodes = [play(env, 250, seed) for seed in range(6)]
    terminated = [episode for episode in episodes if episode.terminations[-1]]
    env.close()
    env = gym.make("ALE/Breakout-v5", repeat_action_probability=0.1, max_episode_steps=40)
    cut = [play(env, 250, seed) for seed in (7, 8)]
    create("atari/breakout/test-v0", env, [cut[0], terminated[0], cut[1]])
    env.close()
    return [cut[0], terminated[0], cut[1]]


def test_rgb(breakout, tmp_path):
    recording = MinariRecording("atari/breakout/test-v0", games=["breakout"])
    import_recording(recording, tmp_path / "store")
    store = ReplayStore(tmp_path / "store")
    store.verify()
    assert store.game == "Breakout"
    assert store.protocol == AtariProtocol(max_pool=False, sticky=0.1, max_frames=160)
    layout = Observations.of(Box(0, 255, (210, 160, 3), np.uint8), 84)
    frames = [layout.frames(episode.observations[:-1]) for episode in breakout]
    np.testing.assert_array_equal(store.frames[:], np.concatenate(frames))
    actions = np.concatenate([episode.actions for episode in breakout])
    np.testing.assert_array_equal(store.actions, np.array([0, 1, 3, 4])[actions])
    np.testing.assert_array_equal(
        store.rewards, np.concatenate([episode.rewards for episode in breakout])
    )
    assert store.rewards.any()
    lengths = [len(episode.rewards) for episode in breakout]
    np.testing.assert_array_equal(store.episode_lengths, lengths)
    ends = np.cumsum(lengths) - 1
    assert np.flatnonzero(store.terminated).tolist() == [ends[1]]
    assert np.flatnonzero(store.truncated).tolist() == [ends[0], ends[2]]
    source = store.meta["source"]
    assert source["dataset_id"] == "atari/breakout/test-v0"
    assert source["environment"]["id"] == "ALE/Breakout-v5"
    assert "luminance" in source["conversion"]
    assert source["jpeg_observations"] is False


def test_jpeg_is_told(tmp_path):
    env = gym.make("ALE/Pong-v5", max_episode_steps=5)
    create("pong-v0", env, [play(env, 5)], jpeg_encoding=True)
    env.close()
    import_recording(MinariRecording("pong-v0"), tmp_path / "store")
    assert ReplayStore(tmp_path / "store").meta["source"]["jpeg_observations"] is True


def test_stacks_of_preprocessed_frames(tmp_path):
    env = gym.make("ALE/Pong-v5", frameskip=1)
    env = FrameStackObservation(AtariPreprocessing(env), 4)
    episode = play(env, 6)
    episode.truncations[-1] = True
    create("pong-v0", env, [episode])
    env.close()
    import_recording(MinariRecording("pong-v0"), tmp_path / "store")
    store = ReplayStore(tmp_path / "store")
    np.testing.assert_array_equal(store.frames[:], episode.observations[:-1, -1])
    assert store.protocol == AtariProtocol(noop_max=31)
    assert store.meta["source"]["notes"] == [
        "a reset presses NOOP at least once, and up to 30 times"
    ]


def test_play_on_the_suite(tmp_path):
    protocol = AtariProtocol(sticky=0.0, max_frames=48, screen_size=60)
    env = gym.make("MultiGameAtari/Boxing-v0", protocol=protocol.to_dict())
    episode = play(env, 12)
    create("boxing-v0", env, [episode])
    env.close()
    import_recording(MinariRecording("boxing-v0"), tmp_path / "store")
    store = ReplayStore(tmp_path / "store")
    assert (store.game, store.protocol) == ("Boxing", protocol)
    np.testing.assert_array_equal(store.frames[:], episode.observations[:-1, -1])
    np.testing.assert_array_equal(store.actions, episode.actions)
    assert store.truncated[-1]


def store_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_import_goes_on(breakout, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "FLUSH_STEPS", 1)
    import_recording(MinariRecording("atari/breakout/test-v0"), tmp_path / "whole")

    def kill(steps):
        raise KeyboardInterrupt

    output = tmp_path / "store"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            import_recording(MinariRecording("atari/breakout/test-v0"), output, on_steps=kill)
    assert not output.exists()
    first = len(breakout[0].rewards)
    import_recording(MinariRecording("atari/breakout/test-v0"), tmp_path / "a", limit_steps=first)
    assert len(ReplayStore(tmp_path / "a")) == first
    for folder in (output, tmp_path / "a"):
        import_recording(MinariRecording("atari/breakout/test-v0"), folder)
        assert store_bytes(folder) == store_bytes(tmp_path / "whole")


def test_store_of_another_data_set_is_not_touched(breakout, tmp_path):
    import_recording(MinariRecording("atari/breakout/test-v0"), tmp_path / "store")
    before = store_bytes(tmp_path / "store")
    env = gym.make("ALE/Breakout-v5", max_episode_steps=5)
    create("other-v0", env, [play(env, 5)])
    env.close()
    with pytest.raises(ReplayError, match="or a part of this import; found"):
        import_recording(MinariRecording("other-v0"), tmp_path / "store")
    assert store_bytes(tmp_path / "store") == before


@pytest.mark.parametrize("dataset_id", ["pong", "atari/pong", "../pong-v0", "/pong-v0", ""])
def test_ids_that_are_none(dataset_id):
    with pytest.raises(ValueError, match="Expected the id of a Minari data set, with a version"):
        MinariRecording(dataset_id)


def test_missing_data_set(datasets):
    with pytest.raises(ReplayError, match=f"atari/pong-v3 at {datasets}/atari/pong-v3, there is"):
        MinariRecording("atari/pong-v3")


def test_another_game(breakout):
    with pytest.raises(ReplayError, match="expected one of Pong, it is of Breakout"):
        MinariRecording("atari/breakout/test-v0", games=["Pong"])
    with pytest.raises(ValueError, match="Unknown game 'Pnog'"):
        MinariRecording("atari/breakout/test-v0", games=["Pong", "Pnog"])


def test_no_atari():
    env = gym.make("CartPole-v1", max_episode_steps=5)
    create("cartpole-v0", env, [play(env, 5)])
    with pytest.raises(ReplayError, match=r"data set cartpole-v0: Expected a data set of Atari"):
        MinariRecording("cartpole-v0")


def test_no_environment():
    spaces = {
        "observation_space": Box(0, 255, (84, 84), np.uint8),
        "action_space": Discrete(6),
    }
    create("nameless-v0", None, [made_up()], **spaces)
    with pytest.raises(ReplayError, match="neither its game nor its rules are known"):
        MinariRecording("nameless-v0")


def made_up(num_steps=4, **columns):
    """Return an episode of Pong as it is, but for some columns."""
    ends = np.arange(num_steps) == num_steps - 1
    fields = {
        "observations": np.zeros((num_steps + 1, 84, 84), np.uint8),
        "actions": np.zeros(num_steps, np.int64),
        "rewards": np.zeros(num_steps),
        "terminations": ends,
        "truncations": np.zeros(num_steps, bool),
        "infos": {},
    }
    return EpisodeBuffer(**(fields | columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"actions": np.array([0, 6, 0, 0])}, r"Expected actions 0\.\.5 in episode 1 .* 0\.\.6"),
        ({"terminations": np.zeros(4, bool)}, r"episode 1 .*, 3, to end it, .* in steps \[\]"),
        ({"truncations": np.arange(4) == 1}, r"episode 1 .* found ends in steps \[1, 3\]"),
        (
            {"observations": np.zeros((4, 84, 84), np.uint8)},
            r"shapes \[\(5, 84, 84\), .* episode 1",
        ),
        ({"truncations": np.zeros(3, bool)}, r"shapes .* episode 1"),
    ],
)
def test_damaged_episodes(tmp_path, columns, message):
    env = gym.make("ALE/Pong-v5")
    space = Box(0, 255, (84, 84), np.uint8)
    create("pong-v0", env, [made_up(), made_up(**columns)], observation_space=space)
    env.close()
    with pytest.raises(ReplayError, match=message):
        import_recording(MinariRecording("pong-v0"), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_damaged_file(datasets, tmp_path):
    env = gym.make("ALE/Pong-v5")
    create("pong-v0", env, [made_up()], observation_space=Box(0, 255, (84, 84), np.uint8))
    env.close()
    path = datasets / "pong-v0" / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ReplayError, match="Cannot read episode 0 of the Minari data set pong-v0"):
        import_recording(MinariRecording("pong-v0"), tmp_path / "store")
    (path.parent / "metadata.json").write_text("{")
    with pytest.raises(ReplayError, match=f"Cannot read the Minari data set pong-v0 at {datasets}"):
        MinariRecording("pong-v0")

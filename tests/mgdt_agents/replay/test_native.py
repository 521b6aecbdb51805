"""Frames that are not the protocol's screens: against a loop over the emulator by itself."""

import ale_py
import cv2
import numpy as np
import pytest
from ale_py import roms

from mgdt_agents import make_agent
from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.replay import Part, ReplayStore, ReplayWriter, WindowSampler, expand, native
from mgdt_agents.training import TrainingConfig, train
from mgdt_envs import AtariProtocol


def play_alone(trace, env):
    """Yield memory and picture before each step of the first episode of an environment."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.25)
    ale.setInt("random_seed", int(trace.seeds[env]))
    ale.loadROM(roms.get_rom_path("breakout"))
    ale.reset_game()
    picture = ale.getScreenRGB()
    for action in trace.actions[: trace.episode_end_step[env] + 1, env].tolist():
        yield ale.getRAM().copy(), picture
        last = []
        for _ in range(4):
            ale.act(action if action != 17 else 0)
            last.append(ale.getScreenRGB())
        picture = np.maximum(*last[-2:])


@pytest.fixture(scope="module")
def stores(truncated_recording, tmp_path_factory):
    """Stores of the episodes of the first environment, by type."""
    folder = tmp_path_factory.mktemp("native")
    for obs_type in ("protocol", *native.OBS_TYPES):
        part = Part(environments=1)
        expand(truncated_recording.trace, folder / obs_type, part, obs_type=obs_type, num_threads=1)
    return {path.name: ReplayStore(path) for path in folder.iterdir()}


def test_native_gray_resized_is_the_screen(stores):
    native, screens = stores["gray-native"].frames[:], stores["protocol"].frames[:]
    assert native.shape == (len(screens), 210, 160)
    resized = [cv2.resize(frame, (84, 84), interpolation=cv2.INTER_AREA) for frame in native]
    assert np.array_equal(np.stack(resized), screens)


def test_color_and_memory_are_the_emulators(stores, truncated_recording):
    trace = truncated_recording.trace
    memory, pictures = zip(*play_alone(trace, 0), strict=True)
    assert len(memory) == 50
    assert np.array_equal(stores["ram"].frames[:50], np.stack(memory))
    assert np.array_equal(stores["rgb"].frames[:50], np.stack(pictures))


def test_all_else_is_the_same(stores):
    screens = stores["protocol"]
    for obs_type in native.OBS_TYPES:
        store = stores[obs_type]
        assert store.obs_type == obs_type
        assert store.meta["frame_shape"] == list(store.frames.shape[1:])
        assert store.meta["regenerated_with"] == {"ale_py": ale_py.__version__}
        assert store.meta["source"] == screens.meta["source"]
        for name in ("actions", "rewards", "terminated", "truncated", "episode_starts"):
            assert np.array_equal(getattr(store, name), getattr(screens, name)), name
        store.verify()
    assert screens.obs_type == "protocol"
    assert "frame_shape" not in screens.meta


def test_windows(stores):
    batch = WindowSampler([stores["rgb"]], steps=4).sample(8, 0)
    assert batch.frames.shape == (8, 4, 210, 160, 3)
    assert WindowSampler([stores["ram"]], steps=2).sample(3, 0).frames.shape == (3, 2, 128)


def test_agents_learn_from_screens(stores):
    config = TrainingConfig(replay=(stores["ram"].path,), steps=1, mix_protocols=True)
    with pytest.raises(ValueError, match="holds frames as ram, and agents see the screens"):
        train(make_agent("bc", "tiny", device="cpu"), config)


def test_another_type_is_other_play(stores, truncated_recording):
    with pytest.raises(FileExistsError, match="holds other play"):
        expand(truncated_recording.trace, stores["ram"].path, Part(environments=1))
    with pytest.raises(ValueError, match=r"Unknown type 'gray'. Known names: rgb, gray"):
        expand(truncated_recording.trace, stores["ram"].path.with_name("new"), obs_type="gray")


def test_plays_that_differ(truncated_recording, tmp_path, monkeypatch):
    original = native._play_memory

    def play(trace, seeds, actions):
        for frames, rewards in original(trace, seeds, actions):
            yield frames, rewards + 1

    monkeypatch.setattr(native, "_play_memory", play)
    with pytest.raises(TraceDivergedError, match="whose ram is kept diverged at step 0"):
        expand(truncated_recording.trace, tmp_path / "store", obs_type="ram")
    assert list(tmp_path.iterdir()) == []


def test_large_frames_in_many_chunks(tmp_path):
    """Chunks of large frames have fewer of them; a writing that was cut off keeps their shape."""
    frames = np.random.default_rng(0).integers(256, size=(150, 210, 160, 3)).astype(np.uint8)
    further = {"obs_type": "rgb", "frame_shape": [210, 160, 3]}
    arguments = (tmp_path / "store", "Pong", AtariProtocol(), {})
    writer = ReplayWriter(*arguments, further=further)
    writer.add_episode(frames[:90], np.zeros(90, int), np.zeros(90), truncated=False)
    writer.flush()
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with ReplayWriter(*arguments, further=further, resume=True) as writer:
        writer.add_episode(frames[90:], np.zeros(60, int), np.zeros(60), truncated=True)
    store = ReplayStore(tmp_path / "store")
    assert store.frames.chunks[0] < 150
    assert np.array_equal(store.frames[:], frames)
    out = np.empty((70, 210, 160, 3), np.uint8)
    store.read_frames(30, 100, out)
    assert np.array_equal(out, frames[30:100])


def test_shapes_that_do_not_fit(stores, edit_meta, tmp_path):
    path = stores["ram"].path
    edit_meta(path, frame_shape=[210, 160])
    with pytest.raises(ReplayError, match=r"Expected frames of 210x160 in .*, found \(128,\)"):
        ReplayStore(path)
    edit_meta(path, frame_shape=5)
    with pytest.raises(ReplayError, match=r"Expected frame_shape in .* to be a list, found 5"):
        ReplayStore(path)
    edit_meta(path, frame_shape=[128])

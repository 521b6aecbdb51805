"""RLU Atari: what becomes of its episodes, and imports that go on."""

import shutil

import fsspec
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats import import_recording, importing
from tests.mgdt_agents.replay.formats.rlu_shards import (
    MAX_STEPS,
    ORDERED,
    PONG_ACTIONS,
    PROTOCOL,
    encode,
    file_bytes,
    open_run,
    play,
    write_run,
)

pytest.importorskip("google_crc32c")
pytest.importorskip("google.protobuf")

EPISODES = [play(5), play(MAX_STEPS, seed=1), play(1), play(12), play(9), play(7, seed=2)]


@pytest.fixture
def data(tmp_path):
    """A folder of TFDS with the episodes in two checkpoints, of which one has two shards."""
    shards = [encode(*EPISODES[:2]), encode(EPISODES[2])], [encode(*EPISODES[3:])]
    splits = {"checkpoint_01": shards[1], "checkpoint_00": shards[0]}
    write_run(tmp_path / "data", splits)
    return tmp_path / "data"


def assert_store_holds(store, episodes):
    lengths = [len(episode.actions) for episode in episodes]
    assert store.episode_lengths.tolist() == lengths
    assert np.array_equal(store.frames[:], np.concatenate([e.frames for e in episodes]))
    actions = np.concatenate([PONG_ACTIONS[episode.actions] for episode in episodes])
    assert np.array_equal(store.actions, actions)
    assert np.array_equal(store.rewards, np.concatenate([e.rewards for e in episodes]))
    last = np.cumsum(lengths) - 1
    limit = np.array(lengths) == MAX_STEPS
    assert np.flatnonzero(store.truncated).tolist() == last[limit].tolist()
    assert np.flatnonzero(store.terminated).tolist() == last[~limit].tolist()


def test_every_step_of_every_episode(data, tmp_path):
    steps = []
    import_recording(open_run(data, tmp_path), tmp_path / "store", on_steps=steps.append)
    store = ReplayStore(tmp_path / "store")
    store.verify()
    assert_store_holds(store, EPISODES)
    assert steps == np.cumsum([len(episode.actions) for episode in EPISODES]).tolist()
    assert (store.game, store.protocol) == ("Pong", PROTOCOL)
    assert store.meta["source"] == {
        "kind": "rlu",
        "dataset": ORDERED,
        "version": "1.1.0",
        "path": str(data / ORDERED / "Pong_run_1" / "1.1.0"),
        "run": 1,
        "episodes": 6,
        "max_episode_steps": MAX_STEPS,
        "rewards_clipped": True,
        "rom_match": "same_hash",
    }


def test_many_frames(tmp_path):
    # More than a thread decodes at a time.
    write_run(tmp_path, {"train": [encode(play(700))]}, dataset="rlu_atari", version="1.3.0")
    run = open_run(tmp_path, tmp_path)
    run._max_episode_steps = 1000
    ((episode, position),) = run.episodes()
    assert np.array_equal(episode.frames, play(700).frames)
    assert position == [0, 1]


def test_episodes_that_are_not_over_are_left_out(tmp_path):
    episodes = [play(4), play(6, is_terminal=False), play(MAX_STEPS, is_terminal=False), play(3)]
    write_run(tmp_path, {"checkpoint_00": [encode(*episodes)]})
    run = open_run(tmp_path, tmp_path)
    import_recording(run, tmp_path / "store")
    assert_store_holds(ReplayStore(tmp_path / "store"), [episodes[0], *episodes[2:]])
    assert run.num_unfinished == 1


def test_sources(data, tmp_path):
    folder = data / ORDERED / "Pong_run_1"
    for source in (data, data / ORDERED, folder, folder / "1.1.0", f"file://{data}/"):
        assert open_run(source, tmp_path).num_episodes == 6
    write_run(data, {"train": [encode(play(2))]}, dataset="rlu_atari", version="1.3.0")
    assert open_run(data, tmp_path).num_episodes == 6  # the ordered one first
    write_run(data, {"checkpoint_00": [encode(play(2))]}, version="1.10.0")
    write_run(data, {"checkpoint_00": [encode(play(2), play(3))]}, version="1.9.0")
    assert open_run(data, tmp_path).num_episodes == 1  # the newest
    assert open_run(folder / "1.9.0", tmp_path).num_episodes == 2
    with pytest.raises(ReplayError, match=r"Pong_run_2 of RLU Atari, .*; there is none in .*data"):
        open_run(data, tmp_path, run=2)


def test_other_machine(data, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(data), "/rlu", recursive=True)
    try:
        import_recording(open_run("memory://rlu", tmp_path), tmp_path / "store")
    finally:
        memory.rm("/rlu", recursive=True)
    assert_store_holds(ReplayStore(tmp_path / "store"), EPISODES)
    assert not (tmp_path / "downloads").exists()


def test_import_goes_on_from_anywhere(data, tmp_path, monkeypatch):
    import_recording(open_run(data, tmp_path), tmp_path / "whole")
    monkeypatch.setattr(importing, "FLUSH_STEPS", 1)
    for number in range(len(EPISODES)):
        calls = []

        def interrupt(steps, calls=calls, number=number):
            calls.append(steps)
            if len(calls) > number:
                raise KeyboardInterrupt

        output = tmp_path / f"cut off {number}"
        with pytest.raises(KeyboardInterrupt):
            import_recording(open_run(data, tmp_path), output, on_steps=interrupt)
        assert not output.exists()
        import_recording(open_run(data, tmp_path), output)
        assert file_bytes(output) == file_bytes(tmp_path / "whole")


def test_limit_and_its_extension(data, tmp_path):
    output = tmp_path / "store"
    steps = np.cumsum([len(episode.actions) for episode in EPISODES]).tolist()
    for limit, expected in [(steps[1], 2), (steps[4] - 1, 4), (None, 6)]:
        import_recording(open_run(data, tmp_path), output, limit_steps=limit)
        # Its folder may be in another place the next time.
        data = data.rename(tmp_path / f"before {expected}")
        assert_store_holds(ReplayStore(output), EPISODES[:expected])
    shutil.rmtree(data)
    write_run(data, {"checkpoint_00": [encode(play(2))]})
    with pytest.raises(ReplayError, match=r"Expected nothing at .*store, or a part of this import"):
        import_recording(open_run(data, tmp_path), output)

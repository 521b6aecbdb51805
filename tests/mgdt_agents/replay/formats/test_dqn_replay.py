"""DQN Replay: the original writer's files, imports that are cut off, limits, memory."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, writer
from mgdt_agents.replay.formats import import_recording
from mgdt_agents.replay.formats.dqn_replay import DQNReplayRun
from tests.mgdt_agents.replay.formats.dqn_replay_ring import (
    CAPACITY,
    DATA,
    DATA_PROTOCOL,
    PONG_ACTIONS,
    RingWriter,
    assert_equal_episodes,
    file_bytes,
    open_run,
    read,
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    run = DQNReplayRun(str(DATA), "Pong", 1, protocol=DATA_PROTOCOL, downloads=folder / "downloads")
    import_recording(run, folder / "store")
    return folder / "store"


def test_all_episodes_of_the_original_writer(imported):
    store = ReplayStore(imported)
    store.verify()
    with np.load(DATA / "truth.npz") as truth:
        offset, end = truth["ep_offset"], truth["ep_end"]
        assert len(store.episode_starts) == len(end) == 335
        assert np.array_equal(store.episode_starts, offset[:-1])
        assert np.array_equal(store.frames[:], truth["frames"])
        assert np.array_equal(store.actions, PONG_ACTIONS[truth["action"]])
        assert np.array_equal(store.rewards, truth["reward"])
    # An end of the game at the very step of the time limit cannot be told from a time-out.
    truncated = store.truncated[offset[1:] - 1]
    assert np.array_equal(truncated, store.episode_lengths == 60)
    assert truncated[end == "time_limit"].all()
    assert np.array_equal(store.terminated[offset[1:] - 1], ~truncated)


def test_meta(imported):
    store = ReplayStore(imported)
    assert (store.game, store.protocol) == ("Pong", DATA_PROTOCOL)
    assert store.meta["source"] == {
        "kind": "dqn-replay",
        "path": str(DATA / "Pong/1/replay_logs"),
        "run": 1,
        "logged_buffers": 5,
        "missing_passes": [],
        "max_episode_steps": 60,
        "rewards_clipped": True,
        "rom_match": "same_hash",
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so as not to import torch ten times")
def test_killed_imports_go_on(imported, tmp_path):
    script = f"""
import os, random, signal, time, traceback
from pathlib import Path
from mgdt_agents.replay.formats import importing
from mgdt_agents.replay.formats import import_recording
from mgdt_agents.replay.formats.dqn_replay import DQNReplayRun
from mgdt_envs import AtariProtocol

def start(output):
    child = os.fork()
    if child:
        return child
    try:
        source = DQNReplayRun(
            {str(DATA)!r}, "Pong", 1, protocol=AtariProtocol(max_frames=240), downloads=Path()
        )
        import_recording(source, output)
    except BaseException:
        traceback.print_exc()
    os._exit(0)

importing.FLUSH_STEPS = 1500
output = Path({str(tmp_path)!r})
begun = time.monotonic()
os.waitpid(start(output / "whole"), 0)
seconds = time.monotonic() - begun
kills = kept = 0
while kills < 5:
    child = start(output / "killed")
    if kills:
        time.sleep(random.uniform(0, 0.7 * seconds))
    else:  # the first as soon as something is safe, so that there is something to go on from
        while not (output / "killed.partial" / "meta.json").exists():
            time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    kept += (output / "killed.partial" / "meta.json").exists()
    if (output / "killed").exists():
        break
os.waitpid(start(output / "killed"), 0)
print(kills, kept)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    kills, kept = map(int, result.stdout.split())
    assert kills
    assert kept
    assert file_bytes(tmp_path / "whole") == file_bytes(imported)
    assert file_bytes(tmp_path / "killed") == file_bytes(imported)
    # Killed when the store had its name, a writer leaves its lock.
    assert {path.name for path in tmp_path.iterdir()} - {"killed.lock"} == {"whole", "killed"}


def test_killed_when_only_the_name_was_wanting(small_source, tmp_path, monkeypatch):
    def kill(path):
        raise KeyboardInterrupt

    import_recording(open_run(small_source, tmp_path), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_publish", kill)
        with pytest.raises(KeyboardInterrupt):
            import_recording(open_run(small_source, tmp_path), tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    import_recording(open_run(small_source, tmp_path), tmp_path / "killed")
    assert file_bytes(tmp_path / "killed") == file_bytes(tmp_path / "whole")


def test_reading_goes_on_from_any_position(tmp_path):
    whole, positions = read(DATA, tmp_path, protocol=DATA_PROTOCOL)
    assert len(whole) == 335
    for number in range(0, 335, 60):
        rest, _ = read(DATA, tmp_path, positions[number], protocol=DATA_PROTOCOL)
        assert_equal_episodes(rest, [(episode[1], *episode) for episode in whole[number + 1 :]])


def test_limit_and_its_extension(ring, small_source, tmp_path):
    output = tmp_path / "store"
    steps = np.cumsum([len(episode[0]) for episode in ring.episodes]).tolist()
    for limit, expected in [(steps[2] + 1, 3), (steps[3], 4), (None, len(steps))]:
        import_recording(open_run(small_source, tmp_path), output, limit_steps=limit)
        assert len(ReplayStore(output).episode_starts) == expected
    import_recording(open_run(small_source, tmp_path), tmp_path / "at_once")
    assert file_bytes(output) == file_bytes(tmp_path / "at_once")
    with pytest.raises(ReplayError, match="Expected at most 10 steps"):
        import_recording(open_run(small_source, tmp_path), output, limit_steps=10)


def test_import_that_is_done_is_left_as_it_is(small_source, tmp_path):
    output = tmp_path / "store"
    for limit in (20, None):
        for _ in range(2):
            import_recording(open_run(small_source, tmp_path), output, limit_steps=limit)
            inode = output.stat().st_ino
        import_recording(open_run(small_source, tmp_path), output, limit_steps=limit)
        assert output.stat().st_ino == inode


def test_store_of_something_else_is_not_touched(small_source, tmp_path):
    other = RingWriter(tmp_path / "other")
    other.play_to(CAPACITY)
    other.log_final()
    import_recording(open_run(tmp_path / "other", tmp_path), tmp_path / "store")
    before = file_bytes(tmp_path / "store")
    message = r"at .*store, or a part of this import; .*: path was .*, is .*/replay_logs\. Choose"
    with pytest.raises(ReplayError, match=message):
        import_recording(open_run(small_source, tmp_path), tmp_path / "store")
    assert file_bytes(tmp_path / "store") == before


def test_folder_of_something_else_is_not_touched(small_source, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "notes.txt").write_text("mine")
    with pytest.raises(ReplayError, match=r"Expected a replay store at .*store"):
        import_recording(open_run(small_source, tmp_path), tmp_path / "store")
    assert file_bytes(tmp_path / "store") == {"notes.txt": b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "store"}


def test_memory_does_not_grow_with_the_files(tmp_path):
    capacity = 100_000
    ring = RingWriter(tmp_path / "source", capacity)
    while ring.add_count < capacity:
        ring.play(39)
    files = sum(column.nbytes for column in ring.columns.values())
    ring.columns = {}
    tracemalloc.start()
    for _ in open_run(tmp_path / "source", tmp_path).episodes():
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < files / 2

"""DQN Replay: where the files are looked for, here or elsewhere."""

import sys

import fsspec
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats import gzip_arrays, import_recording
from mgdt_agents.replay.formats.gzip_arrays import MAX_ITEMS, read_ahead
from tests.mgdt_agents.replay.formats.dqn_replay_ring import (
    CAPACITY,
    DATA,
    assert_equal_episodes,
    open_run,
    read,
)


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("dqn/Pong/2/replay_logs", ""),
        ("Pong/2/replay_logs", ""),
        ("Pong/2", ""),
        ("Pong/2/replay_logs", "Pong"),
        ("Pong/2/replay_logs", "Pong/2"),
        ("Pong/2/replay_logs", "Pong/2/replay_logs"),
        ("anything", "anything/"),
    ],
)
def test_layouts(ring, small_source, tmp_path, written, source):
    folder = tmp_path / "elsewhere" / written
    folder.parent.mkdir(parents=True)
    ring.folder.rename(folder)
    found, _ = read(f"{tmp_path}/elsewhere/{source}", tmp_path, game="pong", run=2)
    assert_equal_episodes(found, ring.episodes)


@pytest.fixture
def remote(ring, tmp_path, monkeypatch):
    """A file system that is not this machine's, with the files in /bucket."""
    # The files of frames are larger.
    monkeypatch.setattr(gzip_arrays, "HEAD_BYTES", 1000)
    ring.play_to(6 * CAPACITY)
    ring.log_final()
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(tmp_path / "source"), "/bucket", recursive=True)
    yield filesystem
    if filesystem.exists("/bucket"):
        filesystem.rm("/bucket", recursive=True)


def test_other_machine(remote, ring, tmp_path):
    """Files are copied one after another, and the copies removed."""
    run = open_run("memory://bucket", tmp_path)
    copies = []

    def count(steps):
        copies.append(len(list(run.folder.downloads.iterdir())))

    import_recording(run, tmp_path / "store", on_steps=count)
    store = ReplayStore(tmp_path / "store")
    assert np.array_equal(store.frames[:], np.concatenate([entry[1] for entry in ring.episodes]))
    assert store.meta["source"]["path"] == "memory:///bucket/Pong/1/replay_logs"
    assert 1 <= max(copies) <= 3
    assert not run.folder.downloads.exists()


def test_limit_on_another_machine(remote, tmp_path):
    """Copies of files that turn out not to be needed go as well."""
    for limit in (15, 60):
        run = open_run("memory://bucket", tmp_path)
        import_recording(run, tmp_path / "store", limit_steps=limit)
        assert not run.folder.downloads.exists()
    assert 40 < len(ReplayStore(tmp_path / "store")) <= 60


def test_other_machine_that_goes_away(remote, tmp_path):
    run = open_run("memory://bucket", tmp_path)
    remote.rm("/bucket", recursive=True)
    with pytest.raises(ReplayError, match=r"Cannot read memory:///bucket/Pong.*ckpt\.0\.gz: "):
        import_recording(run, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_bucket_without_its_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"Cannot read gs://a/dqn: .* pip install 'mgdt\[gcs\]'"):
        open_run("gs://a/dqn", tmp_path)


def test_no_such_run(small_source, tmp_path):
    for source, arguments in [
        (small_source, {"run": 2}),
        (small_source, {"game": "Breakout"}),
        (tmp_path / "nowhere", {}),
        (DATA / "truth.npz", {}),
    ]:
        with pytest.raises(ReplayError, match=r"Expected the files of .* there are none in"):
            open_run(source, tmp_path, **arguments)


@pytest.mark.parametrize(
    ("folder", "arguments", "message"),
    [
        ("Pong", {"game": "Breakout"}, r"Expected files of Breakout in .*Pong/1/replay_logs"),
        ("Pong/1", {"game": "Breakout"}, r"which is Pong by its name; choose --game Pong"),
        ("Pong/1/replay_logs", {"run": 2}, r"Expected files of run 2 in .*Pong/1/replay_logs"),
    ],
)
def test_folder_of_another_game_or_run(small_source, tmp_path, folder, arguments, message):
    with pytest.raises(ReplayError, match=message):
        open_run(small_source / folder, tmp_path, **arguments)


def test_read_ahead_keeps_the_order_and_raises_in_place():
    def job(number):
        yield None
        yield from range(100 * number, 100 * number + MAX_ITEMS + 5)
        if number == 3:
            raise ReplayError("of job 3")

    jobs = [lambda number=number: job(number) for number in range(5)]
    found = []
    with pytest.raises(ReplayError, match="of job 3"):
        found.extend(read_ahead(jobs, 3))
    assert found == [100 * job + item for job in range(4) for item in range(MAX_ITEMS + 5)]

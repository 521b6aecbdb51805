"""Locks, and errors that name files."""

import errno
import multiprocessing
import time
from pathlib import Path

import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files


def hold(path, taken, done):
    with files.exclusive(path):
        taken.set()
        done.wait()


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "deep" / "store"
    fork = multiprocessing.get_context("fork")
    taken, done = fork.Event(), fork.Event()
    other = fork.Process(target=hold, args=(path, taken, done))
    other.start()
    taken.wait()
    with pytest.raises(ReplayError, match=f"{path} is being written by another"):
        files.exclusive(path).__enter__()
    done.set()
    other.join()
    (tmp_path / "deep" / "store.lock").touch()  # as a killed writer leaves it
    with files.exclusive(path):
        assert [it.name for it in path.parent.iterdir()] == ["store.lock"]
    assert list(path.parent.iterdir()) == []


def count(path, number, rounds):
    for _ in range(rounds):
        while True:
            try:
                with files.exclusive(path):
                    path.write_text(str(int(path.read_text()) + 1))
                    break
            except ReplayError:
                time.sleep(0.0001)


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=count, args=(path, number, 100)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() == "400"


def test_want_of_memory_names_what_wants_it():
    message = r"no memory for a.npz, which asks for 1,099,511,627,776 bytes"
    with pytest.raises(ReplayError, match=message), files.reading("a.npz", 1 << 40):
        raise MemoryError


def test_a_folder_may_hold_its_lock(tmp_path):
    folder = tmp_path / "run"
    with files.exclusive(folder, inside=True):
        assert [path.name for path in folder.iterdir()] == [".lock"]
        assert all(map(files.is_left_over, folder.iterdir()))
        (folder / "store.partial").mkdir()  # which its own writer goes on with
        assert not files.is_left_over(folder / "store.partial")
        (folder / "b.partial").touch()
        files.remove_left_overs(folder)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "store.partial"]
        (folder / "a").mkdir()
        (folder / "a" / "b").touch()
        (folder / "c").touch()
        files.clear(folder)
        assert [path.name for path in folder.iterdir()] == [".lock"]
        with pytest.raises(ReplayError, match=f"{folder} is being written by another"):
            files.exclusive(folder, inside=True).__enter__()
    assert list(folder.iterdir()) == []


def test_differences():
    before = {"kind": "a", "path": "b", "config": {"size": 5, "seed": 1}}
    now = {"kind": "a", "path": "c", "config": {"size": 5, "seed": 2}}
    assert files.differences(before, now) == ["path was b, is c", "seed was 1, is 2"]
    assert files.differences(before, now, ("path",)) == ["seed was 1, is 2"]
    assert files.differences(now, now) == []
    assert files.differences({"config": "mine"}, {}) == ["config was mine, is None"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ReplayError, match=f"Expected a folder at {path}, or nothing"):
            files.make_folder(path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "Cannot write a.npz, perhaps for want of space: "),
        (RuntimeError("blosc2"), "Cannot write a.npz, perhaps for want of space: blosc2"),
        (OSError(errno.EACCES, "denied"), "Cannot write a.npz: "),
    ],
)
def test_want_of_space_is_told_where_it_may_be(error, message):
    with pytest.raises(ReplayError, match=message), files.naming(Path("a.npz")):
        raise error

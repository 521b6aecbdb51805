"""Locks, and errors that name files."""

import multiprocessing
import time

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

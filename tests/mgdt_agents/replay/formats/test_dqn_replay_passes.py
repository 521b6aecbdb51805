"""DQN Replay: what the files hold of a run, wherever they meet, are missing or end."""

import itertools

import pytest

from mgdt_agents.errors import ReplayError
from tests.mgdt_agents.replay.formats.dqn_replay_ring import (
    CAPACITY,
    assert_equal_episodes,
    load,
    of_pass,
    open_run,
    read,
)


@pytest.fixture
def recovered(ring, tmp_path):
    """A function that compares what is read with what was played."""

    def compare(*lost):
        found, _ = read(tmp_path / "source", tmp_path)
        assert_equal_episodes(found, ring.without_rows(*lost))

    return compare


@pytest.mark.parametrize("row", range(-2, 6))
@pytest.mark.parametrize("num_black", [0, 4])
def test_ends_around_the_end_of_a_pass(ring, recovered, row, num_black):
    """Of the first pass, the second and the last; rows -5 to -3 lose the pass."""
    for number in (1, 2):
        ring.play_to(number * CAPACITY + row)
        ring.play(7, num_black=num_black)
    ring.play_to(3 * CAPACITY + row)
    ring.log_final()
    assert ring.log_count == 4
    recovered()


@pytest.mark.parametrize("row", [-5, -4, -3])
@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_lost_pass(ring, recovered, lost, row):
    for number in range(4):
        ring.play_to((number + 1) * CAPACITY + (row if number in lost else 0))
    ring.play(12)
    ring.log_final()
    assert ring.log_count == 5 - len(lost)
    recovered(*map(of_pass, lost))


@pytest.mark.parametrize("row", [-5, -4, -3])
def test_lost_last_pass(ring, recovered, row):
    for number in range(3):
        ring.play_to((number + 1) * CAPACITY + (row if number == 2 else 0))
    ring.play(12)
    cursor = ring.add_count % CAPACITY
    ring.log_final()
    # The final file has the lost pass from the cursor on, in the middle of an episode.
    cut = next(
        rows for rows, *_ in ring.episodes if rows.start <= 2 * CAPACITY + cursor < rows.stop
    )
    recovered(range(2 * CAPACITY, 2 * CAPACITY + cursor), cut)


@pytest.mark.parametrize("row", [-5, -4, -3])
def test_lost_pass_before_a_restart(ring, recovered, row):
    ring.play_to(CAPACITY)
    ring.play_to(2 * CAPACITY + row)
    ring.play(20)
    after = ring.episodes[-1][0]
    ring.restart()
    ring.play_to(4 * CAPACITY)
    ring.log_final()
    assert not (ring.folder / "add_count_ckpt.1.gz").exists()
    # Without a zero row, it looks like a file that is missing.
    recovered(of_pass(1), after if row == -5 else ())


def test_restart_long_after_a_lost_pass(ring, recovered):
    """The suffixes have a gap, the passes on both sides of it none."""
    ring.play_to(CAPACITY)
    ring.play_to(2 * CAPACITY - 4)
    ring.play_to(3 * CAPACITY + 2)
    ring.restart()
    ring.play_to(5 * CAPACITY)
    ring.log_final()
    suffixes = sorted(int(path.suffixes[0][1:]) for path in ring.folder.glob("add_count*"))
    assert suffixes == [0, 1, 3, 4, 5]
    recovered(of_pass(1))


def test_pass_that_is_logged_again_after_a_restart(ring, recovered):
    ring.play_to(CAPACITY - 3)
    ring.play_to(2 * CAPACITY - 20)
    kept = {name: column.copy() for name, column in ring.columns.items()}
    add_count, num_episodes = ring.add_count, len(ring.episodes)
    ring.play_to(2 * CAPACITY + 10)
    ring.columns, ring.add_count = kept, add_count
    del ring.episodes[num_episodes:]
    ring.restart()
    ring.play_to(3 * CAPACITY + 10)
    ring.log_final()
    assert [load(ring.folder / f"add_count_ckpt.{n}.gz") for n in (0, 1)] == [99, 99]
    recovered(of_pass(0))


@pytest.mark.parametrize("removed", [(0,), (2,), (0, 1, 3), (4,), (0, 1, 2, 3)])
def test_missing_files(ring, tmp_path, removed):
    """What is read is true, and only episodes at the edges of the gap are wanting."""
    for length in itertools.islice(itertools.cycle([9, 4, 15, 1]), 24):
        ring.play(length)
    ring.log_final()
    assert ring.log_count == 5
    for suffix in removed:
        for path in ring.folder.glob(f"*_ckpt.{suffix}.gz"):
            path.unlink()
    found, _ = read(tmp_path / "source", tmp_path)
    whole = ring.without_rows(*map(of_pass, removed))
    if 4 in removed:
        whole = [episode for episode in whole if episode[0].stop < 4 * CAPACITY]
    by_content = {episode[1].tobytes(): episode for episode in whole}
    assert_equal_episodes(found, [by_content[frames.tobytes()] for frames, *_ in found])
    gaps = len([suffix for suffix in removed if suffix + 1 not in removed])
    assert len(whole) - gaps <= len(found) <= len(whole)
    assert found


@pytest.mark.parametrize("row", [0, 1, 20, CAPACITY - 3, CAPACITY - 2, CAPACITY - 1])
def test_cursor_of_the_final_file(ring, recovered, row):
    """Whatever row the last episode ends in; in row 48 the pass has just been logged."""
    ring.play_to(CAPACITY + 10)
    ring.play_to(2 * CAPACITY + row, length=5)
    ring.log_final()
    recovered()


def test_second_final_file_of_a_rerun(ring, recovered):
    ring.play_to(CAPACITY - 3)
    ring.play_to(2 * CAPACITY + 20)
    ring.log_final()
    ring.restart()
    ring.log_final()
    ring.log_final()
    assert ring.log_count == 4
    recovered(of_pass(0))


def test_second_final_file_that_differs(ring, tmp_path):
    ring.play_to(2 * CAPACITY + 20)
    ring.log_final()
    ring.play(5)
    ring.log_final()
    with pytest.raises(ReplayError, match=r"Expected .*ckpt\.3\.gz to repeat .*ckpt\.2\.gz"):
        read(tmp_path / "source", tmp_path)


def test_training_that_went_on_after_a_final_file(ring, recovered):
    ring.play_to(CAPACITY + 20)
    ring.log_final()
    ring.play_to(3 * CAPACITY)
    ring.log_final()
    recovered()


def test_run_shorter_than_a_pass(ring, recovered):
    ring.play(9)
    ring.play(20, num_black=2)
    ring.log_final()
    recovered()


def test_unfinished_last_episode(ring, recovered):
    ring.play_to(CAPACITY + 7)
    ring.play(9, ends=False)
    ring.log_final()
    recovered()
    assert len(ring.episodes) > 3


def test_time_limit(ring, tmp_path):
    ring.play(40)
    ring.play(39)
    ring.log_final()
    episodes = open_run(tmp_path / "source", tmp_path).episodes()
    assert [episode.truncated for episode, _ in episodes] == [True, False]

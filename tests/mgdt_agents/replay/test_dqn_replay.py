"""DQN Replay: the original writer's files, and those of a writer of ours for what these lack."""

import gzip
import io
import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.importers.dqn_replay import (
    DQNReplayRun,
    gzip_arrays,
    import_dqn_replay,
    run,
)
from mgdt_agents.replay.importers.dqn_replay.gzip_arrays import read_ahead
from mgdt_envs import AtariProtocol, game

DATA = Path(__file__).parents[2] / "data" / "dqn_replay"
DATA_PROTOCOL = AtariProtocol(max_frames=4 * 60)
PONG_ACTIONS = np.array(game("Pong").minimal_actions)
CAPACITY = 50
SIDE = 8
PROTOCOL = AtariProtocol(screen_size=SIDE, max_frames=4 * 40)


class RingWriter:
    """Dopamine's ring of rows, logged to files as batch_rl does; what really happened beside it."""

    def __init__(self, source, capacity=CAPACITY, game="Pong", run=1):
        self.folder = source / game / str(run) / "replay_logs"
        self.folder.mkdir(parents=True)
        self.capacity, self.add_count, self.log_count = capacity, 0, 0
        self.random = np.random.default_rng(0)
        # The first file's last row is memory that was never written to.
        self.columns = {
            "observation": np.full((capacity, SIDE, SIDE), 7, np.uint8),
            "action": np.full(capacity, 1948279909, np.int32),
            "reward": np.full(capacity, np.nan, np.float32),
            "terminal": np.full(capacity, 32, np.uint8),
        }
        self.episodes = []

    def play(self, length, *, ends=True, num_black=0):
        """Play an episode that begins with black frames, to which action 0 brings no reward."""
        frames = self.random.integers(256, size=(length, SIDE, SIDE)).astype(np.uint8)
        actions = self.random.integers(6, size=length).astype(np.int32)
        rewards = self.random.integers(-1, 2, size=length).astype(np.float32)
        frames[:num_black], actions[:num_black], rewards[:num_black] = 0, 0, 0
        for _ in range(3):
            self._add(0, 0, 0, 0)
        rows = range(self.add_count, self.add_count + length)
        for step in range(length):
            self._add(frames[step], actions[step], rewards[step], ends and step == length - 1)
            if self.add_count % self.capacity == self.capacity - 1:
                self.log()
        if ends:
            self.episodes.append((rows, frames, PONG_ACTIONS[actions], rewards))

    def play_to(self, row, length=10):
        """Play short episodes of which the last ends in a row of the run, and may lose a pass."""
        while self.add_count + 2 * length + 10 <= row:
            end = (self.add_count + 3 + length - 1) % self.capacity
            loses_pass = self.capacity - 5 <= end <= self.capacity - 3
            self.play(length + 3 * loses_pass)
        self.play(row + 1 - self.add_count - 3)

    def log(self, add_count=None):
        contents = {f"$store$_{name}": column for name, column in self.columns.items()}
        contents["add_count"] = np.array(self.add_count if add_count is None else add_count)
        for name, content in contents.items():
            save(self.folder / f"{name}_ckpt.{self.log_count}.gz", content)
        self.log_count += 1

    def log_final(self):
        self.log(self.add_count % self.capacity)

    def restart(self):
        self.log_count = self.add_count // self.capacity

    def _add(self, *row):
        for column, value in zip(self.columns.values(), row, strict=True):
            column[self.add_count % self.capacity] = value
        self.add_count += 1

    def without_rows(self, *lost):
        """Return the episodes that have none of the rows, given as ranges."""
        lost = set(itertools.chain(*lost))
        return [episode for episode in self.episodes if lost.isdisjoint(episode[0])]


def save(path, array):
    with gzip.open(path, "wb") as file:
        np.save(file, array)


def load(path):
    with gzip.open(path) as file:
        return np.load(io.BytesIO(file.read()))


def of_pass(number):
    """Rows that are not in the files if none was logged in this pass."""
    return range(number * CAPACITY, (number + 1) * CAPACITY - 1)


def open_run(source, tmp_path, **arguments):
    arguments = {"game": "Pong", "run": 1, "protocol": PROTOCOL} | arguments
    return DQNReplayRun(str(source), downloads=tmp_path / "downloads", **arguments)


def read(source, tmp_path, start=None, **arguments):
    """Return copies of the episodes, and the positions behind them."""
    episodes = open_run(source, tmp_path, **arguments).episodes(start, num_threads=2)
    found = [
        (tuple(map(np.copy, episode[:3])), episode.truncated, behind)
        for episode, behind in episodes
    ]
    return [entry[0] for entry in found], [entry[2] for entry in found]


def assert_equal_episodes(found, expected):
    assert [len(actions) for _, actions, _ in found] == [len(episode[0]) for episode in expected]
    for episode, (_, *truth) in zip(found, expected, strict=True):
        for column, true_column in zip(episode, truth, strict=True):
            assert np.array_equal(column, true_column)


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def ring(tmp_path):
    return RingWriter(tmp_path / "source")


@pytest.fixture
def recovered(ring, tmp_path):
    """A function that compares what is read with what was played."""

    def compare(*lost):
        found, _ = read(tmp_path / "source", tmp_path)
        assert_equal_episodes(found, ring.without_rows(*lost))

    return compare


# The original writer's files


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    run = DQNReplayRun(str(DATA), "Pong", 1, protocol=DATA_PROTOCOL, downloads=folder / "downloads")
    import_dqn_replay(run, folder / "store")
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
        "rewards_clipped": True,
        "rom_match": "same_hash",
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so as not to import torch ten times")
def test_killed_imports_go_on(imported, tmp_path):
    script = f"""
import os, random, signal, time, traceback
from pathlib import Path
from mgdt_agents.replay.importers.dqn_replay import DQNReplayRun, import_dqn_replay, run
from mgdt_envs import AtariProtocol

def start(output):
    child = os.fork()
    if child:
        return child
    try:
        source = DQNReplayRun(
            {str(DATA)!r}, "Pong", 1, protocol=AtariProtocol(max_frames=240), downloads=Path()
        )
        import_dqn_replay(source, output)
    except BaseException:
        traceback.print_exc()
    os._exit(0)

run.FLUSH_STEPS = 1500
output = Path({str(tmp_path)!r})
begun = time.monotonic()
os.waitpid(start(output / "whole"), 0)
seconds = time.monotonic() - begun
kills = kept = 0
while kills < 5:
    child = start(output / "killed")
    time.sleep(random.uniform(0, 0.7 * seconds))
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
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}


def test_reading_goes_on_from_any_position(tmp_path):
    whole, positions = read(DATA, tmp_path, protocol=DATA_PROTOCOL)
    assert len(whole) == 335
    for number in range(0, 335, 60):
        rest, _ = read(DATA, tmp_path, positions[number], protocol=DATA_PROTOCOL)
        assert_equal_episodes(rest, [(episode[1], *episode) for episode in whole[number + 1 :]])


# Where files meet


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


# The end of training


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
    episodes = open_run(tmp_path / "source", tmp_path).episodes(num_threads=2)
    assert [episode.truncated for episode, _ in episodes] == [True, False]


# Stores


@pytest.fixture
def small_source(ring, tmp_path):
    ring.play_to(CAPACITY + 30)
    ring.log_final()
    return tmp_path / "source"


def test_limit_and_its_extension(ring, small_source, tmp_path):
    output = tmp_path / "store"
    steps = np.cumsum([len(episode[0]) for episode in ring.episodes]).tolist()
    for limit, expected in [(steps[2] + 1, 3), (steps[3], 4), (None, len(steps))]:
        import_dqn_replay(open_run(small_source, tmp_path), output, limit_steps=limit)
        assert len(ReplayStore(output).episode_starts) == expected
    import_dqn_replay(open_run(small_source, tmp_path), tmp_path / "at_once")
    assert file_bytes(output) == file_bytes(tmp_path / "at_once")
    with pytest.raises(ReplayError, match="Expected at most 10 steps"):
        import_dqn_replay(open_run(small_source, tmp_path), output, limit_steps=10)


def test_import_that_is_done_is_left_as_it_is(small_source, tmp_path):
    output = tmp_path / "store"
    for limit in (20, None):
        for _ in range(2):
            import_dqn_replay(open_run(small_source, tmp_path), output, limit_steps=limit)
            inode = output.stat().st_ino
        import_dqn_replay(open_run(small_source, tmp_path), output, limit_steps=limit)
        assert output.stat().st_ino == inode


def test_store_of_something_else_is_not_touched(small_source, tmp_path):
    other = RingWriter(tmp_path / "other")
    other.play_to(CAPACITY)
    other.log_final()
    import_dqn_replay(open_run(tmp_path / "other", tmp_path), tmp_path / "store")
    before = file_bytes(tmp_path / "store")
    with pytest.raises(ReplayError, match=r"Expected nothing at .*store, or a part of this import"):
        import_dqn_replay(open_run(small_source, tmp_path), tmp_path / "store")
    assert file_bytes(tmp_path / "store") == before


def test_folder_of_something_else_is_not_touched(small_source, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "notes.txt").write_text("mine")
    with pytest.raises(ReplayError, match=r"Expected a replay store at .*store"):
        import_dqn_replay(open_run(small_source, tmp_path), tmp_path / "store")
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
    for _ in open_run(tmp_path / "source", tmp_path).episodes(num_threads=2):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < files / 2


# Where the files are


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

    import_dqn_replay(run, tmp_path / "store", num_threads=2, on_steps=count)
    store = ReplayStore(tmp_path / "store")
    assert np.array_equal(store.frames[:], np.concatenate([entry[1] for entry in ring.episodes]))
    assert store.meta["source"]["path"] == "memory:///bucket/Pong/1/replay_logs"
    assert 1 <= max(copies) <= 3
    assert not run.folder.downloads.exists()


def test_limit_on_another_machine(remote, tmp_path):
    """Copies of files that turn out not to be needed go as well."""
    for limit in (15, 60):
        run = open_run("memory://bucket", tmp_path)
        import_dqn_replay(run, tmp_path / "store", limit_steps=limit, num_threads=6)
        assert not run.folder.downloads.exists()
    assert 40 < len(ReplayStore(tmp_path / "store")) <= 60


def test_other_machine_that_goes_away(remote, tmp_path):
    run = open_run("memory://bucket", tmp_path)
    remote.rm("/bucket", recursive=True)
    with pytest.raises(ReplayError, match=r"Cannot read memory:///bucket/Pong.*ckpt\.0\.gz: "):
        import_dqn_replay(run, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_bucket_without_its_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ReplayError, match=r"Cannot read gs://a/dqn: .* pip install 'mgdt\[gcs\]'"):
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


# Damage


def edit(column, change):
    """Return a function that changes the array of a column in the files of suffix 1."""

    def apply(folder):
        path = folder / f"{column}_ckpt.1.gz"
        save(path, change(load(path)))

    return apply


def put(row, value):
    def change(array):
        array[row] = value
        return array

    return change


def rewrite(column, change):
    """Return a function that changes the bytes of a file of suffix 1."""

    def apply(folder):
        path = folder / f"{column}_ckpt.1.gz"
        path.write_bytes(change(path.read_bytes()))

    return apply


def flip(content):
    place = len(content) - 6  # in the checksum
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


OBSERVATION, ACTION, REWARD, TERMINAL = (
    f"$store$_{name}" for name in ("observation", "action", "reward", "terminal")
)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            edit(OBSERVATION, lambda a: a.astype(np.float32)),
            r"Expected uint8 .*observation_ckpt\.1",
        ),
        (edit(OBSERVATION, lambda a: a[:, :4]), r"\(50, 8, 8\) in .*observation_ckpt\.1.*50, 4, 8"),
        (
            edit(OBSERVATION, lambda a: a[:-1]),
            r"\(50, 8, 8\) in .*found uint8 of shape \(49, 8, 8\)",
        ),
        (edit(OBSERVATION, np.asfortranarray), r"row-major order in .*observation_ckpt\.1"),
        (edit(ACTION, lambda a: a.astype(np.int64)), r"Expected int32 .*action_ckpt\.1.* int64"),
        (edit(REWARD, lambda a: a[:-3]), r"shape \(50,\) in .*reward_ckpt\.1\.gz, .*\(47,\)"),
        (edit(TERMINAL, lambda a: a.astype(bool)), r"Expected uint8 .*terminal_ckpt\.1.* bool"),
        (edit("add_count", lambda a: a - 1), r"one less than a multiple of 50.* found 98"),
        (edit("add_count", lambda a: a[None]), r"shape \(\) in .*add_count_ckpt\.1"),
        (edit("add_count", lambda a: a + 100), r"ckpt\.2\.gz was logged before .*ckpt\.1\.gz"),
        (
            rewrite(ACTION, lambda content: b"no gzip"),
            r"gzip-compressed \.npy file at .*action_ckpt",
        ),
        (
            rewrite(ACTION, lambda content: gzip.compress(b"no array")),
            r"\.npy file at .*action_ckpt",
        ),
        (rewrite(ACTION, lambda content: b""), r"\.npy file at .*action_ckpt\.1"),
        (lambda folder: (folder / "add_count_ckpt.1.gz").unlink(), "suffix 1 .* no add_count"),
        (lambda folder: (folder / f"{REWARD}_ckpt.1.gz").unlink(), "suffix 1 .* no reward"),
    ],
)
def test_files_that_do_not_fit(ring, tmp_path, damage, message):
    """They are refused before anything is written."""
    ring.play_to(3 * CAPACITY)
    damage(ring.folder)
    with pytest.raises(ReplayError, match=message):
        open_run(tmp_path / "source", tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rewrite(OBSERVATION, lambda c: c[:-50]), r"Cannot read .*observation_ckpt\.1.* of 50: "),
        (rewrite(OBSERVATION, flip), r"observation_ckpt\.1\.gz beyond row 50 of 50: CRC check"),
        (rewrite(ACTION, flip), r"action_ckpt\.1\.gz beyond row 50 of 50: CRC check"),
        (
            rewrite(ACTION, lambda c: gzip.compress(gzip.decompress(c)[:-80])),
            r"action_ckpt\.1\.gz beyond row 0 of 50: 50 rows are announced",
        ),
        (
            rewrite(ACTION, lambda c: gzip.compress(gzip.decompress(c) + b"more")),
            r"action_ckpt\.1\.gz beyond row 50 of 50: it goes on",
        ),
        (edit(ACTION, put(30, 6)), r"actions 0\.\.5 in .*action_ckpt\.1\.gz, found 6 in row 30"),
        (edit(ACTION, put(49, -1)), r"actions 0\.\.5 in .*action_ckpt\.1\.gz, found -1 in row 49"),
        (
            edit(REWARD, put(7, 2)),
            r"rewards from -1 to 1 in .*reward_ckpt\.1\.gz, found 2\.0 in row 7",
        ),
        (edit(REWARD, put(7, np.nan)), r"reward_ckpt\.1\.gz, found nan in row 7"),
        (
            edit(TERMINAL, put(0, 3)),
            r"terminals 0 or 1 in .*terminal_ckpt\.1\.gz, found 3 in row 0",
        ),
        (
            edit(TERMINAL, put(slice(None), 0)),
            r"Expected each episode to end within 40 steps, found more before row \d+ of .*ckpt\.1",
        ),
    ],
)
@pytest.mark.parametrize("flush_steps", [1, 1_000_000])
def test_damaged_files(ring, tmp_path, monkeypatch, damage, message, flush_steps):
    monkeypatch.setattr(run, "FLUSH_STEPS", flush_steps)
    ring.play_to(CAPACITY - 10)
    ring.play(38)  # over the end of the first file
    ring.play_to(3 * CAPACITY)
    import_dqn_replay(open_run(tmp_path / "source", tmp_path), tmp_path / "undisturbed")
    good = file_bytes(ring.folder)
    damage(ring.folder)
    damaged = file_bytes(ring.folder)
    output = tmp_path / "store"
    with pytest.raises(ReplayError, match=message):
        import_dqn_replay(open_run(tmp_path / "source", tmp_path), output)
    assert file_bytes(ring.folder) == damaged
    with pytest.raises(ReplayError, match="store"):
        ReplayStore(output)
    # Repaired, the import ends as if nothing had happened.
    for name, content in good.items():
        (ring.folder / name).write_bytes(content)
    import_dqn_replay(open_run(tmp_path / "source", tmp_path), output)
    assert file_bytes(output) == file_bytes(tmp_path / "undisturbed")


def test_row_that_should_be_zero(ring, tmp_path):
    ring.play(38)
    ring.play(30)
    ring.play_to(2 * CAPACITY)
    edit(TERMINAL, put(13, 1))(ring.folder)
    with pytest.raises(ReplayError, match=r"3 zero rows before each .* row 14 of .*ckpt\.1\.gz"):
        import_dqn_replay(open_run(tmp_path / "source", tmp_path), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_source_is_never_written_to(ring, small_source, tmp_path):
    paths = [small_source, *small_source.rglob("*")]
    before = file_bytes(small_source)
    for path in paths:
        path.chmod(0o555)
    try:
        import_dqn_replay(open_run(small_source, tmp_path), tmp_path / "store")
    finally:
        for path in paths:
            path.chmod(0o755)
    assert file_bytes(small_source) == before


# Threads


def test_read_ahead_keeps_the_order_and_raises_in_place():
    def job(number):
        yield None
        yield from range(10 * number, 10 * number + 5)
        if number == 3:
            raise ReplayError("of job 3")

    jobs = [lambda number=number: job(number) for number in range(5)]
    found = []
    with pytest.raises(ReplayError, match="of job 3"):
        found.extend(read_ahead(jobs, 3, max_items=2))
    assert found == [10 * number + item for number in range(4) for item in range(5)]

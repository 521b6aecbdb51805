"""Writing: a store is whole or known not to be, and what was flushed survives whatever happens."""

import json
import multiprocessing
import os
import random
import re
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, ReplayWriter, frame_log, trim
from mgdt_agents.replay.store import find_stores, verify
from mgdt_envs import AtariProtocol

# Chunks are of 1024 frames: episodes shorter than one, of exactly one, of several and a part.
LENGTHS = (1, 40, 983, 1024, 1500, 5, 2048, 63)
SIDE = 8
PROTOCOL = AtariProtocol(screen_size=SIDE)


@pytest.fixture(scope="module")
def episodes(make_random_episodes):
    return make_random_episodes(LENGTHS, side=SIDE)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """Processes are killed here, the machine is not; and a disk may take its time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    """Where the store of each test will be."""
    return tmp_path / "store"


def writer(path, **options):
    return ReplayWriter(path, "Pong", PROTOCOL, {"kind": "test"}, **options)


def add(writer, *episodes):
    for frames, actions, rewards, truncated in episodes:
        writer.add_episode(frames, actions, rewards, truncated=truncated)


def cut_off(path, flushed, more=(), progress=None):
    """Begin a writing that fails after a flush."""

    def write_and_fail():
        with writer(path) as opened:
            add(opened, *flushed)
            opened.flush(progress)
            add(opened, *more)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()


def write(path, episodes, **options):
    with writer(path, **options) as opened:
        add(opened, *episodes)
    return path


def in_child(function, *arguments):
    """Return the process that runs a function; it exits with 0 if the function returns."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    return child


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def assert_equal_stores(path, expected):
    verify(path)
    assert names(path) == names(expected)
    for name in set(names(path)) - {"meta.json"}:
        assert (path / name).read_bytes() == (expected / name).read_bytes(), name
    metas = [json.loads((folder / "meta.json").read_text()) for folder in (path, expected)]
    for meta in metas:
        meta["progress"] = meta["checksums"]["meta.json"] = None
    assert metas[0] == metas[1]


def test_store_without_episodes(path):
    for flush in (False, True):
        opened = writer(path)
        if flush:
            opened.flush()
        with pytest.raises(ReplayError, match="no whole episodes for a store at"):
            opened.__exit__(None, None, None)
        assert list(path.parent.iterdir()) == []


def test_same_play_gives_the_same_bytes(episodes, path, tmp_path):
    write(path, episodes)
    write(tmp_path / "again", episodes)
    for name in names(path):
        assert (tmp_path / "again" / name).read_bytes() == (path / name).read_bytes(), name


def test_keys_that_are_not_text(episodes, path):
    """JSON makes texts of them, which sort otherwise than numbers."""
    notes = {2: 1, 10: (3,), None: 4, "a": 5}
    kept = {"2": 1, "10": [3], "null": 4, "a": 5}
    further = {"regenerated_with": notes}
    with ReplayWriter(path, "Pong", PROTOCOL, notes, further=further) as opened:
        add(opened, episodes[0])
        opened.flush(notes)
        assert opened.progress == opened.source == kept
    verify(path)
    meta = ReplayStore(path).meta
    assert meta["source"] == meta["progress"] == meta["regenerated_with"] == kept


def test_store_appears_when_it_is_whole(episodes, tmp_path):
    path = tmp_path / "deep" / "store"
    with writer(path) as opened:
        add(opened, *episodes)
        assert (opened.num_steps, opened.num_episodes) == (sum(LENGTHS), len(LENGTHS))
        assert names(path.parent) == ["store.lock", "store.partial"]
    assert names(path.parent) == ["store"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_block_leaves_nothing(episodes, path, error):
    def write_and_fail():
        with writer(path) as opened:
            add(opened, *episodes)
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert names(path.parent) == []


@pytest.mark.parametrize("flushed", range(len(LENGTHS)))
def test_failed_block_keeps_what_was_flushed(episodes, path, tmp_path, flushed):
    def write_and_fail():
        with writer(path) as opened:
            assert opened.progress is None
            add(opened, *episodes[:flushed])
            opened.flush({"next": flushed})
            add(opened, *episodes[flushed:])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert names(path.parent) == ["store.partial"]
    message = f"not whole: .* {flushed:,} episodes of {sum(LENGTHS[:flushed]):,} steps are safe"
    with pytest.raises(ReplayError, match=message) as caught:
        ReplayStore(path)
    assert f"`mgdt-replay trim {path}`" in str(caught.value)
    with writer(path, resume=True) as opened:
        assert opened.progress == {"next": flushed}
        assert (opened.num_steps, opened.num_episodes) == (sum(LENGTHS[:flushed]), flushed)
        add(opened, *episodes[flushed:])
    assert_equal_stores(path, write(tmp_path / "expected", episodes))
    assert ReplayStore(path).meta["progress"] == {"next": flushed}


def test_killed_at_random_moments(episodes, path, tmp_path):
    """Sessions that each add two episodes, flush, and make the store whole, until all are in."""

    def session():
        while True:
            with writer(path, resume=True) as opened:
                first = opened.progress["next"] if opened.progress else 0
                assert first == opened.num_episodes
                for number, episode in enumerate(episodes[first : first + 2], first + 1):
                    add(opened, episode)
                    opened.flush({"next": number})
                if opened.num_episodes == len(episodes):
                    return

    expected = write(tmp_path / "expected", episodes)
    start = time.monotonic()
    session()
    seconds = time.monotonic() - start
    moments = random.Random(0)
    for number in range(20):
        if path.exists() and len(ReplayStore(path)) == sum(LENGTHS):
            assert_equal_stores(path, expected)
            path.rename(tmp_path / f"whole-{number}")
        child = in_child(session)
        child.join(moments.uniform(0, seconds))
        child.kill()
        child.join()
        assert child.exitcode in (0, -9)
        if path.exists():
            verify(path)  # a store of that name is whole at any moment
    session()
    assert_equal_stores(path, expected)
    assert [name for name in names(tmp_path) if name.startswith("store")] == ["store"]


def test_killed_before_the_first_flush(episodes, path):
    def write_and_die():
        opened = writer(path)
        add(opened, *episodes)
        os.kill(os.getpid(), 9)

    in_child(write_and_die).join()
    assert names(path.parent) == ["store.lock", "store.partial"]
    with pytest.raises(ReplayError, match="Expected a replay store at"):
        ReplayStore(path)
    write(path, episodes[:3])
    assert names(path.parent) == ["store"]
    assert len(ReplayStore(path)) == sum(LENGTHS[:3])


@pytest.mark.parametrize("begun", [False, True], ids=["before", "between"])
def test_killed_at_the_renaming(episodes, path, tmp_path, begun):
    """The store that takes an older one's place is whole, and has not its name yet."""
    write(path, episodes[:2])
    path.rename(tmp_path / "old")
    write(path, episodes[:5])
    path.rename(tmp_path / "store.partial")
    (tmp_path / "old").rename(tmp_path / "store.replaced" if begun else path)
    with writer(path, resume=True) as opened:
        assert opened.num_episodes == 5
        add(opened, *episodes[5:])
    assert_equal_stores(path, write(tmp_path / "expected", episodes))
    assert names(tmp_path) == ["expected", "store"]


def test_append_to_a_whole_store(episodes, path, tmp_path):
    write(path, episodes[:3])
    with writer(path, resume=True) as opened:
        add(opened, *episodes[3:])
        # The shorter one stays until the longer one is whole.
        assert len(ReplayStore(path)) == sum(LENGTHS[:3])
    assert_equal_stores(path, write(tmp_path / "expected", episodes))


def test_append_to_a_store_with_chunks_of_another_size(episodes, path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(frame_log, "FRAMES_PER_CHUNK", 64)
        write(path, episodes[:5])
    assert ReplayStore(path).frames.chunks == (64, SIDE, SIDE)
    write(path, episodes[5:], resume=True)
    assert_equal_stores(path, write(tmp_path / "expected", episodes))


@pytest.mark.parametrize("color", [0, 87])
def test_frames_of_one_color(path, color, episodes):
    plain = np.full((2500, SIDE, SIDE), color, np.uint8)
    with writer(path) as opened:
        for frames in (plain, episodes[4].frames, plain):
            steps = len(frames)
            opened.add_episode(frames, np.zeros(steps, int), np.zeros(steps), truncated=False)
    verify(path)
    store = ReplayStore(path)
    assert np.array_equal(store.frames[:], np.concatenate([plain, episodes[4].frames, plain]))
    for start in (0, 1020, 2490, 4050):
        out = np.ones((20, SIDE, SIDE), np.uint8)
        store.read_frames(start, start + 20, out)
        assert np.array_equal(out, store.frames[start : start + 20])
    content = bytearray((path / "frames.b2nd").read_bytes())
    content[content.index(store.frames.schunk.get_chunk(3))] ^= 1
    (path / "frames.b2nd").write_bytes(content)
    with pytest.raises(ReplayError, match=r"frames\.b2nd is damaged"):
        verify(path)


def test_failed_append_leaves_the_store(episodes, path):
    def append_and_fail():
        with writer(path, resume=True) as opened:
            add(opened, *episodes[3:])
            raise RuntimeError

    write(path, episodes[:3])
    with pytest.raises(RuntimeError):
        append_and_fail()
    assert names(path.parent) == ["store"]
    verify(path)
    assert len(ReplayStore(path)) == sum(LENGTHS[:3])


def test_flush_without_episodes(episodes, path, tmp_path):
    cut_off(path, [])
    write(path, episodes, resume=True)
    assert_equal_stores(path, write(tmp_path / "expected", episodes))


def test_trim(episodes, path, tmp_path):
    cut_off(path, episodes[:4], episodes[4:], {"next": 4})
    trim(path)
    assert_equal_stores(path, write(tmp_path / "expected", episodes[:4]))
    with pytest.raises(ReplayError, match=r"Expected .*store\.partial, the rest of a cut-off"):
        trim(path)


def test_second_writer_is_refused(episodes, path):
    def refused():
        with pytest.raises(ReplayError, match="is being written by another writer"):
            writer(path, resume=True)

    with writer(path) as opened:
        add(opened, *episodes[:3])
        opened.flush()
        refused()
        child = in_child(refused)
        child.join()
        assert child.exitcode == 0
        add(opened, *episodes[3:])
    verify(path)
    assert len(ReplayStore(path)) == sum(LENGTHS)


def test_nothing_is_overwritten(episodes, path, tmp_path):
    cut_off(path, episodes[:4])
    with pytest.raises(FileExistsError, match=r"store\.partial holds 4 episodes of a writing"):
        write(path, episodes)
    trim(path)
    with pytest.raises(FileExistsError, match=f"{re.escape(str(path))} exists"):
        write(path, episodes)
    assert_equal_stores(path, write(tmp_path / "expected", episodes[:4]))


@pytest.mark.parametrize("whole", [True, False])
def test_resuming_another_play_is_refused(episodes, path, whole):
    cut_off(path, episodes[:4])
    if whole:
        trim(path)
    others = [("Breakout", PROTOCOL), ("Pong", AtariProtocol(screen_size=SIDE, sticky=0.0))]
    for game, protocol in others:
        with pytest.raises(
            ReplayError, match=r"Expected (game|protocol) .* to go on with at .*, found "
        ):
            ReplayWriter(path, game, protocol, {}, resume=True)
    if not whole:
        trim(path)
    assert names(path.parent) == ["store"]
    assert len(ReplayStore(path).episode_starts) == 4


@pytest.mark.parametrize("name", ["frames.log", "rest-3549.b2", "rewards.npy", "meta.json"])
def test_damaged_rest_is_not_resumed(episodes, path, name):
    cut_off(path, [*episodes[:5], episodes[0]])
    damaged = path.parent / "store.partial" / name
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReplayError, match=re.escape(str(damaged))):
        writer(path, resume=True)
    damaged.unlink()
    if name != "meta.json":
        with pytest.raises(ReplayError, match=re.escape(str(damaged))):
            writer(path, resume=True)


@pytest.mark.parametrize("flushed", [False, True])
def test_full_disk(episodes, path, flushed):
    """With ever more room, errors that name ever later files, then a store that is whole."""

    def write_with_room(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            with writer(path) as opened:
                for episode in episodes:
                    add(opened, episode)
                    if flushed:
                        opened.flush()
        except ReplayError as error:
            (path.parent / "error").write_text(str(error)[: size // 2])

    needed = max(file.stat().st_size for file in write(path, episodes).iterdir())
    sizes = [200, 2000, 20_000, 100_000, needed // 2, needed - 2000, needed - 50, needed - 1]
    for size in sizes:
        for folder in path.parent.glob("store*"):
            folder.rename(path.parent / f"done-{size}-{folder.name}")
        child = in_child(write_with_room, size)
        child.join()
        assert child.exitcode == 0
        assert f"Cannot write {path}.partial/"[: size // 2] in (path.parent / "error").read_text()
        assert not path.exists()
    (path.parent / "error").unlink()
    for folder in path.parent.glob("store*"):
        folder.rename(path.parent / f"done-{folder.name}")
    in_child(write_with_room, needed).join()
    assert not (path.parent / "error").exists()
    verify(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((4, SIDE, SIDE), np.uint8)}, r"frames of shape \(3, 8, 8\)"),
        ({"frames": np.zeros((3, 84, 84), np.uint8)}, r"frames of shape \(3, 8, 8\)"),
        ({"frames": np.zeros((3, SIDE, SIDE))}, "uint8 frames .* got float64"),
        ({"rewards": np.zeros(2)}, "3 rewards for 3 actions, got .* and 2"),
        ({"actions": np.array([0, 1, 18])}, r"actions in 0\.\.17, got .* 0\.\.18"),
        ({"actions": np.array([-1, 1, 2])}, r"actions in 0\.\.17, got .* -1\.\.2"),
        (
            {
                "frames": np.zeros((0, SIDE, SIDE), np.uint8),
                "actions": np.zeros(0, int),
                "rewards": np.zeros(0),
            },
            "0 actions",
        ),
    ],
    ids=str,
)
def test_writer_refuses_arrays_that_do_not_fit(path, changes, message):
    arrays = {
        "frames": np.zeros((3, SIDE, SIDE), np.uint8),
        "actions": np.zeros(3, int),
        "rewards": np.zeros(3),
    }
    with writer(path) as opened:
        with pytest.raises(ReplayError, match=message):
            opened.add_episode(**arrays | changes, truncated=False)
        opened.add_episode(**arrays, truncated=False)
    store = ReplayStore(path)
    assert (len(store), len(store.episode_starts)) == (3, 1)


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_writer_refuses_rewards_that_are_no_numbers(path, reward):
    frames, rewards = np.zeros((3, SIDE, SIDE), np.uint8), np.array([0, reward, 1])
    with writer(path) as opened:
        with pytest.raises(ReplayError, match=f"Expected finite rewards for {path}, got NaN or"):
            opened.add_episode(frames, np.zeros(3, int), rewards, truncated=False)
        opened.add_episode(frames, np.zeros(3, int), np.zeros(3), truncated=False)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_store_stays(episodes, path, tmp_path, is_there):
    """The folder that it leads to becomes the store, with all that is beside it for a while."""
    (tmp_path / "disk").mkdir()
    path.symlink_to(tmp_path / "disk" / "Pong")
    if is_there:
        write(path, episodes[:1])
    with writer(path, resume=is_there) as opened:
        add(opened, *episodes[is_there:2])
        assert {"Pong.lock", "Pong.partial"} <= set(names(tmp_path / "disk"))
    assert (names(tmp_path), names(tmp_path / "disk")) == (["disk", "store"], ["Pong"])
    assert path.is_symlink()
    write(tmp_path / "expected", episodes[:2])
    assert_equal_stores(path, tmp_path / "expected")
    cut_off(tmp_path / "disk" / "Other", episodes[:3])
    (tmp_path / "other").symlink_to(tmp_path / "disk" / "Other")
    trim(tmp_path / "other")
    assert ReplayStore(tmp_path / "other").episode_lengths.tolist() == list(LENGTHS[:3])


def test_a_folder_may_be_named_by_dots(episodes, path, monkeypatch):
    write(path, episodes[:1])
    monkeypatch.chdir(path)
    write(".", episodes[1:2], resume=True)
    assert names(path.parent) == ["store"]
    monkeypatch.chdir(path)  # which is another folder now
    (path / "deep").mkdir()
    for name in (".", "./", "", "../store", "deep/.."):
        verify(Path(name))
        assert find_stores(Path(name)) == [Path(name)]
    for name in ("..", "../", "/"):
        with pytest.raises(ReplayError, match="Expected a replay store at"):
            ReplayStore(name)


def test_only_a_stores_files_are_removed(episodes, path):
    partial = path.with_name("store.partial")
    partial.mkdir()
    (partial / "mine.txt").write_text("mine")
    (partial / "actions.npy").write_text("half")
    with pytest.raises(FileExistsError, match=r"mine\.txt stands where a store is to be written"):
        write(path, episodes)
    assert names(path.parent) == ["store.partial"]
    (partial / "mine.txt").unlink()
    write(path, episodes)
    assert names(path.parent) == ["store"]


@pytest.mark.parametrize(
    ("actions", "rewards", "message"),
    [
        (np.eye(4, dtype=int), np.zeros(4), r"of shape \(4,\), got \(4, 4\)"),
        (np.zeros(4, int), np.ones((4, 2)), r"of shape \(4,\), got .* and \(4, 2\)"),
        (np.array([2.9, 11.5, 0, 0]), np.zeros(4), "whole numbers as actions, got .*float64"),
        (np.zeros(4, int), np.array([0, 1e39, 0, 0]), "finite rewards"),
    ],
    ids=["one-hot", "two rewards", "fractions", "too large"],
)
def test_rows_that_would_be_other_ones_are_refused(path, actions, rewards, message):
    with writer(path) as opened:
        frames = np.zeros((4, SIDE, SIDE), np.uint8)
        with pytest.raises(ReplayError, match=message):
            opened.add_episode(frames, actions, rewards, truncated=False)
        opened.add_episode(frames, np.zeros(4, int), np.zeros(4), truncated=False)
    assert len(ReplayStore(path)) == 4


@pytest.mark.parametrize("kept", [{}, {"rewards_clipped": True}])
def test_play_of_another_kind_is_not_appended(episodes, path, kept):
    with ReplayWriter(path, "Pong", PROTOCOL, {"kind": "test", **kept}) as opened:
        add(opened, *episodes[:2])
    other = {} if kept else {"rewards_clipped": True}
    with pytest.raises(ReplayError, match="Expected rewards clipped"):
        ReplayWriter(path, "Pong", PROTOCOL, {"kind": "test", **other}, resume=True)
    with pytest.raises(ReplayError, match="Expected frame shape"):
        ReplayWriter(
            path,
            "Pong",
            PROTOCOL,
            {"kind": "test", **kept},
            further={"obs_type": "ram", "frame_shape": [128]},
            resume=True,
        )
    verify(path)


def test_a_source_that_cannot_be_written_is_refused_at_once(path):
    with pytest.raises(ValueError, match=r"Expected JSON types as source, got .*int64"):
        ReplayWriter(path, "Pong", PROTOCOL, {"seed": np.int64(3)})
    assert names(path.parent) == []

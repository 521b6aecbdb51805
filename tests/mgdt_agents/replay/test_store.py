"""Stores: what the writer is given is what the reader gives, and nothing half-made passes."""

import json
import re

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, ReplayWriter
from mgdt_envs import AtariProtocol

# Chunks are of 64 frames: episodes shorter than one, of exactly one, of several and a part.
LENGTHS = (1, 40, 23, 64, 150, 5, 128, 63)
COLUMNS = ("actions", "rewards", "terminated", "truncated", "episode_starts")


@pytest.fixture(scope="module")
def episodes(make_random_episodes):
    return make_random_episodes(LENGTHS, side=20)


@pytest.fixture
def store_path(episodes, write_store, tmp_path):
    return write_store(tmp_path / "store", "Pong", episodes, screen_size=20)


def flip_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_round_trip(episodes, store_path):
    store = ReplayStore(store_path)
    assert len(store) == sum(LENGTHS)
    for name in ("frames", "actions", "rewards"):
        expected = np.concatenate([getattr(episode, name) for episode in episodes])
        assert np.array_equal(getattr(store, name)[:], expected), name
    assert store.frames.shape == (sum(LENGTHS), 20, 20)
    assert store.frames.dtype == store.actions.dtype == np.uint8
    assert store.rewards.dtype == np.float32
    ends = np.cumsum(LENGTHS)
    assert store.episode_starts.tolist() == [0, *ends[:-1]]
    assert store.episode_lengths.tolist() == list(LENGTHS)
    assert store.episode_returns.tolist() == [episode.rewards.sum() for episode in episodes]
    assert np.flatnonzero(store.terminated).tolist() == (ends[::2] - 1).tolist()
    assert np.flatnonzero(store.truncated).tolist() == (ends[1::2] - 1).tolist()
    store.verify()


def test_slices_across_chunks(episodes, store_path):
    frames = np.concatenate([episode.frames for episode in episodes])
    store = ReplayStore(store_path)
    for start, stop in [(0, 1), (63, 65), (60, 200), (127, 128), (470, 474)]:
        assert np.array_equal(store.frames[start:stop], frames[start:stop])


def test_meta(store_path):
    store = ReplayStore(store_path)
    assert (store.game, store.protocol) == ("Pong", AtariProtocol(screen_size=20))
    meta = json.loads((store_path / "meta.json").read_text())
    assert meta == store.meta
    assert (meta["format"], meta["version"]) == ("mgdt-replay", 1)
    assert (meta["steps"], meta["episodes"]) == (sum(LENGTHS), len(LENGTHS))
    assert meta["source"] == {"kind": "test"}
    assert set(meta["checksums"]) == {"frames.b2nd", *(f"{name}.npy" for name in COLUMNS)}
    files = {path.name for path in store_path.iterdir()}
    assert files == {"meta.json", *meta["checksums"]}
    assert repr(store) == f"ReplayStore({str(store_path)!r}: Pong, 474 steps, 8 episodes)"


def test_store_without_episodes(tmp_path):
    with ReplayWriter(tmp_path / "store", "Pong", AtariProtocol(), {}):
        pass
    store = ReplayStore(tmp_path / "store")
    assert len(store) == len(store.episode_lengths) == len(store.episode_returns) == 0
    store.verify()


def test_same_play_gives_the_same_bytes(episodes, store_path, write_store, tmp_path):
    again = write_store(tmp_path / "again", "Pong", episodes, screen_size=20)
    for path in store_path.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_store_appears_when_it_is_whole(episodes, tmp_path):
    path = tmp_path / "deep" / "store"
    with ReplayWriter(path, "Pong", AtariProtocol(screen_size=20), {}) as writer:
        writer.add_episode(*episodes[0][:3], truncated=False)
        assert [entry.name for entry in path.parent.iterdir()] == ["store.partial"]
    assert [entry.name for entry in path.parent.iterdir()] == ["store"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_block_leaves_nothing(episodes, tmp_path, error):
    def write_and_fail():
        with ReplayWriter(tmp_path / "store", "Pong", AtariProtocol(screen_size=20), {}) as writer:
            writer.add_episode(*episodes[4][:3], truncated=False)
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_partial_store_of_a_killed_writer_is_replaced(episodes, write_store, tmp_path):
    # A writer that is never left, as if the process had been killed.
    ReplayWriter(tmp_path / "store", "Pong", AtariProtocol(screen_size=20), {})
    (tmp_path / "store.partial" / "rest").write_text("of the killed one")
    path = write_store(tmp_path / "store", "Pong", episodes, screen_size=20)
    assert list(tmp_path.iterdir()) == [path]
    assert not (path / "rest").exists()
    ReplayStore(path).verify()


def test_existing_store_is_not_overwritten(episodes, store_path, write_store):
    with pytest.raises(FileExistsError, match=f"{re.escape(str(store_path))} exists"):
        write_store(store_path, "Pong", episodes[:1], screen_size=20)
    assert len(ReplayStore(store_path)) == sum(LENGTHS)
    assert list(store_path.parent.iterdir()) == [store_path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((4, 20, 20), np.uint8)}, r"frames of shape \(3, 20, 20\)"),
        ({"frames": np.zeros((3, 84, 84), np.uint8)}, r"frames of shape \(3, 20, 20\)"),
        ({"frames": np.zeros((3, 20, 20))}, "uint8 frames .* got float64"),
        ({"rewards": np.zeros(2)}, "3 rewards for 3 actions, got .* and 2"),
        ({"actions": np.array([0, 1, 18])}, r"actions in 0\.\.17, got .* 0\.\.18"),
        ({"actions": np.array([-1, 1, 2])}, r"actions in 0\.\.17, got .* -1\.\.2"),
        (
            {
                "frames": np.zeros((0, 20, 20), np.uint8),
                "actions": np.zeros(0, int),
                "rewards": np.zeros(0),
            },
            "0 actions",
        ),
    ],
    ids=str,
)
def test_writer_refuses_arrays_that_do_not_fit(tmp_path, changes, message):
    arrays = {
        "frames": np.zeros((3, 20, 20), np.uint8),
        "actions": np.zeros(3, int),
        "rewards": np.zeros(3),
    }
    protocol = AtariProtocol(screen_size=20)
    with ReplayWriter(tmp_path / "store", "Pong", protocol, {}) as writer:
        with pytest.raises(ReplayError, match=message):
            writer.add_episode(**arrays | changes, truncated=False)
        writer.add_episode(**arrays, truncated=False)
    store = ReplayStore(tmp_path / "store")
    assert (len(store), len(store.episode_starts)) == (3, 1)


def assert_refused(path, message):
    with pytest.raises(ReplayError, match=message) as caught:
        ReplayStore(path)
    assert str(path) in str(caught.value)


def test_no_store(store_path, tmp_path):
    for path in (tmp_path / "nothing", tmp_path, store_path / "meta.json"):
        assert_refused(path, "Expected a replay store at .* `mgdt-replay expand` makes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "mgdt-replay", ', "meta.json is not JSON"),
        (b"\xff\xfe", "meta.json is not JSON"),
        ("[]", "found None version None"),
        ("{}", "found None version None"),
    ],
)
def test_malformed_meta(store_path, content, message):
    content = content if isinstance(content, bytes) else content.encode()
    (store_path / "meta.json").write_bytes(content)
    assert_refused(store_path, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "Expected mgdt-replay version 1 at .*, found mgdt-replay version 2"),
        ({"format": "mgdt-trace"}, "found mgdt-trace version 1"),
        ({"protocol": None}, "lacks .*protocol"),
        ({"steps": None, "game": None}, "lacks .*game.*steps"),
        ({"steps": 475}, r"Expected 475 steps in each column .* found \[474\]"),
        ({"episodes": 7}, "Expected 7 episodes .* found 8"),
    ],
)
def test_meta_that_does_not_fit(store_path, edit_meta, fields, message):
    edit_meta(store_path, **fields)
    assert_refused(store_path, message)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_do_not_fit(store_path, name):
    path = store_path / f"{name}.npy"
    column = np.load(path)
    np.save(path, column[:-1])
    assert_refused(store_path, "Expected .* found .*" + str(len(column) - 1))
    np.save(path, column.astype(np.float16))
    assert_refused(store_path, f"in {re.escape(str(path))}, found float16")
    np.save(path, column[:, None])
    assert_refused(store_path, f"Expected one-dimensional .*{name}.npy")
    path.write_bytes(b"no array")
    assert_refused(store_path, f"Cannot read the column .*{name}.npy")
    path.unlink()
    assert_refused(store_path, f"Cannot read the column .*{name}.npy")


def test_frames_that_cannot_be_read(store_path):
    path = store_path / "frames.b2nd"
    content = path.read_bytes()
    for damaged in (content[:-100], content[:10], b"", b"no frames" * 1000):
        path.write_bytes(damaged)
        assert_refused(store_path, "Cannot read the frames .*frames.b2nd")
    path.unlink()
    assert_refused(store_path, "Cannot read the frames .*frames.b2nd")


@pytest.mark.parametrize("name", [f"{name}.npy" for name in COLUMNS])
def test_verify_finds_a_flipped_bit_of_a_column(store_path, name):
    flip_byte(store_path / name, -1)
    store = ReplayStore(store_path)
    with pytest.raises(ReplayError, match=f"{name} is damaged: CRC-32"):
        store.verify()


def test_opening_reads_no_frames_and_verify_reads_all(store_path):
    path = store_path / "frames.b2nd"
    # Of the chunks, which are most of the file; its head and tail say where they are.
    places = range(500, path.stat().st_size - 500, 20_000)
    for place in places:
        flip_byte(path, place)
        store = ReplayStore(store_path)
        with pytest.raises(ReplayError, match=r"frames\.b2nd is damaged: CRC-32"):
            store.verify()
        flip_byte(path, place)
    assert len(places) > 5
    ReplayStore(store_path).verify()

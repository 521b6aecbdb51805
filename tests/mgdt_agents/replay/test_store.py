"""Stores: what the writer is given is what the reader gives, and damage is found where it is."""

import json
import pickle
import re
import zlib
from pathlib import Path

import blosc2
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.store import meta_checksum, verify
from mgdt_envs import AtariProtocol

# Chunks are of 1024 frames: episodes shorter than one, of exactly one, of several and a part.
LENGTHS = (1, 40, 983, 1024, 2400, 5, 2048, 63)
STEPS = sum(LENGTHS)
SIDE = 12
COLUMNS = ("actions", "rewards", "terminated", "truncated", "episode_starts")


@pytest.fixture(scope="module")
def episodes(make_random_episodes):
    return make_random_episodes(LENGTHS, side=SIDE)


@pytest.fixture
def store_path(episodes, write_store, tmp_path):
    return write_store(tmp_path / "store", "Pong", episodes, screen_size=SIDE)


@pytest.fixture
def old_store_path(store_path, edit_meta):
    """The same store as the first versions wrote it: chunks of 64 frames."""
    path = store_path / "frames.b2nd"
    frames = ReplayStore(store_path).frames[:]
    path.unlink()
    chunks, blocks = (64, SIDE, SIDE), (16, SIDE, SIDE)
    blosc2.asarray(frames, chunks=chunks, blocks=blocks, urlpath=str(path), contiguous=True)
    meta = json.loads((store_path / "meta.json").read_text())
    meta["checksums"][path.name] = zlib.crc32(path.read_bytes())
    edit_meta(store_path, checksums=meta["checksums"] | {"meta.json": meta_checksum(meta)})
    return store_path


def flip_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_round_trip(episodes, store_path):
    store = ReplayStore(store_path)
    assert len(store) == STEPS
    for name in ("frames", "actions", "rewards"):
        expected = np.concatenate([getattr(episode, name) for episode in episodes])
        assert np.array_equal(getattr(store, name)[:], expected), name
    assert store.frames.shape == (STEPS, SIDE, SIDE)
    assert store.frames.dtype == store.actions.dtype == np.uint8
    assert store.rewards.dtype == np.float32
    ends = np.cumsum(LENGTHS)
    assert store.episode_starts.tolist() == [0, *ends[:-1]]
    assert store.episode_lengths.tolist() == list(LENGTHS)
    assert store.episode_returns.tolist() == [episode.rewards.sum() for episode in episodes]
    assert np.flatnonzero(store.terminated).tolist() == (ends[::2] - 1).tolist()
    assert np.flatnonzero(store.truncated).tolist() == (ends[1::2] - 1).tolist()
    store.verify()


@pytest.mark.parametrize("fixture", ["store_path", "old_store_path"])
def test_reading_across_blocks_and_chunks(episodes, fixture, request):
    frames = np.concatenate([episode.frames for episode in episodes])
    store = ReplayStore(request.getfixturevalue(fixture))
    store.verify()
    for length in (1, 4, 15, 16, 17, 32, 64, 65, 1023, 1024, 1025, 3000):
        near = [edge - offset for edge in (16, 64, 1024, 2048) for offset in (0, 1, 5, length)]
        for start in {max(0, start) for start in (*near, STEPS - length)}:
            expected = frames[start : start + length]
            assert np.array_equal(store.frames[start : start + length], expected)
            out = np.zeros_like(expected)
            store.read_frames(start, start + length, out)
            assert np.array_equal(out, expected), (start, length)


def test_a_process_does_not_grow_by_the_frames_it_reads(store_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("Only Linux tells which files a process has in its memory.")
    store = ReplayStore(store_path)
    store.read_frames(0, 1, np.empty((1, *store.frames.shape[1:]), np.uint8))
    mapped = maps.read_text()
    assert str(store_path / "rewards.npy") in mapped
    assert str(store_path / "frames.b2nd") not in mapped


def test_returns_of_many_episodes(make_random_episodes, write_store, tmp_path):
    episodes = make_random_episodes([1, 2, 3] * 300, side=4)
    store = ReplayStore(write_store(tmp_path / "store", "Pong", episodes, screen_size=4))
    assert store.episode_returns.tolist() == [episode.rewards.sum() for episode in episodes]


def test_a_pickled_store_is_its_path(store_path):
    content = pickle.dumps(ReplayStore(store_path))
    assert len(content) < 500
    store = pickle.loads(content)
    assert (store.path, len(store)) == (store_path, STEPS)


def test_meta(store_path):
    store = ReplayStore(store_path)
    assert (store.game, store.protocol) == ("Pong", AtariProtocol(screen_size=SIDE))
    meta = json.loads((store_path / "meta.json").read_text())
    assert meta == store.meta
    assert (meta["format"], meta["version"]) == ("mgdt-replay", 1)
    assert (meta["steps"], meta["episodes"]) == (STEPS, len(LENGTHS))
    assert meta["source"] == {"kind": "test"}
    columns = {f"{name}.npy" for name in COLUMNS}
    assert set(meta["checksums"]) == {"meta.json", "frames.b2nd", *columns}
    assert {path.name for path in store_path.iterdir()} == set(meta["checksums"])
    assert repr(store) == f"ReplayStore({str(store_path)!r}: Pong, {STEPS:,} steps, 8 episodes)"


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
        ("[]", r"Expected an object in .*, found \[\]"),
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
        ({"version": 2}, "version 1 in .*, found mgdt-replay version 2. Update mgdt"),
        ({"format": "mgdt-trace"}, "found mgdt-trace version 1"),
        ({"protocol": None}, "lacks .*protocol"),
        ({"steps": None, "game": None}, "lacks .*game.*steps"),
        ({"steps": 475}, rf"Expected 475 steps in each column .* found \[{STEPS}\]"),
        ({"episodes": 7}, "Expected 7 episodes .* found 8"),
        ({"checksums": None}, "lacks .*checksums"),
        ({"checksums": [5]}, "Expected checksums in .* to be an object"),
        ({"checksums": {"actions.npy": "5"}}, "Expected actions.npy in .* to be a number"),
        ({"steps": "6564"}, "Expected steps in .* to be a number of at least 0, found '6564'"),
        ({"episodes": True}, "Expected episodes in .* found True"),
        ({"episodes": -8}, "Expected episodes in .* found -8"),
        ({"source": "me"}, "Expected source in .* to be an object, found 'me'"),
        ({"game": ["Pong"]}, "Expected game in .* to be a text"),
        ({"game": "Pnog"}, "Cannot read .*meta.json: Unknown game 'Pnog'"),
        ({"protocol": {"sticky": "no"}}, "Cannot read .*meta.json"),
        ({"protocol": {"max_pool": 3}}, "AtariProtocol.max_pool must be true or false, got 3"),
        ({"protocol": {"screen_size": 84}}, r"Expected frames of 84x84 .* found \(12, 12\)"),
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


@pytest.mark.parametrize("name", COLUMNS)
def test_verify_finds_a_flipped_bit_of_a_column(store_path, name):
    path = store_path / f"{name}.npy"
    for place in (120, 128, path.stat().st_size // 2, -1):  # the first is in the header
        flip_byte(path, place)
        with pytest.raises(ReplayError, match=f"{name}.npy is damaged: CRC-32"):
            verify(store_path)
        flip_byte(path, place)
    verify(store_path)
    path.unlink()
    with pytest.raises(ReplayError, match=f"{name}.npy is missing"):
        verify(store_path)


def test_verify_finds_a_flipped_bit_of_the_frames(store_path):
    path = store_path / "frames.b2nd"
    content, size = path.read_bytes(), path.stat().st_size
    frames = ReplayStore(store_path).frames
    chunks = [frames.schunk.get_chunk(number) for number in range(7)]
    places = [content.index(chunk) + offset for chunk in chunks for offset in (0, len(chunk) - 1)]
    for place in places:
        flip_byte(path, place)
        store = ReplayStore(store_path)  # opening reads no frames
        with pytest.raises(ReplayError, match=r"frames\.b2nd is damaged: CRC"):
            store.verify()
        flip_byte(path, place)
    for place in (0, 15, 60, 150, size - 40, size - 1):  # of the head and the index
        flip_byte(path, place)
        with pytest.raises(ReplayError, match=r"frames\.b2nd is damaged: CRC"):
            verify(store_path)
        flip_byte(path, place)
    verify(store_path)


def test_verify_finds_what_meta_json_should_say_otherwise(store_path, edit_meta):
    checksums = json.loads((store_path / "meta.json").read_text())["checksums"]
    for fields in ({"game": "Boxing"}, {"source": {"kind": "mine"}}, {"progress": {"next": 1}}):
        content = (store_path / "meta.json").read_bytes()
        edit_meta(store_path, **fields)
        with pytest.raises(ReplayError, match=r"meta\.json is damaged: CRC-32"):
            verify(store_path)
        (store_path / "meta.json").write_bytes(content)
    verify(store_path)
    for name in checksums:
        edit_meta(store_path, checksums={it: checksums[it] for it in checksums if it != name})
        with pytest.raises(ReplayError, match=f"has no checksum of {name}: whether"):
            verify(store_path)
    edit_meta(store_path, checksums={})
    with pytest.raises(ReplayError, match=r"has no checksum of actions\.npy, episode_s"):
        verify(store_path)


def test_verify_reads_no_file_outside(store_path, edit_meta, tmp_path):
    checksums = json.loads((store_path / "meta.json").read_text())["checksums"]
    edit_meta(store_path, checksums=checksums | {"../secret": 0, "meta.json": 0})
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ReplayError, match=r"meta\.json is damaged"):
        verify(store_path)


@pytest.mark.parametrize(
    "starts", [[0, 5, 3], [1, 5, 9], [0, 5, 5], [0, -5, 9], [0, 5, STEPS], [0, 5, 1 << 62]], ids=str
)
def test_episode_starts_that_cannot_be(store_path, edit_meta, starts):
    np.save(store_path / "episode_starts.npy", np.array(starts))
    edit_meta(store_path, episodes=3)
    assert_refused(store_path, f"to grow from 0 to below {STEPS}")


def test_damaged_frames_name_the_store(store_path):
    path = store_path / "frames.b2nd"
    content = bytearray(path.read_bytes())
    whole = ReplayStore(store_path)
    chunk = whole.frames.schunk.get_chunk(2)
    begin = content.index(chunk)
    content[begin : begin + 16] = bytes(16)
    path.write_bytes(content)
    store = ReplayStore(store_path)
    with pytest.raises(ReplayError, match=f"rows 2050 to 2053 of {store_path}: it is damaged"):
        store.read_frames(2050, 2054, np.empty((4, SIDE, SIDE), np.uint8))

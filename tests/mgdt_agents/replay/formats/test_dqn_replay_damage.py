"""DQN Replay: files that are damaged or do not fit one another."""

import gzip

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats import import_recording, importing
from tests.mgdt_agents.replay.formats.dqn_replay_ring import (
    CAPACITY,
    file_bytes,
    load,
    open_run,
    save,
)


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


def announce(column, suffix, shape):
    """Return a function that makes a small file of an array that would be huge."""

    def apply(folder):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with gzip.open(folder / f"{column}_ckpt.{suffix}.gz", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(1 << 20))

    return apply


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
        (announce(OBSERVATION, "0", (1 << 40, 8, 8)), "at most 20,000,000 rows in .*1,099,"),
        (announce(ACTION, "1", (1 << 40,)), r"int32 of shape \(50,\) in .*\(1099511627776,\)"),
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
    monkeypatch.setattr(importing, "FLUSH_STEPS", flush_steps)
    ring.play_to(CAPACITY - 10)
    ring.play(38)  # over the end of the first file
    ring.play_to(3 * CAPACITY)
    import_recording(open_run(tmp_path / "source", tmp_path), tmp_path / "undisturbed")
    good = file_bytes(ring.folder)
    damage(ring.folder)
    damaged = file_bytes(ring.folder)
    output = tmp_path / "store"
    with pytest.raises(ReplayError, match=message):
        import_recording(open_run(tmp_path / "source", tmp_path), output)
    assert file_bytes(ring.folder) == damaged
    with pytest.raises(ReplayError, match="store"):
        ReplayStore(output)
    # Repaired, the import ends as if nothing had happened.
    for name, content in good.items():
        (ring.folder / name).write_bytes(content)
    import_recording(open_run(tmp_path / "source", tmp_path), output)
    assert file_bytes(output) == file_bytes(tmp_path / "undisturbed")


def test_row_that_should_be_zero(ring, tmp_path):
    ring.play(38)
    ring.play(30)
    ring.play_to(2 * CAPACITY)
    edit(TERMINAL, put(13, 1))(ring.folder)
    with pytest.raises(ReplayError, match=r"3 zero rows before each .* row 14 of .*ckpt\.1\.gz"):
        import_recording(open_run(tmp_path / "source", tmp_path), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_source_is_never_written_to(ring, small_source, tmp_path):
    paths = [small_source, *small_source.rglob("*")]
    before = file_bytes(small_source)
    for path in paths:
        path.chmod(0o555)
    try:
        import_recording(open_run(small_source, tmp_path), tmp_path / "store")
    finally:
        for path in paths:
            path.chmod(0o755)
    assert file_bytes(small_source) == before

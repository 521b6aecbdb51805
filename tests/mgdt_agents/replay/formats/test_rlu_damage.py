"""RLU Atari: files that are damaged, missing, or of something else."""

import re
import struct
import sys

import cv2
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats import import_recording, tfrecord
from tests.mgdt_agents.replay.formats.rlu_shards import (
    MAX_STEPS,
    checksum,
    encode,
    encode_example,
    features_of,
    file_bytes,
    open_run,
    play,
    record,
    write_run,
)

pytest.importorskip("google_crc32c")
pytest.importorskip("google.protobuf")

SHARD = "rlu_atari_checkpoints_ordered-checkpoint_00.tfrecord-00000-of-00001"


def flipped(place):
    def change(content):
        content = bytearray(content)
        content[place] ^= 1
        return bytes(content)

    return change


LENGTH = len(record(encode(play(4))[0]))  # of the first record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flipped(0), rf"record 0 of .*{SHARD}: it is damaged, its CRC-32C is "),
        (flipped(8), r"record 0 of .*: it is damaged"),
        (flipped(500), r"record 0 of .*: it is damaged"),
        (flipped(LENGTH - 1), r"record 0 of .*: it is damaged"),
        (flipped(LENGTH + 20), r"record 1 of .*: it is damaged"),
        (lambda content: content[:5], r"record 0 of .*: the file ends in it"),
        (lambda content: content[:-1], r"record 1 of .*: the file ends in it"),
        (lambda content: content[: LENGTH + 12], r"record 1 of .*: the file ends in it"),
        (lambda content: content[:LENGTH], r"Expected 2 records in .*, found 1"),
        (lambda content: content + content[:LENGTH], r"Expected 2 records in .*, found 3"),
        (lambda content: record(b"\xff" * 9), r"Expected a tf.train.Example in record 0 of "),
    ],
)
def test_damaged_file(tmp_path, change, message):
    folder = write_run(tmp_path / "data", {"checkpoint_00": [encode(play(4), play(6))]})
    (folder / SHARD).write_bytes(change((folder / SHARD).read_bytes()))
    before = file_bytes(folder)
    with pytest.raises(ReplayError, match=message):
        import_recording(open_run(tmp_path / "data", tmp_path), tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert file_bytes(folder) == before


# The beginning of a PNG that would unpack to an exabyte.
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1 << 30, 1 << 30) + bytes(99)


def picture(frame, extension=".png"):
    return cv2.imencode(extension, np.asarray(frame, np.uint8))[1].tobytes()


GOOD = features_of(play(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps/action": None}, "Expected steps/action as int64_list in .*, found nothing"),
        ({"steps/action": [0.0] * 4}, "steps/action as int64_list in .*, found float_list"),
        ({"steps/reward": [0] * 4}, "steps/reward as float_list in .*, found int64_list"),
        ({"steps/observation": [0] * 4}, "steps/observation as bytes_list .* found int64_list"),
        ({"steps/reward": [0.0] * 3}, r"of 1 to 30 steps in .*, found 4, 4, 3, 4, 4, 4"),
        ({"steps/is_first": [1, 0, 1, 0]}, "Expected steps/is_first in the first step"),
        ({"steps/is_last": [0, 1, 0, 1]}, "steps/is_last in the last alone"),
        ({"steps/is_terminal": [0, 1, 0, 1]}, "steps/is_terminal nowhere else"),
        ({"steps/action": [0, 6, 0, 0]}, r"Expected actions 0\.\.5 in .*, found 0\.\.6"),
        ({"steps/action": [0, -1, 0, 0]}, r"Expected actions 0\.\.5 in .*, found -1\.\.0"),
        ({"steps/reward": [0.0, 5.0, 0.0, 0.0]}, r"rewards from -1 to 1 in .*, found 0\.0\.\.5\.0"),
        ({"steps/reward": [0.0, np.nan, 0.0, 0.0]}, "Expected rewards from -1 to 1 in "),
        ({"episode_return": [99.0]}, r"add up to its episode_return, 99\.0, found "),
        ({"episode_return": None}, "Expected episode_return as float_list"),
        (
            {"steps/observation": [*GOOD["steps/observation"][:3], b"no picture"]},
            "Expected a gray picture of 8x8 in step 3 of record 1 of .*, found none",
        ),
        (
            {"steps/observation": [b"", *GOOD["steps/observation"][1:]]},
            "gray picture of 8x8 in step 0 of .*, found none",
        ),
        (
            {"steps/observation": [picture(np.zeros((8, 8, 3)))] * 4},
            r"gray picture of 8x8 in step 0 of .*, found uint8 \(8, 8, 3\)",
        ),
        (
            {"steps/observation": [picture(np.zeros((9, 8)))] * 4},
            r"gray picture of 8x8 in step 0 of .*, found 8x9",
        ),
        (
            {"steps/observation": [BOMB] * 4},
            r"gray picture of 8x8 in step 0 of .*, found 1073741824x1073741824",
        ),
    ],
    ids=str,
)
def test_record_that_is_no_episode(tmp_path, changes, message):
    features = {k: v for k, v in (GOOD | changes).items() if v is not None}
    contents = [*encode(play(3)), encode_example(features)]
    write_run(tmp_path, {"checkpoint_00": [contents]})
    with pytest.raises(ReplayError, match=message) as caught:
        import_recording(open_run(tmp_path, tmp_path), tmp_path / "store")
    assert f"record 1 of {tmp_path}" in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1])
def test_record_that_announces_more_than_there_is(tmp_path, length):
    folder = write_run(tmp_path / "data", {"checkpoint_00": [encode(play(4))]})
    head = struct.pack("<Q", length)
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content + head + checksum(head) + b"rest")
    message = rf"record 1 of .*: the file ends in it, which has 0 of its {length:,} bytes"
    with pytest.raises(ReplayError, match=message):
        import_recording(open_run(tmp_path / "data", tmp_path), tmp_path / "store")


@pytest.mark.parametrize("name", ["../checkpoint_00", "/checkpoint", "", "."])
def test_split_whose_name_is_a_path(tmp_path, name):
    split = {"name": name, "numBytes": "1", "shardLengths": ["1"]}
    write_run(tmp_path, {"checkpoint_00": [encode(play(4))]}, info={"splits": [split]})
    with pytest.raises(ReplayError, match=rf"{re.escape(repr(name))} is no name of a split"):
        open_run(tmp_path, tmp_path)


def test_other_time_limit(tmp_path):
    episodes = [play(10, is_terminal=False), play(9, is_terminal=False), play(10), play(5)]
    write_run(tmp_path, {"checkpoint_00": [encode(*episodes)]})
    run = open_run(tmp_path, tmp_path, max_frames=40)
    import_recording(run, tmp_path / "store")
    store = ReplayStore(tmp_path / "store")
    assert (store.episode_lengths.tolist(), run.num_unfinished) == ([10, 10, 5], 1)
    assert np.flatnonzero(store.truncated).tolist() == [9, 19]
    assert store.meta["source"]["max_episode_steps"] == 10


def test_episode_beyond_the_time_limit(tmp_path):
    write_run(tmp_path, {"checkpoint_00": [encode(play(MAX_STEPS + 1))]})
    with pytest.raises(ReplayError, match=r"of 1 to 30 steps in record 0 of .*, found 31, 31"):
        import_recording(open_run(tmp_path, tmp_path), tmp_path / "store")


def test_missing_shards(tmp_path):
    shards = [encode(play(length)) for length in range(1, 6)]
    folder = write_run(tmp_path, {"checkpoint_00": shards})
    for number in (1, 3):
        (folder / f"{SHARD[:-14]}{number:05d}-of-00005").unlink()
    with pytest.raises(
        ReplayError, match=r"Expected 5 shards in .*1\.1\.0, 2 are missing: .*00001-of"
    ):
        open_run(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"configName": "Qbert_run_1"}, "Expected Pong_run_1 of .* found Qbert_run_1 of"),
        ({"name": "mnist"}, "found Pong_run_1 of mnist"),
        ({"fileFormat": "array_record"}, "in tfrecord files .* in array_record files"),
        ({"splits": [{"name": "train"}]}, "is not as TensorFlow Datasets writes it: KeyError"),
        ({"splits": 3}, "is not as TensorFlow Datasets writes it: TypeError"),
    ],
    ids=str,
)
def test_data_set_of_something_else(tmp_path, info, message):
    write_run(tmp_path, {"checkpoint_00": [encode(play(2))]}, info=info)
    with pytest.raises(ReplayError, match=message):
        open_run(tmp_path, tmp_path)


def test_no_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)  # as if it was not installed
    tfrecord.example_class.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'mgdt\[tfds\]'"):
        open_run(tmp_path, tmp_path)

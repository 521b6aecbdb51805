"""A writer of RLU Atari as TensorFlow Datasets prepares it, by hand, and what reads it."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mgdt_agents.replay.formats.rlu import RLURun
from mgdt_envs import AtariProtocol, game

SIDE = 8
MAX_STEPS = 30
PROTOCOL = AtariProtocol(screen_size=SIDE, max_frames=4 * MAX_STEPS)
PONG_ACTIONS = np.array(game("Pong").minimal_actions)
ORDERED = "rlu_atari_checkpoints_ordered"


class Played(NamedTuple):
    """What happened in an episode."""

    frames: np.ndarray
    actions: np.ndarray  # indices in the minimal set
    rewards: np.ndarray
    is_terminal: bool


def play(length: int, *, is_terminal: bool = True, seed: int = 0, side: int = SIDE) -> Played:
    """Return an episode of noise."""
    random = np.random.default_rng([length, seed])
    rewards = random.integers(-1, 2, length).astype(np.float32)
    rewards[-1] = 1  # the last step's counts
    return Played(
        random.integers(256, size=(length, side, side)).astype(np.uint8),
        random.integers(6, size=length),
        rewards,
        is_terminal,
    )


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    content = b""
    while number > 127:
        content += bytes([number & 127 | 128])
        number >>= 7
    return content + bytes([number])


def field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf whose content has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def encode_example(features: dict[str, Any]) -> bytes:
    """Return a `tf.train.Example`: pictures as bytes, numbers packed."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            feature = field(1, b"".join(field(1, value) for value in values))
        elif np.asarray(values).dtype.kind == "f":
            feature = field(2, field(1, np.asarray(values, "<f4").tobytes()))
        else:
            feature = field(3, field(1, b"".join(varint(int(value)) for value in values)))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def features_of(episode: Played) -> dict[str, Any]:
    """Return the features of an episode as TFDS names and fills them."""
    steps = len(episode.actions)
    last = np.arange(steps) == steps - 1
    terminal = last & episode.is_terminal
    return {
        "checkpoint_id": [0],
        "episode_id": [7],
        "episode_return": [float(episode.rewards.sum())],
        "steps/action": episode.actions,
        "steps/discount": 1 - (terminal | np.roll(terminal, -1)).astype(np.float32),
        "steps/is_first": (np.arange(steps) == 0).astype(int),
        "steps/is_last": last.astype(int),
        "steps/is_terminal": terminal.astype(int),
        "steps/observation": [cv2.imencode(".png", frame)[1].tobytes() for frame in episode.frames],
        "steps/reward": episode.rewards,
    }


def checksum(content: bytes) -> bytes:
    import google_crc32c  # an extra

    value = google_crc32c.value(content)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(content: bytes) -> bytes:
    """Return a TFRecord."""
    length = struct.pack("<Q", len(content))
    return length + checksum(length) + content + checksum(content)


def write_run(
    data: Path,
    splits: dict[str, list[list[bytes]]],
    *,
    dataset: str = ORDERED,
    version: str = "1.1.0",
    run: int = 1,
    info: dict[str, Any] | None = None,
) -> Path:
    """Write the Examples of each shard of each split, and return the folder.

    `info` are fields of `dataset_info.json` that are to be others.
    """
    folder = data / dataset / f"Pong_run_{run}" / version
    folder.mkdir(parents=True)
    for split, shards in splits.items():
        for number, contents in enumerate(shards):
            name = f"{dataset}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
            (folder / name).write_bytes(b"".join(map(record, contents)))
    content = {
        "configName": f"Pong_run_{run}",
        "fileFormat": "tfrecord",
        "name": dataset,
        "splits": [
            {"name": split, "numBytes": "1", "shardLengths": [str(len(shard)) for shard in shards]}
            for split, shards in splits.items()
        ],
        "version": version,
    }
    (folder / "dataset_info.json").write_text(json.dumps(content | (info or {})))
    return folder


def encode(*episodes: Played) -> list[bytes]:
    return [encode_example(features_of(episode)) for episode in episodes]


def open_run(source: Path | str, tmp_path: Path, run: int = 1, **protocol: Any) -> RLURun:
    rules = dataclasses.replace(PROTOCOL, **protocol)
    return RLURun(str(source), "Pong", run, protocol=rules, downloads=tmp_path / "downloads")


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

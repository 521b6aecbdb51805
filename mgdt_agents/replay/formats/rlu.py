"""RLU Atari (Gulcehre et al. 2020): DQN Replay as whole episodes, prepared by TensorFlow Datasets.

`rlu_atari_checkpoints_ordered`, `rlu_atari_checkpoints` and `rlu_atari` hold the same episodes in
different orders; only the first is in the order of time. A folder
`<data set>/<Game>_run_<run>/<version>` has `dataset_info.json`, which names the shards and their
lengths, and the shards: TFRecord files of one `tf.train.Example` an episode. Its features are
`episode_return` and, a value a step, `steps/observation` (PNG, 84x84 gray), `steps/action` (index
in the game's minimal action set), `steps/reward` (clipped to [-1, 1] in every version),
`steps/is_first`, `steps/is_last`, `steps/is_terminal` and `steps/discount`.

By RLDS, the format of the steps, only the observation of the last step is valid. Here the last step
is one like the others: DQN Replay has no frame after the last action, and RLU has a step for each
of its rows. The four records of Asterix that TFDS's own tests read show it: their last frame comes
19 steps after the one in which the last life's end has been shown, and in the emulator the frame
after the last action always comes 20 steps after it. Because this is known from four records alone,
an import checks that the rewards of each episode add up to its `episode_return`.

Sources: tensorflow/datasets 4.9.10, `rl_unplugged/atari_utils.py`, `core/example_serializer.py`
and `core/naming.py`, which made the files that this was tested with; the records in
`rl_unplugged/rlu_atari*/dummy_data`; the README of google-research/rlds.
"""

import json
import os
import re
import struct
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.formats.importing import Episode, Recording, SourceFolder, find_source
from mgdt_agents.replay.formats.tfrecord import example_class, read_records
from mgdt_envs import AtariProtocol
from mgdt_envs import game as find_game
from mgdt_envs.emulator import check_num_threads

DATASETS = ("rlu_atari_checkpoints_ordered", "rlu_atari_checkpoints", "rlu_atari")
FRAMES_PER_JOB = 256
_COLUMNS = {
    "steps/observation": "bytes_list",
    "steps/action": "int64_list",
    "steps/reward": "float_list",
    "steps/is_first": "int64_list",
    "steps/is_last": "int64_list",
    "steps/is_terminal": "int64_list",
}


class _Shard(NamedTuple):
    name: str
    episodes: int


class RLURun(Recording):
    """One run of an agent, as TensorFlow Datasets prepared it. It is only read.

    Args:
        source: a path or an address of TFDS's data folder, or of the folder of a data set, of the
            run, or of its version.
        game: name of the game.
        run: 1 to 5.
        protocol: that of the recording; the default is DQN Replay's.
        downloads: folder for copies of files of another machine.
        num_threads: threads that decode pictures; 0 takes one a core. The episodes do not depend
            on it.

    Attributes, beside those of a recording:
        folder: where the shards are.
        num_episodes: episodes that there are.
        num_unfinished: those that were left out so far because they were not played to their end.

    Raises:
        ReplayError: if there is no such run, or a shard is missing.
    """

    free_fields = ("path",)  # such as that of a disk that is mounted elsewhere the next time

    def __init__(
        self,
        source: str,
        game: str,
        run: int,
        *,
        protocol: AtariProtocol,
        downloads: Path,
        num_threads: int = 0,
    ) -> None:
        self.game, self.protocol = find_game(game), protocol
        check_num_threads(num_threads)
        self._num_threads = num_threads or os.cpu_count() or 1
        self._example = example_class()
        config = f"{self.game.name}_run_{run}"
        self.folder = _find_config(source, config, downloads)
        info = _read_info(self.folder, config)
        self._shards = _shards(self.folder, info)
        self.num_episodes = sum(shard.episodes for shard in self._shards)
        self.num_unfinished = 0
        self.max_steps = None
        self.source = {
            "kind": "rlu",
            "dataset": info["name"],
            "version": info["version"],
            "path": self.folder.address,
            "run": run,
            "episodes": self.num_episodes,
            "max_episode_steps": protocol.max_frames // protocol.frame_skip,
            "rewards_clipped": True,
            "rom_match": self.game.rom_match,
        }
        self._action_ids = np.array(self.game.minimal_actions, np.uint8)
        self._max_episode_steps = protocol.max_frames // protocol.frame_skip

    def episodes(
        self, start: list[int] | None = None
    ) -> Generator[tuple[Episode, list[int]], None, None]:
        """Yield the whole episodes, each with the position behind it: shard, and records of it.

        Args:
            start: go on from this position, which an earlier call yielded.

        Raises:
            ReplayError: if a shard is damaged or holds what RLU Atari cannot, naming the record.
        """
        first, skipped = start or [0, 0]
        with ThreadPoolExecutor(self._num_threads) as pool:
            for number in range(first, len(self._shards)):
                shard = self._shards[number]
                path = f"{self.folder.address}/{shard.name}"
                count = 0
                with self.folder.open(shard.name) as file:
                    for content in read_records(file, path):
                        count += 1
                        if number == first and count <= skipped:
                            continue
                        episode = self._episode(content, f"record {count - 1} of {path}", pool)
                        if episode is None:
                            self.num_unfinished += 1
                        else:
                            yield episode, [number, count]
                if count != shard.episodes:
                    raise ReplayError(
                        f"Expected {shard.episodes} records in {path}, as dataset_info.json says, "
                        f"found {count}."
                    )
                self.folder.discard(shard.name)

    def discard(self) -> None:
        """Remove the copies of the shards, if they are on another machine."""
        self.folder.discard(*(shard.name for shard in self._shards))

    def _episode(self, content: bytes, place: str, pool: ThreadPoolExecutor) -> Episode | None:
        """Return the episode of a record; `None` if it is neither over nor at the time limit."""
        features = _parse(self._example, content, place)
        pictures, *numbers = (
            _values(features, name, kind, place) for name, kind in _COLUMNS.items()
        )
        actions, rewards, is_first, is_last, is_terminal = map(np.asarray, numbers)
        steps = len(actions)
        lengths = [len(column) for column in (pictures, *numbers)]
        if not 0 < steps <= self._max_episode_steps or set(lengths) != {steps}:
            raise ReplayError(
                f"Expected {', '.join(_COLUMNS)} of 1 to {self._max_episode_steps:,} steps in "
                f"{place}, found {', '.join(map(str, lengths))}."
            )
        place_of_step = np.arange(steps)
        if not (
            np.array_equal(is_first, place_of_step == 0)
            and np.array_equal(is_last, place_of_step == steps - 1)
            and not is_terminal[:-1].any()
        ):
            raise ReplayError(
                f"Expected steps/is_first in the first step of {place} alone, steps/is_last in the "
                "last alone, and steps/is_terminal nowhere else."
            )
        if actions.min() < 0 or actions.max() >= len(self._action_ids):
            raise ReplayError(
                f"Expected actions 0..{len(self._action_ids) - 1} in {place}, found "
                f"{actions.min()}..{actions.max()}."
            )
        if not (np.abs(rewards) <= 1).all():
            raise ReplayError(
                f"Expected rewards from -1 to 1 in {place}, found {rewards.min()}..{rewards.max()}."
            )
        (total,) = _values(features, "episode_return", "float_list", place) or (None,)
        if total != rewards.sum():
            raise ReplayError(
                f"Expected the rewards in {place} to add up to its episode_return, {total}, found "
                f"{rewards.sum()}."
            )
        if not is_terminal[-1] and steps < self._max_episode_steps:
            return None
        return Episode(
            self._frames(pictures, place, pool),
            self._action_ids[actions],
            rewards.astype(np.float32),
            steps == self._max_episode_steps,
        )

    def _frames(self, pictures: Any, place: str, pool: ThreadPoolExecutor) -> np.ndarray:
        side = self.protocol.screen_size
        frames = np.empty((len(pictures), side, side), np.uint8)

        def decode(first: int) -> None:
            for step in range(first, min(first + FRAMES_PER_JOB, len(pictures))):
                content, picture, found = pictures[step], None, "none"
                # A PNG says its width and height at its beginning, however much it unpacks to.
                if content.startswith(b"\x89PNG") and len(content) >= 24:
                    size = struct.unpack(">II", content[16:24])
                    found = "{}x{}".format(*size)
                    if size == (side, side):
                        content = np.frombuffer(content, np.uint8)
                        picture = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
                if picture is None or (picture.dtype, picture.shape) != (np.uint8, (side, side)):
                    if picture is not None:
                        found = f"{picture.dtype} {picture.shape}"
                    raise ReplayError(
                        f"Expected a gray picture of {side}x{side} in step {step} of {place}, "
                        f"found {found}."
                    )
                frames[step] = picture

        for _ in pool.map(decode, range(0, len(pictures), FRAMES_PER_JOB)):
            pass
        return frames


def _find_config(source: str, config: str, downloads: Path) -> SourceFolder:
    """Return the folder of the newest version of a run under `source`."""
    filesystem, root = find_source(source)
    looked = []
    for middle in (*(f"/{name}/{config}" for name in DATASETS), f"/{config}", ""):
        path = root + middle
        looked.append(path)
        names = SourceFolder(filesystem, path, downloads).names()
        versions = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
        versions.sort(key=lambda name: tuple(map(int, name.split("."))), reverse=True)
        for folder in (path, *(f"{path}/{name}" for name in versions)):
            found = SourceFolder(filesystem, folder, downloads)
            if "dataset_info.json" in found.names():
                return found
    raise ReplayError(
        f"Expected {config} of RLU Atari, a folder with dataset_info.json, under {source}; "
        f"there is none in {', '.join(looked)}."
    )


def _read_info(folder: SourceFolder, config: str) -> dict[str, Any]:
    """Return the content of `dataset_info.json`, if it is that of a run that can be read."""
    path = f"{folder.address}/dataset_info.json"
    with folder.open("dataset_info.json") as file:
        content = file.read()
    folder.discard("dataset_info.json")
    try:
        info = json.loads(content)
        found = info["name"], info["configName"], info.get("fileFormat", "tfrecord")
        _ = info["version"], [(it["name"], it["shardLengths"]) for it in info["splits"]]
        names = [it["name"] for it in info["splits"]]
        if wrong := [name for name in names if not re.fullmatch(r"\w[-\w]*", name)]:
            raise ValueError(f"{wrong[0]!r} is no name of a split")
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{path} is not as TensorFlow Datasets writes it: {error!r}") from error
    if found[0] not in DATASETS or found[1:] != (config, "tfrecord"):
        raise ReplayError(
            f"Expected {config} of {', '.join(DATASETS)} in tfrecord files in {path}, found "
            f"{found[1]} of {found[0]} in {found[2]} files."
        )
    return info


def _shards(folder: SourceFolder, info: dict[str, Any]) -> list[_Shard]:
    """Return the shards in the order of the splits, which are checkpoints in the order of time."""
    shards = [
        _Shard(
            f"{info['name']}-{split['name']}.tfrecord-{number:05d}-of-{len(lengths):05d}",
            int(length),
        )
        for split in sorted(info["splits"], key=lambda split: split["name"])
        for lengths in [split["shardLengths"]]
        for number, length in enumerate(lengths)
    ]
    there = set(folder.names())
    if missing := [shard.name for shard in shards if shard.name not in there]:
        raise ReplayError(
            f"Expected {len(shards)} shards in {folder.address}, {len(missing)} are missing: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}."
        )
    return shards


def _parse(example: Any, content: bytes, place: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return example.FromString(content).features.feature
    except DecodeError as error:
        raise ReplayError(f"Expected a tf.train.Example in {place}: {error}") from error


def _values(features: Any, name: str, kind: str, place: str) -> Any:
    """Return the values of a feature, if it is of the right kind."""
    found = features[name].WhichOneof("kind") if name in features else "nothing"
    if found != kind:
        raise ReplayError(f"Expected {name} as {kind} in {place}, found {found}.")
    return getattr(features[name], kind).value

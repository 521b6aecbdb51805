"""A replay on disk: compressed frames with random access, and plain columns beside them.

A store is a folder:

- `meta.json`: format version, game, protocol, source, number of steps and episodes, and the CRC-32
  of each file and of what else `meta.json` holds. Optional are `progress`, where the writer kept
  it; `regenerated_with`, the version of ale-py that expanded a trace; `obs_type` and `frame_shape`,
  where frames are not the protocol's screens, see `mgdt_agents.replay.native`;
- `frames.b2nd`: a blosc2 array of all steps' frames, `(steps, height, width)` uint8, the frame
  that the step's action answers to. Single frames, never stacks;
- `actions.npy` uint8 full-set ids, `rewards.npy` float32, `terminated.npy` and `truncated.npy`
  bool, each `(steps,)`;
- `episode_starts.npy` int64 `(episodes,)`: the row of each episode's first step. Episodes are
  whole and stand in the order in which they ended.

The folder gets its name when it is whole, so a folder of that name is a whole store. Until then it
is `<name>.partial`; see `mgdt_agents.replay.writer`.

`<folder>:medium` names the episodes of a split alone; see `mgdt_agents.replay.splits`.
"""

import json
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.splits import find_split, split_range
from mgdt_envs import AtariProtocol, game

FORMAT = "mgdt-replay"
VERSION = 1
STEP_COLUMNS = {
    "actions": np.uint8,
    "rewards": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
}
COLUMNS = {**STEP_COLUMNS, "episode_starts": np.int64}
HEADER_BYTES = 128  # of a one-dimensional .npy file of any length, by numpy's format 1.0
REPLACED = ".replaced"  # ends the name of a store while a longer one takes its place
PARTIAL = ".partial"  # ends the name of a store until it is whole
OPTIONAL_FIELDS = {"obs_type": str, "frame_shape": list, "regenerated_with": dict}
PROTOCOL = "protocol"
"""The `obs_type` of screens as the protocol says, which all agents see."""


class ReplayStore:
    """Read a store. Frames and columns stay on disk.

    A pickled store is its path, so handing one to another process costs nothing.

    Args:
        path: the store's folder; `replay/Pong:medium` reads the episodes of a split alone.

    Attributes:
        path: as given.
        folder: where the files are.
        split: name of the split, or None.
        meta: the content of `meta.json`, which is of the whole store.
        first_episode: number, in the folder, of the first episode: that of a split may be another.
        obs_type: what the frames show: "protocol", or as `mgdt-replay expand --as` says.
        frames: `(steps, height, width)` uint8, sliced like an array; decompresses what it returns.
        actions, rewards, terminated, truncated, episode_starts: see the module's text.

    Raises:
        ReplayError: if the folder is not a whole store of a known version, or does not give the
            split.
        ValueError: if there is no split of that name.
    """

    frames: "blosc2.NDArray | _Frames"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder, self.split = find_split(path)
        self.meta = _read_whole_meta(self.folder)
        self.game, self.protocol = game_and_protocol(self.meta, self.folder / "meta.json")
        self.obs_type: str = self.meta.get("obs_type", PROTOCOL)
        self.frames = self._array = self._open_frames()
        self._frame_size = int(np.prod(self.frames.shape[1:]))  # bytes
        self._frames_per_block: int = self.frames.blocks[0]
        self._first_row = self.first_episode = 0
        self.actions = self._column("actions")
        self.rewards = self._column("rewards")
        self.terminated = self._column("terminated")
        self.truncated = self._column("truncated")
        self.episode_starts = self._column("episode_starts")
        columns = (self.frames, self.actions, self.rewards, self.terminated, self.truncated)
        lengths = {len(column) for column in columns}
        if lengths != {self.meta["steps"]}:
            raise ReplayError(
                f"Expected {self.meta['steps']} steps in each column of {self.path}, "
                f"found {sorted(lengths)}."
            )
        if len(self.episode_starts) != self.meta["episodes"]:
            raise ReplayError(
                f"Expected {self.meta['episodes']} episodes in {self.path}, "
                f"found {len(self.episode_starts)}."
            )
        expected = frame_shape(self.meta, self.protocol)
        if self.frames.shape[1:] != expected:
            raise ReplayError(
                f"Expected frames of {'x'.join(map(str, expected))} in {self.path}, as its "
                f"protocol or its meta.json says, found {self.frames.shape[1:]}."
            )
        starts = self.episode_starts
        if len(starts) and (starts[0] or starts[-1] >= len(self) or (np.diff(starts) < 1).any()):
            raise ReplayError(
                f"Expected episode_starts.npy of {self.path} to grow from 0 to below {len(self)}, "
                "it does not: the store is damaged. Expand or import it anew."
            )
        if self.split is not None:
            self._keep(self.split)

    def _keep(self, split: str) -> None:
        """Keep the episodes of a split alone."""
        episodes = split_range(
            split,
            self.game,
            self.protocol,
            self.meta["source"],
            self.episode_returns,
            what=str(self.folder),
        )
        self.first_episode = episodes.start
        starts = np.append(self.episode_starts, len(self))[episodes.start : episodes.stop + 1]
        rows = range(int(starts[0]), int(starts[-1]))
        self._first_row = rows.start
        self.frames = _Frames(self._array, rows)
        for name in STEP_COLUMNS:
            setattr(self, name, getattr(self, name)[rows.start : rows.stop])
        self.episode_starts = starts[:-1] - rows.start
        del self.episode_returns

    def __reduce__(self) -> tuple[type["ReplayStore"], tuple[Path]]:
        """Return what opens the store in another process."""
        return ReplayStore, (self.path,)

    def _open_frames(self) -> blosc2.NDArray:
        path = self.folder / "frames.b2nd"
        try:
            # A window is one or two blocks: threads would cost more than they bring. Mapping the
            # file is no faster than reading it, and the process would seem to grow by all of it.
            frames = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        except Exception as error:  # for a damaged file, blosc2 raises several kinds
            raise ReplayError(f"Cannot read the frames {path}: {error}") from error
        if not isinstance(frames, blosc2.NDArray):
            raise ReplayError(f"Cannot read the frames {path}: they are no array.")
        if frames.dtype != np.uint8 or frames.chunks[1:] != frames.shape[1:]:
            raise ReplayError(
                f"Expected uint8 frames in chunks of whole frames in {path}, found {frames.dtype} "
                f"of shape {frames.shape} in chunks of {frames.chunks}."
            )
        return frames

    def _column(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            column = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ReplayError(f"Cannot read the column {path}: {error}") from error
        if column.dtype != COLUMNS[name] or column.ndim != 1:
            raise ReplayError(
                f"Expected one-dimensional {np.dtype(COLUMNS[name])} in {path}, "
                f"found {column.dtype} of shape {column.shape}."
            )
        return np.asarray(column)  # still mapped; slicing a memmap takes ten times as long

    def __len__(self) -> int:
        return len(self.actions)

    def __repr__(self) -> str:
        """Return the game and the counts."""
        return (
            f"ReplayStore({str(self.path)!r}: {self.game}, "
            f"{len(self):,} steps, {len(self.episode_starts):,} episodes)"
        )

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """Steps of each episode, `(episodes,)` int64."""
        return np.diff(self.episode_starts, append=len(self))

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """Sum of each episode's rewards as stored, `(episodes,)` float64."""
        returns = np.zeros(len(self.episode_starts))
        bounds = np.append(self.episode_starts, len(self))
        # Piece by piece, for numpy makes float64 of all that it is given at once.
        for first in range(0, len(returns), 256):
            piece = bounds[first : first + 257]
            rewards = self.rewards[piece[0] : piece[-1]]
            sums = np.add.reduceat(rewards, piece[:-1] - piece[0], dtype=np.float64)
            returns[first : first + 256] = sums
        return returns

    def read_frames(self, start: int, stop: int, out: np.ndarray) -> None:
        """Decompress the frames of rows `start` to `stop`, at twice the speed of slicing `frames`.

        Args:
            start: the first row.
            stop: the row after the last.
            out: `(stop - start, height, width)` uint8, contiguous; gets the frames.

        Raises:
            ReplayError: if they are damaged so that they cannot be decompressed.
        """
        # A chunk holds its frames one after another, so rows are a range of bytes.
        size, chunks = self._frame_size, self._array.schunk
        first, last = start + self._first_row, stop + self._first_row
        try:
            if last - first == self._frames_per_block:
                # Of a range as long as a block, blosc2 3.3 to 4.14 may give the block that follows.
                chunks.get_slice(first * size, (first + 1) * size, out=out[:1])
                first, out = first + 1, out[1:]
            chunks.get_slice(first * size, last * size, out=out)
        except (RuntimeError, ValueError) as error:
            raise ReplayError(
                f"Cannot read the frames of rows {start} to {stop - 1} of {self.path}: it is "
                f"damaged ({error}). Expand or import it anew."
            ) from error

    def verify(self) -> None:
        """Compare every file with its checksum; see `verify`."""
        verify(self.path)


class _Frames:
    """Some of a blosc2 array's frames, on end, sliced like the array."""

    def __init__(self, array: blosc2.NDArray, rows: range) -> None:
        self._array, self._rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(first, slice | int | np.integer):
            place = (slice(None), *rest)
            return self._array[np.asarray(self._rows)[first]][place]
        rows: Any = self._rows[first]
        if isinstance(rows, range):
            # Backwards to the array's first frame, the range stops at -1: to a slice, the last one.
            to_first = len(rows) and rows.stop < 0
            rows = slice(rows.start, None if to_first else rows.stop, rows.step)
        place = (rows, *rest)
        return self._array[place]


def verify(path: Path) -> None:
    """Compare every file of a store with its checksum, then open the store.

    Raises:
        ReplayError: naming the first file that is missing, has no checksum or differs from it.
    """
    folder, _ = find_split(path)
    meta = _read_whole_meta(folder)
    checksums = meta["checksums"]
    names = ["meta.json", "frames.b2nd", *(f"{name}.npy" for name in COLUMNS)]
    if missing := sorted(set(names) - set(checksums)):
        raise ReplayError(
            f"{folder / 'meta.json'} has no checksum of {', '.join(missing)}: whether they are "
            "whole cannot be told. Expand or import the store anew."
        )
    for name in names:
        file = folder / name
        if not file.exists():
            raise ReplayError(f"{file} is missing.")
        found = meta_checksum(meta) if name == "meta.json" else files.file_checksum(file)
        if found != checksums[name]:
            raise ReplayError(
                f"{file} is damaged: CRC-32 {found:08x}, expected {checksums[name]:08x}."
            )
    ReplayStore(path)


def meta_checksum(meta: dict[str, Any]) -> int:
    """Return the CRC-32 of what `meta.json` holds, except for this number itself."""
    checksums = {name: it for name, it in meta["checksums"].items() if name != "meta.json"}
    return zlib.crc32(json.dumps(meta | {"checksums": checksums}, sort_keys=True).encode())


def find_stores(path: Path) -> list[Path]:
    """Return the stores that `path` means: itself, or those in it, by name, each with its split.

    Stores that are not whole count, so that opening them says what is wrong.
    """
    folder, split = find_split(path)
    if (folder / "meta.json").exists() or partial_folder(folder).exists():
        return [path]
    names = {it.parent.name for it in folder.glob("*/meta.json")}
    stores = {name.removesuffix(PARTIAL) for name in names if not name.endswith(REPLACED)}
    suffix = "" if folder == path else f":{split}"
    return [folder / (name + suffix) for name in sorted(stores)] or [path]


def partial_folder(path: Path) -> Path:
    """Return the folder that the store at `path` is in while it is written."""
    return files.beside(path, PARTIAL)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """Return the content of `meta.json` in `folder`, of a whole store or of a partial one.

    Returns:
        None if there is no such file.

    Raises:
        ReplayError: if it is not that of a store of a known version.
    """
    path = folder / "meta.json"
    meta = files.read_json(path, FORMAT, VERSION)
    if meta is None:
        return None
    optional = {name: kind for name, kind in OPTIONAL_FIELDS.items() if name in meta}
    files.check_fields(meta, _FIELDS | optional, path)
    return meta


_FIELDS = {"game": str, "protocol": dict, "source": dict, "steps": int, "episodes": int}


def frame_shape(meta: dict[str, Any], protocol: AtariProtocol) -> tuple[int, ...]:
    """Return the shape of a store's frames."""
    return tuple(meta.get("frame_shape", [protocol.screen_size] * 2))


def game_and_protocol(meta: dict[str, Any], path: Path) -> tuple[str, AtariProtocol]:
    """Return the name of the game and the protocol that a store or a trace says.

    Raises:
        ReplayError: naming `path`, for an unknown game or a protocol that cannot be.
    """
    try:
        protocol = AtariProtocol.from_dict(meta["protocol"])
        return game(meta["game"]).name, protocol
    except (TypeError, ValueError) as error:
        raise ReplayError(f"Cannot read {path}: {error}") from error


def _read_whole_meta(folder: Path) -> dict[str, Any]:
    """Return the content of `meta.json` of the store in `folder`, if that is whole."""
    meta = read_meta(folder)
    if meta is None:
        partial = read_meta(partial_folder(folder))
        if partial is None:
            raise ReplayError(
                f"Expected a replay store at {folder}: a folder with meta.json, and there is "
                "none. `mgdt-replay expand` makes a store from a trace."
            )
        raise ReplayError(
            f"{folder} is not whole: it is being written, or the writing was cut off. "
            f"{partial['episodes']:,} episodes of {partial['steps']:,} steps are safe. Repeat the "
            f"command that wrote it, and it resumes from there; or `mgdt-replay trim {folder}` "
            "makes a store of what is safe."
        )
    path = folder / "meta.json"
    files.check_fields(meta, {"checksums": dict}, path)
    files.check_fields(meta["checksums"], dict.fromkeys(meta["checksums"], int), path)
    return meta

"""A replay on disk: compressed frames with random access, and plain columns beside them.

A store is a folder:

- `meta.json`: format version, game, protocol, source, number of steps and episodes, checksums;
- `frames.b2nd`: a blosc2 array of all steps' frames, `(steps, height, width)` uint8, the frame
  that the step's action answers to. Single frames, never stacks;
- `actions.npy` uint8 full-set ids, `rewards.npy` float32, `terminated.npy` and `truncated.npy`
  bool, each `(steps,)`;
- `episode_starts.npy` int64 `(episodes,)`: the row of each episode's first step. Episodes are
  whole and stand in the order in which they ended.

`meta.json` is written last and the folder gets its name when it is whole, so a folder of that name
is a whole store.
"""

import json
import shutil
import zlib
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import blosc2
import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_envs import AtariProtocol

FORMAT = "mgdt-replay"
VERSION = 1
# 16 frames a block: the best of the measured trade-offs between size and speed of random access.
FRAMES_PER_BLOCK = 16
FRAMES_PER_CHUNK = 64
COLUMNS = {
    "actions": np.uint8,
    "rewards": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "episode_starts": np.int64,
}


class ReplayStore:
    """Read a store. The frames stay on disk, memory-mapped.

    Args:
        path: the store's folder.

    Attributes:
        meta: the content of `meta.json`.
        frames: `(steps, height, width)` uint8, sliced like an array; decompresses what it returns.
        actions, rewards, terminated, truncated, episode_starts: see the module's text.

    Raises:
        ReplayError: if the folder is not a whole store of a known version.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the store at `path`."""
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.game: str = self.meta["game"]
        self.protocol = AtariProtocol.from_dict(self.meta["protocol"])
        self.frames = self._open_frames()
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

    def _open_frames(self) -> blosc2.NDArray:
        path = self.path / "frames.b2nd"
        try:
            return blosc2.open(str(path), mode="r", mmap_mode="r")
        except (OSError, RuntimeError, ValueError) as error:
            raise ReplayError(f"Cannot read the frames {path}: {error}") from error

    def _column(self, name: str) -> np.ndarray:
        path = self.path / f"{name}.npy"
        try:
            column = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ReplayError(f"Cannot read the column {path}: {error}") from error
        if column.dtype != COLUMNS[name] or column.ndim != 1:
            raise ReplayError(
                f"Expected one-dimensional {np.dtype(COLUMNS[name])} in {path}, "
                f"found {column.dtype} of shape {column.shape}."
            )
        return column

    def __len__(self) -> int:
        """Return the number of steps."""
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
        if not len(self):
            return np.zeros(0)
        return np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64)

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            ReplayError: naming the first file that differs.
        """
        for name, expected in self.meta["checksums"].items():
            if (found := _file_checksum(self.path / name)) != expected:
                raise ReplayError(
                    f"{self.path / name} is damaged: CRC-32 {found:08x}, expected {expected:08x}."
                )


def _read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of `meta.json` of the store in `folder`."""
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ReplayError(
            f"Expected a replay store at {folder}: a folder with meta.json, and there is "
            "none. `mgdt-replay expand` makes a store from a trace."
        ) from None
    except ValueError as error:
        raise ReplayError(f"{path} is not JSON: {error}") from error
    found = (meta.get("format"), meta.get("version")) if isinstance(meta, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ReplayError(
            f"Expected {FORMAT} version {VERSION} at {folder}, found {found[0]} version {found[1]}."
        )
    if missing := {"game", "protocol", "steps", "episodes", "checksums"} - set(meta):
        raise ReplayError(f"{path} lacks {sorted(missing)}.")
    return meta


class ReplayWriter:
    """Write a store, episode by episode; a context manager.

    The store appears under its name when the `with` block ends. If the block fails, nothing is
    left; a killed writer leaves `<path>.partial`, which the next writer to `path` replaces.

    Args:
        path: the folder to make. Must not exist.
        game: name of the game.
        protocol: the rules the play was recorded under.
        source: JSON types that say where the play comes from.

    Raises:
        FileExistsError: if `path` exists.
    """

    def __init__(
        self, path: str | Path, game: str, protocol: AtariProtocol, source: dict[str, Any]
    ) -> None:
        """Begin the store that will be at `path`."""
        self.path = Path(path)
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists; choose another folder or remove it first.")
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        self.game, self.protocol, self.source = game, protocol, source
        side = protocol.screen_size
        self._frames = blosc2.zeros(
            # Before blosc2 4.1 an array cannot grow from nothing.
            (FRAMES_PER_CHUNK, side, side),
            dtype=np.uint8,
            chunks=(FRAMES_PER_CHUNK, side, side),
            blocks=(FRAMES_PER_BLOCK, side, side),
            # Consecutive frames are alike byte for byte, so no filter helps zstd.
            cparams=blosc2.CParams(
                codec=blosc2.Codec.ZSTD, clevel=5, filters=[blosc2.Filter.NOFILTER], nthreads=1
            ),
            urlpath=str(self.partial / "frames.b2nd"),
            contiguous=True,
            mode="w",
        )
        self._num_frames = 0
        self._pending = np.empty((FRAMES_PER_CHUNK, side, side), np.uint8)
        self._num_pending = 0
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._steps = 0

    def __enter__(self) -> "ReplayWriter":
        """Return the writer."""
        return self

    def add_episode(
        self, frames: np.ndarray, actions: np.ndarray, rewards: np.ndarray, *, truncated: bool
    ) -> None:
        """Append one whole episode of T steps.

        Args:
            frames: `(T, height, width)` uint8, the frame before each action.
            actions: `(T,)` full-set ids.
            rewards: `(T,)`, what each action brought.
            truncated: whether a time limit ended the episode; otherwise the game did.

        Raises:
            ReplayError: if the arrays do not fit one another.
        """
        steps = len(actions)
        expected = (steps, *self._frames.shape[1:])
        if not steps or frames.shape != expected or len(rewards) != steps:
            raise ReplayError(
                f"Expected frames of shape {expected} and {steps} rewards for {steps} actions, "
                f"got {frames.shape} and {len(rewards)}."
            )
        if frames.dtype != np.uint8 or np.max(actions) > 17 or np.min(actions) < 0:
            raise ReplayError(
                f"Expected uint8 frames and actions in 0..17, got {frames.dtype} "
                f"and {np.min(actions)}..{np.max(actions)}."
            )
        last = np.arange(steps) == steps - 1
        columns = {
            "actions": actions,
            "rewards": rewards,
            "terminated": last & (not truncated),
            "truncated": last & truncated,
            "episode_starts": [self._steps],
        }
        for name, column in columns.items():
            self._columns[name].append(np.asarray(column, COLUMNS[name]))
        self._steps += steps
        while len(frames):
            taken = min(len(frames), FRAMES_PER_CHUNK - self._num_pending)
            self._pending[self._num_pending : self._num_pending + taken] = frames[:taken]
            self._num_pending += taken
            frames = frames[taken:]
            if self._num_pending == FRAMES_PER_CHUNK:
                self._flush()

    def _flush(self) -> None:
        start, end = self._num_frames, self._num_frames + self._num_pending
        self._frames.resize((end, *self._frames.shape[1:]))
        self._frames[start:end] = self._pending[: self._num_pending]
        self._num_frames, self._num_pending = end, 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Make the store whole, or remove what was written if the block failed."""
        if kind is not None:
            shutil.rmtree(self.partial)
            return
        # Of a store without steps, too: the array begins with a chunk.
        if self._num_pending or not self._num_frames:
            self._flush()
        for name, parts in self._columns.items():
            column = np.concatenate(parts) if parts else np.zeros(0, COLUMNS[name])
            np.save(self.partial / f"{name}.npy", column)
        files = ["frames.b2nd", *(f"{name}.npy" for name in COLUMNS)]
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "game": self.game,
            "protocol": self.protocol.to_dict(),
            "source": self.source,
            "steps": self._steps,
            "episodes": len(self._columns["episode_starts"]),
            "checksums": {name: _file_checksum(self.partial / name) for name in files},
        }
        (self.partial / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        self.partial.rename(self.path)


def _file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read a megabyte at a time."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum

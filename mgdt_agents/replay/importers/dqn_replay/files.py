"""The files of DQN Replay: where they are, whether they fit one another, and their rows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.importers.dqn_replay import gzip_arrays
from mgdt_agents.replay.importers.dqn_replay.gzip_arrays import GzipArray
from mgdt_agents.replay.importers.source_folder import SourceFolder, find_source
from mgdt_envs import AtariProtocol, Game, game

ROWS_PER_BLOCK = 128
DTYPES = {
    "observation": np.dtype(np.uint8),
    "action": np.dtype(np.int32),
    "reward": np.dtype(np.float32),
    "terminal": np.dtype(np.uint8),
}
# Other files of a suffix hold nothing that is needed.
_FILE = re.compile(rf"(add_count|\$store\$_(?:{'|'.join(DTYPES)}))_ckpt\.(\d+)\.gz")


class Rows(NamedTuple):
    """Rows of a logged buffer that follow one another."""

    path: str
    """The file of their frames, for messages."""
    first: int
    """The row of the buffer that comes first."""
    frames: np.ndarray
    """`(N, height, width)` uint8, before each action."""
    actions: np.ndarray
    """`(N,)` int32 indices in the game's minimal action set."""
    rewards: np.ndarray
    """`(N,)` float32, clipped to [-1, 1]."""
    ends: np.ndarray
    """`(N,)` uint8, 1 where the action ended the episode."""

    def is_zero(self, row: int) -> bool:
        """Return whether everything in the row with this place among these is zero."""
        columns = (self.actions, self.rewards, self.ends, self.frames)
        return not any(column[row].any() for column in columns)


@dataclass(frozen=True, slots=True)
class LoggedBuffer:
    """A replay buffer as it was when it was logged: the files of one suffix."""

    suffix: int
    add_count: int
    """Rows that had been written in the run; in a final buffer, the row that was next."""
    columns: dict[str, GzipArray]
    """By the keys of `DTYPES`."""
    num_actions: int
    """Actions of the game."""

    @property
    def capacity(self) -> int:
        """Rows of the buffer."""
        return self.columns["observation"].shape[0]

    @property
    def pass_number(self) -> int:
        """Which pass over the ring had filled all rows but the last."""
        return self.add_count // self.capacity

    @property
    def is_final(self) -> bool:
        """Whether it was logged at the end of training instead of when it was full."""
        is_first_pass = self.suffix == 0 and self.add_count == self.capacity - 1
        return self.add_count < self.capacity and not is_first_pass

    @property
    def path(self) -> str:
        """The file of the frames, for messages."""
        return self.columns["observation"].path

    def rows(self, start: int, stop: int) -> Iterator[Rows | None]:
        """Yield the rows from `start` to before `stop`, in blocks, and `None` while skipping some.

        If `stop` is the capacity, the checksums of all files are compared.

        Raises:
            ReplayError: if a file is damaged or holds what DQN Replay cannot, naming the row.
        """
        actions, rewards, ends = (
            self._column(name, start, stop) for name in ("action", "reward", "terminal")
        )
        first = 0
        for frames in self.columns["observation"].blocks(ROWS_PER_BLOCK):
            here = slice(max(start - first, 0), max(stop - first, 0))
            if len(frames[here]):
                row = first + here.start
                among = slice(row - start, row - start + len(frames[here]))
                yield Rows(
                    self.path, row, frames[here], actions[among], rewards[among], ends[among]
                )
            else:
                yield None
            first += len(frames)
            if stop <= first < self.capacity:
                return

    def _column(self, name: str, start: int, stop: int) -> np.ndarray:
        column = self.columns[name].read()[start:stop]
        valid, expected = {
            "action": ((column >= 0) & (column < self.num_actions), f"0..{self.num_actions - 1}"),
            "reward": (np.abs(column) <= 1, "from -1 to 1"),
            "terminal": (column <= 1, "0 or 1"),
        }[name]
        if not valid.all():
            wrong = int(np.argmin(valid))
            raise ReplayError(
                f"Expected {name}s {expected} in {self.columns[name].path}, "
                f"found {column[wrong]} in row {start + wrong:,}."
            )
        return column

    def discard(self) -> None:
        """Remove the copies of the files, if they are on another machine."""
        for array in self.columns.values():
            array.folder.discard(array.name)


def find_run(source: str, played: Game, run: int, downloads: Path) -> SourceFolder:
    """Return the folder of the files of a run.

    Args:
        source: a path or an address such as gs://atari-replay-datasets/dqn, of the folder of all
            games, of one game, of one run or of its files.
        played: the game.
        run: 1 to 5 in the public data.
        downloads: folder for copies of files of another machine.

    Raises:
        ReplayError: if there is no such run, or the folder is another game's.
    """
    filesystem, root = find_source(source)
    looked = []
    for middle in (f"/dqn/{played.name}/{run}", f"/{played.name}/{run}", f"/{run}", ""):
        for path in (f"{root}{middle}/replay_logs", root + middle):
            folder = SourceFolder(filesystem, path, downloads)
            if any(_FILE.fullmatch(name) for name in folder.names()):
                _check_folder(path, played, run)
                return folder
            looked.append(path)
    raise ReplayError(
        f"Expected the files of {played.name}, run {run}, such as $store$_observation_ckpt.0.gz, "
        f"under {source}; there are none in " + ", ".join(looked)
    )


def _check_folder(path: str, played: Game, run: int) -> None:
    """Raise an error if the folder's name says that it is of another game or run."""
    parts = path.removesuffix("/replay_logs").split("/")
    if parts[-1].isdecimal():
        if int(parts[-1]) != run:
            raise ReplayError(f"Expected files of run {run} in {path}, which is another run.")
        parts.pop()
    try:
        named = game(parts[-1])
    except ValueError:
        return
    if named != played:
        raise ReplayError(
            f"Expected files of {played.name} in {path}, which is {named.name} by its name; "
            f"choose --game {named.name} or another source."
        )


def logged_buffers(
    folder: SourceFolder, played: Game, protocol: AtariProtocol
) -> list[LoggedBuffer]:
    """Return the buffers whose files are in a folder, by suffix. Only headers are read.

    Raises:
        ReplayError: if a file is missing, or its array has the wrong type or shape.
    """
    names: dict[tuple[str, int], str] = {}
    for name in folder.names():
        if match := _FILE.fullmatch(name):
            names[match[1].removeprefix("$store$_"), int(match[2])] = name
    suffixes = sorted({suffix for _, suffix in names})
    kinds = [*DTYPES, "add_count"]
    for suffix in suffixes:
        if absent := [kind for kind in kinds if (kind, suffix) not in names]:
            raise ReplayError(
                f"Expected the files {', '.join(kinds)} of suffix {suffix} in {folder.address}, "
                f"there is no {' and no '.join(absent)}."
            )
    keys = sorted(names)
    heads = folder.heads((names[key] for key in keys), gzip_arrays.HEAD_BYTES)
    arrays = {
        key: GzipArray(folder, names[key], head) for key, head in zip(keys, heads, strict=True)
    }
    # Of nothing, or without rows: then the shape is wrong.
    capacity = max(arrays["observation", suffixes[0]].shape[:1], (1,))
    side = protocol.screen_size
    for (kind, _), array in arrays.items():
        dtype = DTYPES.get(kind, np.dtype(np.int64))
        shape = {"observation": (*capacity, side, side), "add_count": ()}.get(kind, capacity)
        if (array.dtype, array.shape) != (dtype, shape):
            raise ReplayError(
                f"Expected {dtype} of shape {shape} in {array.path}, "
                f"found {array.dtype} of shape {array.shape}."
            )
    return [
        LoggedBuffer(
            suffix=suffix,
            add_count=int(arrays["add_count", suffix].read()),
            columns={kind: arrays[kind, suffix] for kind in DTYPES},
            num_actions=len(played.minimal_actions),
        )
        for suffix in suffixes
    ]


def equal_rows(one: LoggedBuffer, other: LoggedBuffer, start: int, stop: int) -> bool:
    """Return whether two buffers hold the same from row `start` to before row `stop`."""
    for rows, others in zip(one.rows(start, stop), other.rows(start, stop), strict=True):
        if rows is None or others is None:
            continue
        for column in ("actions", "rewards", "ends", "frames"):
            if not np.array_equal(getattr(rows, column), getattr(others, column)):
                return False
    return True

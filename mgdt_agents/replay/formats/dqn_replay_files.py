"""The files of DQN Replay: where they are, their rows, and which rows follow one another."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.formats import gzip_arrays
from mgdt_agents.replay.formats.gzip_arrays import GzipArray
from mgdt_agents.replay.formats.importing import SourceFolder, find_source
from mgdt_envs import AtariProtocol, Game, game

ROWS_PER_BLOCK = 128
MAX_CAPACITY = 20_000_000  # rows; the public data have 1,000,000
ZERO_ROWS = 3  # before each episode: the frames of an observation, less one
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
    terminal: np.ndarray
    """`(N,)` uint8, 1 where the action ended the episode."""

    def is_zero(self, row: int) -> bool:
        """Return whether everything in the row with this place among these is zero."""
        columns = (self.actions, self.rewards, self.terminal, self.frames)
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
        actions, rewards, terminal = (
            self._column(name, start, stop) for name in ("action", "reward", "terminal")
        )
        first = 0
        for frames in self.columns["observation"].blocks(ROWS_PER_BLOCK):
            here = slice(max(start - first, 0), max(stop - first, 0))
            if len(frames[here]):
                row = first + here.start
                among = slice(row - start, row - start + len(frames[here]))
                yield Rows(
                    self.path, row, frames[here], actions[among], rewards[among], terminal[among]
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
    if capacity[0] > MAX_CAPACITY:
        raise ReplayError(
            f"Expected at most {MAX_CAPACITY:,} rows in {arrays['observation', suffixes[0]].path}, "
            f"found {capacity[0]:,} announced."
        )
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
        for column in ("actions", "rewards", "terminal", "frames"):
            if not np.array_equal(getattr(rows, column), getattr(others, column)):
                return False
    return True


class RowState(Enum):
    """What the next row is."""

    BEFORE_EPISODE = auto()
    """One of the zero rows that stand before an episode."""
    IN_EPISODE = auto()
    AFTER_LOST_PASS = auto()
    """One of the zero rows for which the pass was lost, or the episode's first."""
    AFTER_MISSING_FILE = auto()
    """The same, or within an episode whose beginning is missing."""
    IN_HEADLESS_EPISODE = auto()
    """Of an episode whose beginning is missing."""


class Stretch(NamedTuple):
    """What a buffer adds to the rows of those before it."""

    buffer: LoggedBuffer
    parts: tuple[tuple[int, int], ...]
    """Rows from and to before, in their order in time. The first part ends the buffer's files, so
    that a damaged file is found before a row of it is used."""
    state: RowState | None
    """What the first row is; `None` where it follows from the rows before."""


def chronological(buffers: list[LoggedBuffer]) -> list[LoggedBuffer]:
    """Return the buffers that have rows of their own, in the order in which they were logged.

    Training that was interrupted begins again some way back, and may log a pass once more under
    another suffix; only the second one goes on in the next pass. A final buffer that was logged
    before training went on is part of a later pass.

    Args:
        buffers: by suffix.

    Raises:
        ReplayError: if the writer cannot have logged such numbers of rows.
    """
    ordered: list[LoggedBuffer] = []
    for buffer in buffers:
        if buffer.is_final:
            ordered.append(buffer)
            continue
        if buffer.add_count % buffer.capacity != buffer.capacity - 1:
            raise ReplayError(
                f"Expected an add_count of one less than a multiple of {buffer.capacity:,}, or a "
                f"smaller one, for suffix {buffer.suffix} of {buffer.path}, "
                f"found {buffer.add_count:,}."
            )
        ordered = [
            other
            for other in ordered
            if not other.is_final and other.pass_number != buffer.pass_number
        ]
        if ordered and ordered[-1].pass_number > buffer.pass_number:
            raise ReplayError(
                f"Expected add_count to grow with the suffix; {buffer.path} was logged before "
                f"{ordered[-1].path}."
            )
        ordered.append(buffer)
    return ordered


def next_stretch(buffer: LoggedBuffer, previous: LoggedBuffer | None) -> Stretch | None:
    """Return what `buffer` adds to the rows of the buffers up to `previous`, `None` if nothing."""
    last = buffer.capacity - 1
    if buffer.is_final:
        return _final_stretch(buffer, previous)
    if buffer.pass_number == 0:
        # An empty part: it only reads to the end.
        return Stretch(buffer, ((last + 1, last + 1), (0, last)), RowState.BEFORE_EPISODE)
    previous_pass = previous.pass_number if previous else -1
    previous_suffix = previous.suffix if previous else -1
    if previous and buffer.pass_number == previous_pass + 1:
        state = None
    elif buffer.suffix == previous_suffix + 1:
        state = RowState.AFTER_LOST_PASS
    else:
        state = RowState.AFTER_MISSING_FILE
    return Stretch(buffer, ((last, last + 1), (0, last)), state)


def _final_stretch(buffer: LoggedBuffer, previous: LoggedBuffer | None) -> Stretch | None:
    """Return what a final buffer adds, `None` if it repeats the previous one.

    Raises:
        ReplayError: if it is the second and not the same as the first.
    """
    last, cursor = buffer.capacity - 1, buffer.add_count
    if previous is None:
        if buffer.suffix == 0 and _begins_with_zero_rows(buffer, min(cursor, ZERO_ROWS)):
            return Stretch(buffer, ((last + 1, last + 1), (0, cursor)), RowState.BEFORE_EPISODE)
    elif previous.is_final:
        if previous.add_count == cursor and equal_rows(previous, buffer, 0, cursor):
            return None
        raise ReplayError(
            f"Expected {buffer.path} to repeat {previous.path}, because both were logged at the "
            "end of training; keep the one that belongs to the other files."
        )
    elif cursor == last:  # then the previous one was logged at this very row
        if equal_rows(previous, buffer, 0, last):
            return None
    elif equal_rows(previous, buffer, cursor, last):
        return Stretch(buffer, ((last, last + 1), (0, cursor)), None)
    # Its older rows are of a pass that is not in the files.
    return Stretch(buffer, ((cursor, last + 1), (0, cursor)), RowState.IN_HEADLESS_EPISODE)


def _begins_with_zero_rows(buffer: LoggedBuffer, count: int) -> bool:
    blocks = filter(None, buffer.rows(0, count))
    return all(rows.is_zero(row) for rows in blocks for row in range(len(rows.terminal)))

"""Passes over the ring: which rows of which files follow one another."""

from enum import Enum, auto
from typing import NamedTuple

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.importers.dqn_replay.files import LoggedBuffer, equal_rows

ZERO_ROWS = 3  # before each episode: the frames of an observation, less one


class RowState(Enum):
    """What the next row is."""

    BEFORE_EPISODE = auto()
    """One of the zero rows that stand before an episode."""
    IN_EPISODE = auto()
    AFTER_LOST_PASS = auto()
    """One of the zero rows for which the pass was lost, or the episode's first."""
    AFTER_MISSING_FILE = auto()
    """The same, or within an episode whose beginning is missing."""
    IN_CUT_EPISODE = auto()
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
        ReplayError: if their numbers of rows are none that the writer could have logged.
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
    return Stretch(buffer, ((cursor, last + 1), (0, cursor)), RowState.IN_CUT_EPISODE)


def _begins_with_zero_rows(buffer: LoggedBuffer, count: int) -> bool:
    blocks = filter(None, buffer.rows(0, count))
    return all(rows.is_zero(row) for rows in blocks for row in range(len(rows.ends)))

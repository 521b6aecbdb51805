"""A run of DQN Replay, its episodes in their order in time, and a store of them."""

import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mgdt_agents.replay.importers.dqn_replay.episodes import EpisodeCutter
from mgdt_agents.replay.importers.dqn_replay.files import (
    LoggedBuffer,
    Rows,
    find_run,
    logged_buffers,
)
from mgdt_agents.replay.importers.dqn_replay.gzip_arrays import read_ahead
from mgdt_agents.replay.importers.dqn_replay.passes import Stretch, chronological, next_stretch
from mgdt_agents.replay.importers.writing import Episode, write_import
from mgdt_envs import AtariProtocol
from mgdt_envs import game as find_game


class Position(NamedTuple):
    """A place in a run, behind the last row of an episode."""

    suffix: int
    rows: int
    """Rows before it of those that the files of this suffix add, in their order in time."""


class _Piece(NamedTuple):
    """Rows of a stretch."""

    stretch: Stretch
    time: int
    """Rows of the stretch before these, in their order in time."""
    rows: Rows


class DQNReplayRun:
    """One run of an agent whose replay buffers were logged.

    Args:
        source: where the files are, see `find_run`.
        game: name of the game.
        run: 1 to 5 in the public data.
        protocol: that of the recording; the default is DQN Replay's.
        downloads: folder for copies of files of another machine.

    Attributes:
        game: the `Game`.
        buffers: those that are read, in the order in which they were logged.
        missing_passes: passes over the ring, before the last, that no file holds.
        num_rows: rows that there are to read.

    Raises:
        ReplayError: if there is no such run, or its files do not fit one another.
    """

    def __init__(
        self, source: str, game: str, run: int, *, protocol: AtariProtocol, downloads: Path
    ) -> None:
        """Read the headers of the files."""
        self.game, self.run, self.protocol = find_game(game), run, protocol
        self.folder = find_run(source, self.game, run, downloads)
        self.buffers = chronological(logged_buffers(self.folder, self.game, protocol))
        passes = {buffer.pass_number for buffer in self.buffers if not buffer.is_final}
        self.missing_passes = sorted(set(range(max(passes, default=0))) - passes)
        self.num_rows = sum(
            buffer.add_count if buffer.is_final else buffer.capacity for buffer in self.buffers
        )

    def episodes(
        self, start: Position | None = None, *, num_threads: int
    ) -> Generator[tuple[Episode, Position], None, None]:
        """Yield the whole episodes in their order in time, each with the position behind it.

        Args:
            start: go on from this position, which an earlier call yielded.
            num_threads: threads that decompress files.

        Raises:
            ReplayError: if a file is damaged, or its rows are not as they must be.
        """
        cutter = EpisodeCutter(self.game, self.protocol)
        current: LoggedBuffer | None = None
        self.folder.stopped.clear()
        try:
            for stretch, time, rows in read_ahead(self._jobs(start), num_threads):
                if time == 0 and stretch.state is not None:
                    cutter.begin(stretch.state)
                if stretch.buffer is not current:
                    # By now the next buffer has been compared with that one, if need be.
                    if current is not None:
                        current.discard()
                    current = stretch.buffer
                for episode, end in cutter.cut(rows):
                    yield episode, Position(stretch.buffer.suffix, time + end)
        finally:
            self.folder.stopped.set()

    def _jobs(self, start: Position | None) -> Iterator[Callable[[], Iterator[_Piece | None]]]:
        previous = None
        for buffer in self.buffers:
            if start is not None and buffer.suffix < start.suffix:
                previous = buffer
                continue
            stretch = next_stretch(buffer, previous)
            if stretch is None:
                continue
            skipped = start.rows if start is not None and buffer.suffix == start.suffix else 0
            time = 0
            for first, end in stretch.parts:
                behind = time + end - first
                if behind > skipped or not skipped:
                    yield partial(_read_part, stretch, time, first, end, skipped)
                time = behind
            previous = buffer


def _read_part(
    stretch: Stretch, time: int, first: int, end: int, skipped: int
) -> Iterator[_Piece | None]:
    """Yield rows `first` to before `end`, of which the first comes at `time` in the stretch.

    Those that come before `skipped` are left out.
    """
    for rows in stretch.buffer.rows(first + max(skipped - time, 0), end):
        yield rows and _Piece(stretch, time + rows.first - first, rows)


def import_dqn_replay(
    run: DQNReplayRun,
    output: str | Path,
    *,
    limit_steps: int | None = None,
    num_threads: int = 0,
    on_steps: Callable[[int], object] = lambda steps: None,
) -> None:
    """Write the whole episodes of a run to a store, or go on where an import was cut off.

    Args:
        run: what to import. It is only read.
        output: the store's folder. A store there of the same import with a lower limit is
            extended; one without is left as it is.
        limit_steps: import the first episodes that have no more steps than that together.
        num_threads: threads that decompress files; 0 takes one a core, two at least. The store
            does not depend on it.
        on_steps: called with the number of steps in the store, for a progress bar.

    Raises:
        ReplayError: if a file is damaged, or `output` is not of this import.
    """
    source = {
        "kind": "dqn-replay",
        "path": run.folder.address,
        "run": run.run,
        "logged_buffers": len(run.buffers),
        "missing_passes": run.missing_passes,
        "rewards_clipped": True,
        "rom_match": run.game.rom_match,
    }
    num_threads = num_threads or max(os.cpu_count() or 1, 2)

    def episodes(position: list[int] | None) -> Generator[tuple[Episode, Position], None, None]:
        return run.episodes(Position(*position) if position else None, num_threads=num_threads)

    write_import(
        output,
        run.game.name,
        run.protocol,
        source,
        episodes,
        limit_steps=limit_steps,
        on_steps=on_steps,
    )
    for buffer in run.buffers:
        buffer.discard()

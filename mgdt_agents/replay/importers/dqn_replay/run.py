"""A run of DQN Replay, its episodes in their order in time, and a store of them."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.importers.dqn_replay.episodes import Episode, EpisodeCutter
from mgdt_agents.replay.importers.dqn_replay.files import (
    LoggedBuffer,
    Rows,
    find_run,
    logged_buffers,
)
from mgdt_agents.replay.importers.dqn_replay.gzip_arrays import read_ahead
from mgdt_agents.replay.importers.dqn_replay.passes import Stretch, chronological, next_stretch
from mgdt_agents.replay.store import partial_folder, read_meta
from mgdt_agents.replay.writer import ReplayWriter
from mgdt_envs import AtariProtocol
from mgdt_envs import game as find_game

FLUSH_STEPS = 50_000  # that a killed import writes again at most


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
    output = Path(output)
    source = {
        "kind": "dqn-replay",
        "path": run.folder.address,
        "run": run.run,
        "logged_buffers": len(run.buffers),
        "missing_passes": run.missing_passes,
        "rewards_clipped": True,
        "rom_match": run.game.rom_match,
    }
    if _is_done(output, source, limit_steps):
        return
    num_threads = num_threads or max(os.cpu_count() or 1, 2)
    with ReplayWriter(output, run.game.name, run.protocol, source, resume=True) as writer:
        position = None
        if writer.progress and writer.progress["position"]:
            position = Position(*writer.progress["position"])
        flushed = writer.num_steps
        stopped_at = None
        with closing(run.episodes(position, num_threads=num_threads)) as episodes:
            for episode, behind in episodes:
                steps = writer.num_steps + len(episode.actions)
                if limit_steps is not None and steps > limit_steps:
                    stopped_at = limit_steps
                    break
                writer.add_episode(*episode[:3], truncated=episode.truncated)
                position = behind
                if writer.num_steps - flushed >= FLUSH_STEPS:
                    writer.flush({"position": position})
                    flushed = writer.num_steps
                on_steps(writer.num_steps)
        writer.flush({"position": position, "stopped_at": stopped_at})
    for buffer in run.buffers:
        buffer.discard()


def _is_done(output: Path, source: dict[str, Any], limit_steps: int | None) -> bool:
    """Return whether `output` is a store to which this import would add nothing.

    Raises:
        ReplayError: if it holds anything that is not the beginning of this import.
    """
    meta = read_meta(partial_folder(output)) or read_meta(output)
    if meta is None:
        return False
    if meta["source"] != source:
        raise ReplayError(
            f"Expected nothing at {output}, or a part of this import; found an import or a play "
            f"of {meta['source']}. Choose another --output or remove it first."
        )
    if limit_steps is not None and meta["steps"] > limit_steps:
        raise ReplayError(
            f"Expected at most {limit_steps:,} steps at {output}, found {meta['steps']:,}. "
            "Raise --limit-steps, choose another --output or remove it first."
        )
    if "checksums" not in meta or "stopped_at" not in (meta.get("progress") or {}):
        return False
    stopped_at = meta["progress"]["stopped_at"]
    return stopped_at is None or (limit_steps is not None and limit_steps <= stopped_at)

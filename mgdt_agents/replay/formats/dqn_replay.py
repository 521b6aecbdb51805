"""DQN Replay (Agarwal et al. 2020): logged replay buffers of DQN agents, as Dopamine wrote them.

The agent's replay buffer was a ring of `capacity` rows (1,000,000 in the public data), written to
files with a running suffix whenever it was nearly full. A row is the frame before an action, the
action, its reward clipped to [-1, 1], and whether it ended the episode. What has to be undone:

- A file was written when all rows but the last were. Its last row is left over from the pass over
  the ring before, which is where it belongs: passes follow one another as row `capacity` - 1 of
  the next file, rows 0 to `capacity` - 2 of the next file. In the first file it is garbage.
- Three zero rows stand before each episode.
- A pass is not in the files at all if these zeros went over the row at which it would have been
  written, or if a file is missing.
- The last file was written at the end of training, in the middle of a pass.
- Time-outs are stored as ends of the game. Episodes as long as the protocol's limit (27,000 steps
  in the public data) are taken for truncated.

Sources: google-research/batch_rl@6f7f4d5, `logged_replay_buffer.py`, and the files that it writes
with Dopamine 491e786, whose `circular_replay_buffer.py` has the ring and the zero rows.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.formats.dqn_replay_files import (
    ZERO_ROWS,
    LoggedBuffer,
    Rows,
    RowState,
    Stretch,
    chronological,
    find_run,
    logged_buffers,
    next_stretch,
)
from mgdt_agents.replay.formats.gzip_arrays import read_ahead
from mgdt_agents.replay.formats.importing import Episode, Recording
from mgdt_envs import AtariProtocol, Game
from mgdt_envs import game as find_game
from mgdt_envs.emulator import check_num_threads


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


class DQNReplayRun(Recording):
    """One run of an agent whose replay buffers were logged.

    Args:
        source: where the files are, see `find_run`.
        game: name of the game.
        run: 1 to 5 in the public data.
        protocol: that of the recording; the default is DQN Replay's.
        downloads: folder for copies of files of another machine.
        num_threads: threads that decompress files; 0 takes one a core, two at least. The episodes
            do not depend on it.

    Attributes, beside those of a recording:
        buffers: those that are read, in the order in which they were logged.
        missing_passes: passes over the ring, before the last, that no file holds.

    Raises:
        ReplayError: if there is no such run, or its files do not fit one another.
    """

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
        self._num_threads = num_threads or max(os.cpu_count() or 1, 2)
        self.folder = find_run(source, self.game, run, downloads)
        self.buffers = chronological(logged_buffers(self.folder, self.game, protocol))
        passes = {buffer.pass_number for buffer in self.buffers if not buffer.is_final}
        self.missing_passes = sorted(set(range(max(passes, default=0))) - passes)
        self.max_steps = sum(
            buffer.add_count if buffer.is_final else buffer.capacity for buffer in self.buffers
        )
        self.source = {
            "kind": "dqn-replay",
            "path": self.folder.address,
            "run": run,
            "logged_buffers": len(self.buffers),
            "missing_passes": self.missing_passes,
            "max_episode_steps": protocol.max_frames // protocol.frame_skip,
            "rewards_clipped": True,
            "rom_match": self.game.rom_match,
        }

    def episodes(
        self, start: Sequence[int] | None = None
    ) -> Generator[tuple[Episode, Position], None, None]:
        """Yield the whole episodes in their order in time, each with the position behind it.

        Args:
            start: go on from this `Position`, which an earlier call yielded.

        Raises:
            ReplayError: if a file is damaged, or its rows are not as they must be.
        """
        splitter = EpisodeSplitter(self.game, self.protocol)
        current: LoggedBuffer | None = None
        position = Position(*start) if start else None
        self.folder.stopped.clear()
        try:
            for stretch, time, rows in read_ahead(self._jobs(position), self._num_threads):
                if time == 0 and stretch.state is not None:
                    splitter.begin(stretch.state)
                if stretch.buffer is not current:
                    # By now the next buffer has been compared with that one, if need be.
                    if current is not None:
                        current.discard()
                    current = stretch.buffer
                for episode, end in splitter.split(rows):
                    yield episode, Position(stretch.buffer.suffix, time + end)
        finally:
            self.folder.stopped.set()

    def discard(self) -> None:
        """Remove copies of files of another machine."""
        for buffer in self.buffers:
            buffer.discard()

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


class EpisodeSplitter:
    """Split rows that follow one another into whole episodes, wherever blocks and files end."""

    def __init__(self, game: Game, protocol: AtariProtocol) -> None:
        self.action_ids = np.array(game.minimal_actions, np.uint8)
        self.max_steps = protocol.max_frames // protocol.frame_skip
        side = protocol.screen_size
        # Takes memory where it is written to.
        self.frames = np.empty((self.max_steps, side, side), np.uint8)
        self.actions = np.empty(self.max_steps, np.uint8)
        self.rewards = np.empty(self.max_steps, np.float32)
        self.begin(RowState.BEFORE_EPISODE)

    def begin(self, state: RowState) -> None:
        """Drop the episode that is open; the next row is what `state` says."""
        self.state, self.zero_rows, self.steps = state, 0, 0

    def split(self, rows: Rows) -> Iterator[tuple[Episode, int]]:
        """Yield the episodes that end in `rows`, each with the number of rows up to its end."""
        row, stop = 0, len(rows.terminal)
        while row < stop:
            if self.state not in (RowState.IN_EPISODE, RowState.IN_HEADLESS_EPISODE):
                row += self._zero_row(rows, row)
                continue
            is_over = rows.terminal[row:].any()
            end = row + int(rows.terminal[row:].argmax()) + 1 if is_over else stop
            if self.state is RowState.IN_EPISODE:
                self._append(rows, row, end)
                if is_over:
                    yield self._episode(), end
            if is_over:
                self.begin(RowState.BEFORE_EPISODE)
            row = end

    def _zero_row(self, rows: Rows, row: int) -> bool:
        """Return whether a row is one of the zero rows before an episode, else change the state.

        Raises:
            ReplayError: if it had to be one and is not.
        """
        before_episode = self.state is RowState.BEFORE_EPISODE
        after_lost_pass = self.state is RowState.AFTER_LOST_PASS
        is_zero = rows.is_zero(row)
        if before_episode and not is_zero:
            raise ReplayError(
                f"Expected {ZERO_ROWS} zero rows before each episode, found row "
                f"{rows.first + row:,} of {rows.path} after {self.zero_rows} of them."
            )
        # Of those that cost a pass, one at least belongs to that pass.
        if is_zero and self.zero_rows < ZERO_ROWS - after_lost_pass:
            self.zero_rows += 1
            if before_episode and self.zero_rows == ZERO_ROWS:
                self.state = RowState.IN_EPISODE
            return True
        # Where a file is missing, all three or none say nothing of what comes next.
        is_whole = after_lost_pass or 0 < self.zero_rows < ZERO_ROWS
        self.state = RowState.IN_EPISODE if is_whole else RowState.IN_HEADLESS_EPISODE
        return False

    def _append(self, rows: Rows, start: int, stop: int) -> None:
        begin, self.steps = self.steps, self.steps + stop - start
        if self.steps > self.max_steps:
            raise ReplayError(
                f"Expected each episode to end within {self.max_steps:,} steps, found more before "
                f"row {rows.first + stop:,} of {rows.path}."
            )
        here, there = slice(begin, self.steps), slice(start, stop)
        self.frames[here] = rows.frames[there]
        self.actions[here] = self.action_ids[rows.actions[there]]
        self.rewards[here] = rows.rewards[there]

    def _episode(self) -> Episode:
        steps = self.steps
        # The files do not tell; it is as long as the time limit, which ended it in all likelihood.
        truncated = steps == self.max_steps
        return Episode(self.frames[:steps], self.actions[:steps], self.rewards[:steps], truncated)

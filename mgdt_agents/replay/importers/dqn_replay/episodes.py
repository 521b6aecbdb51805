"""Rows cut into episodes."""

from collections.abc import Iterator

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.importers.dqn_replay.files import Rows
from mgdt_agents.replay.importers.dqn_replay.passes import ZERO_ROWS, RowState
from mgdt_agents.replay.importers.writing import Episode
from mgdt_envs import AtariProtocol, Game


class EpisodeCutter:
    """Cut rows that follow one another into whole episodes, wherever blocks and files end."""

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

    def cut(self, rows: Rows) -> Iterator[tuple[Episode, int]]:
        """Yield the episodes that end in `rows`, each with the number of rows up to its end."""
        row, stop = 0, len(rows.ends)
        while row < stop:
            if self.state not in (RowState.IN_EPISODE, RowState.IN_CUT_EPISODE):
                row += self._zero_row(rows, row)
                continue
            has_end = rows.ends[row:].any()
            end = row + int(rows.ends[row:].argmax()) + 1 if has_end else stop
            if self.state is RowState.IN_EPISODE:
                self._append(rows, row, end)
                if has_end:
                    yield self._episode(), end
            if has_end:
                self.begin(RowState.BEFORE_EPISODE)
            row = end

    def _zero_row(self, rows: Rows, row: int) -> bool:
        """Return whether a row is one of the zero rows before an episode, else change the state.

        Raises:
            ReplayError: if it had to be one and is none.
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
        self.state = RowState.IN_EPISODE if is_whole else RowState.IN_CUT_EPISODE
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

"""Parts of a trace: which of its play a store gets."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.splits import split_range, split_ranges
from mgdt_agents.replay.trace import Trace
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What of a trace is played and kept; by default, all."""

    environments: int | None = None
    """Play only this many of the environments that were recorded together, the first ones: the
    whole run in a part of its time and size. Checksums are over all environments, so what is
    compared then is the ends and returns of episodes."""
    split: Literal["random", "medium", "expert", "mixed"] | None = None
    """Keep the episodes of this split alone (random, medium, expert, mixed), and play no longer."""
    limit_steps: int | None = None
    """Keep the first episodes that have no more steps than that together, and play no longer."""

    def count_environments(self, trace: Trace) -> int:
        """Return how many environments are played.

        Raises:
            ValueError: if the trace has fewer than are asked for.
        """
        recorded = len(trace.seeds)
        if self.environments is None:
            return recorded
        if not 1 <= self.environments <= recorded:
            raise InvalidArgument(
                f"Expected 1 to {recorded} environments, as the trace of {trace.game} has, got "
                f"{self.environments}."
            )
        return self.environments

    def episodes(self, trace: Trace) -> np.ndarray:
        """Return the numbers of the trace's episodes that are kept, one or more, ascending.

        Raises:
            ReplayError: if the trace does not give the split; if no episode is left, or the first
                has more steps than the limit.
            ValueError: if the trace has no whole episodes, or too few environments.
        """
        if not len(trace.episode_return):
            raise InvalidArgument(
                f"Expected a trace with whole episodes, none of this one of {trace.game} ended "
                f"within its {trace.actions.size:,} steps; record more steps."
            )
        kept = np.arange(len(trace.episode_return))
        if self.split is not None:
            episodes = split_range(self.split, *_play(trace), what=f"The trace of {trace.game}")
            kept = kept[episodes.start : episodes.stop]
        kept = kept[trace.episode_env[kept] < self.count_environments(trace)]
        if not len(kept):
            raise ReplayError(
                f"None of the episodes of {trace.game} that were asked for is of the first "
                f"{self.environments} environments; take more."
            )
        if self.limit_steps is None:
            return kept
        lengths = trace.episode_lengths[kept]
        if lengths[0] > self.limit_steps:
            raise ReplayError(
                f"Expected a limit of at least {lengths[0]:,} steps, those of the first episode "
                f"of {trace.game}, got {self.limit_steps:,}."
            )
        return kept[: np.searchsorted(lengths.cumsum(), self.limit_steps, side="right")]

    def count_rows(self, trace: Trace) -> int:
        """Return how many steps of each environment are played.

        Raises:
            ReplayError, ValueError: as `episodes`.
        """
        newest = int(self.episodes(trace)[-1])
        last = int(trace.episode_end_step[newest]) + 1
        if self.count_environments(trace) < len(trace.seeds):
            return last
        if newest == len(trace.episode_return) - 1:
            return len(trace.actions)
        if trace.version == 1:  # whose checksums do not cover actions before the end
            return last
        # Up to the next checksum, which tells whether the last actions are the recorded ones.
        interval = trace.checksum_interval
        return min(-(-last // interval) * interval + 1, len(trace.actions))

    def source(self, trace: Trace) -> dict[str, Any]:
        """Return what a store says of the trace, as JSON gives it back.

        Stores of some environments or of a split say which of their episodes are which splits of
        the trace (`splits`): measured over fewer episodes, levels would be others.
        """
        checksum = f"{trace.checksum:08x}"
        source: dict[str, Any] = {"kind": "trace", "ale_py": trace.ale_py}
        source |= {"trace_checksum": checksum, **trace.source}
        for name in ("environments", "split", "limit_steps"):
            if (value := getattr(self, name)) is not None:
                source[name] = value
        if self.count_environments(trace) < len(trace.seeds):
            source["compared"] = "ends and returns of episodes"  # in place of checksums
        if self.environments is not None or self.split is not None:
            kept, ranges = self.episodes(trace), split_ranges(*_play(trace))
            source["splits"] = {
                name: np.searchsorted(kept, [episodes.start, episodes.stop]).tolist()
                for name, episodes in ranges.items()
                if self.split in (None, name)
            }
        return files.check_json(source, "source")


def _play(trace: Trace) -> tuple[Any, ...]:
    """Return what splits depend on."""
    return trace.game, trace.protocol, {}, trace.episode_return

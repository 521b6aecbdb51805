"""What all imports share: episodes become a store, and an import that was cut off goes on."""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.store import partial_folder, read_meta
from mgdt_agents.replay.writer import ReplayWriter
from mgdt_envs import AtariProtocol

FLUSH_STEPS = 50_000  # that a killed import writes again at most


class Episode(NamedTuple):
    """A whole episode of T steps. The next one may overwrite the arrays."""

    frames: np.ndarray
    """`(T, height, width)` uint8, before each action."""
    actions: np.ndarray
    """`(T,)` full-set ids."""
    rewards: np.ndarray
    """`(T,)`, as the source has them."""
    truncated: bool
    """Whether a time limit ended it, as far as the source tells."""


def write_import(
    output: str | Path,
    game: str,
    protocol: AtariProtocol,
    source: dict[str, Any],
    episodes: Callable[[Any], Generator[tuple[Episode, Any], None, None]],
    *,
    limit_steps: int | None = None,
    on_steps: Callable[[int], object] = lambda steps: None,
) -> None:
    """Write whole episodes to a store, or go on where an import was cut off.

    Args:
        output: the store's folder. A store there of the same import with a lower limit is
            extended; one without is left as it is.
        game: name of the game.
        protocol: the rules the play was recorded under.
        source: JSON types that say what is imported, the same whenever it is.
        episodes: yields the episodes after a position, or all after None, each with the position
            behind it, which is of JSON types.
        limit_steps: import the first episodes that have no more steps than that together.
        on_steps: called with the number of steps in the store, for a progress bar.

    Raises:
        ReplayError: if `output` is not of this import, or a file cannot be written.
    """
    output = Path(output)
    if _is_done(output, source, limit_steps):
        return
    with ReplayWriter(output, game, protocol, source, resume=True) as writer:
        position = writer.progress["position"] if writer.progress else None
        flushed = writer.num_steps
        stopped_at = None
        with closing(episodes(position)) as rest:
            for episode, behind in rest:
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


def _is_done(output: Path, source: dict[str, Any], limit_steps: int | None) -> bool:
    """Return whether `output` is a store to which this import would add nothing.

    Raises:
        ReplayError: if it holds anything that is not the beginning of this import.
    """
    partial = read_meta(partial_folder(output))
    meta = partial or read_meta(output)
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
    # A partial folder may hold all, when only its name was wanting: the writer gives it that.
    if partial or "stopped_at" not in (meta.get("progress") or {}):
        return False
    stopped_at = meta["progress"]["stopped_at"]
    return stopped_at is None or (limit_steps is not None and limit_steps <= stopped_at)

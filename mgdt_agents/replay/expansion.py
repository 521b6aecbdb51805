"""Stores from traces: what was played is played again."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py
import blosc2
import numpy as np

from mgdt_agents.errors import TraceDivergedError
from mgdt_agents.replay.store import partial_folder, read_meta
from mgdt_agents.replay.trace import Trace
from mgdt_agents.replay.writer import ReplayWriter, settle
from mgdt_envs.emulator import check_num_threads
from mgdt_envs.errors import InvalidArgument, OutputExists


class _EpisodeBuffer:
    """The steps of one unfinished episode; its frames wait compressed, 256 at a time.

    Raw, the unfinished episodes of 32 environments can take gigabytes.
    """

    def __init__(self, frame_shape: tuple[int, ...]) -> None:
        self.block = np.empty((256, *frame_shape), np.uint8)
        self.packs: list[bytes] = []
        self.actions: list[int] = []
        self.rewards: list[float] = []

    def add(self, frame: np.ndarray, action: int, reward: float) -> None:
        place = len(self.actions) % len(self.block)
        self.block[place] = frame
        self.actions.append(action)
        self.rewards.append(reward)
        if place == len(self.block) - 1:
            self.packs.append(blosc2.compress2(self.block, codec=blosc2.Codec.LZ4))

    def frames(self) -> np.ndarray:
        full = [np.empty_like(self.block) for _ in self.packs]
        for pack, frames in zip(self.packs, full, strict=True):
            blosc2.decompress2(pack, dst=frames)
        return np.concatenate([*full, self.block[: len(self.actions) % len(self.block)]])


def expand(
    trace: Trace,
    output: str | Path,
    *,
    limit_steps: int | None = None,
    num_threads: int = 0,
    on_step: Callable[[], object] = lambda: None,
) -> None:
    """Regenerate a store from a trace.

    Steps of episodes that the recording did not finish are left out: their return is unknown. If
    it is killed, the same call begins anew; if the store is there already, nothing is played.

    Args:
        trace: what to regenerate.
        output: the store's folder.
        limit_steps: regenerate the first episodes that have no more steps than that together; the
            play ends at the first checksum after the last of them.
        num_threads: emulator threads; 0 takes one a core. The store does not depend on it.
        on_step: called after each step of the trace, for a progress bar.

    Raises:
        TraceDivergedError: if frames, ends or returns are not those recorded. No store is left
            then.
        ReplayError: if the first episode has more than `limit_steps`.
        FileExistsError: if `output` is anything else than that store.
    """
    check_num_threads(num_threads)
    if not len(trace.episode_return):
        raise InvalidArgument(
            f"Expected a trace with whole episodes, none of this one of {trace.game} ended within "
            f"its {trace.actions.size:,} steps; record more steps."
        )
    num_episodes = len(trace.episode_return)
    if limit_steps is not None:
        num_episodes = trace.episodes_within(limit_steps)
    if is_expanded(trace, output, limit_steps=limit_steps):
        return
    num_steps = trace.steps_within(limit_steps)
    recorded: defaultdict[int, dict[int, float]] = defaultdict(dict)
    ends = zip(trace.episode_end_step, trace.episode_env, trace.episode_return, strict=True)
    for number, env, total in ends:
        recorded[int(number)][int(env)] = float(total)
    side = trace.protocol.screen_size
    source = _source(trace, limit_steps)
    with ReplayWriter(output, trace.game, trace.protocol, source) as writer:
        episodes = [_EpisodeBuffer((side, side)) for _ in trace.seeds]
        for number, step in enumerate(trace.play(num_threads)):
            for env in np.flatnonzero(step.is_transition):
                episodes[env].add(step.frames[env], step.actions[env], step.rewards[env])
            ended = np.flatnonzero(step.terminated | step.truncated).tolist()
            returns = {env: float(sum(episodes[env].rewards)) for env in ended}
            _compare_ends(trace, number, returns, recorded[number])
            for env in ended:
                if writer.num_episodes < num_episodes:
                    writer.add_episode(
                        episodes[env].frames(),
                        np.array(episodes[env].actions),
                        np.array(episodes[env].rewards),
                        truncated=not step.terminated[env],
                    )
                episodes[env] = _EpisodeBuffer((side, side))
            on_step()
            if number + 1 == num_steps < len(trace.actions):
                break


def is_expanded(trace: Trace, output: str | Path, *, limit_steps: int | None = None) -> bool:
    """Return whether `output` is a store that `expand` made of the trace.

    Raises:
        FileExistsError: if it is anything else, or the rest of anything else.
    """
    output = Path(output)
    settle(output)
    source = _source(trace, limit_steps)
    for folder in (output, partial_folder(output)):
        meta = read_meta(folder)
        if meta is None and folder == output and folder.exists():
            raise OutputExists(f"{output} exists; choose another folder or remove it first.")
        found = meta and (meta["game"], meta["protocol"], meta["source"])
        if found and found != (trace.game, trace.protocol.to_dict(), source):
            raise OutputExists(
                f"{folder} exists and holds other play; choose another folder or remove it first."
            )
    return output.exists()


def _source(trace: Trace, limit_steps: int | None) -> dict[str, Any]:
    """Return what a store says of the trace, as JSON gives it back."""
    limit = {} if limit_steps is None else {"limit_steps": limit_steps}
    checksum = f"{trace.checksum:08x}"
    source = {"kind": "trace", "ale_py": trace.ale_py, "trace_checksum": checksum}
    return json.loads(json.dumps({**source, **trace.source, **limit}))


def _compare_ends(
    trace: Trace, number: int, returns: dict[int, float], recorded: dict[int, float]
) -> None:
    """Compare the returns of the episodes that ended in a step with the recorded ones."""
    for env in sorted({*returns, *recorded}):
        if returns.get(env) != recorded.get(env):
            found = f"{returns[env]:g}" if env in returns else "no end"
            expected = f"{recorded[env]:g}" if env in recorded else "no end"
            raise TraceDivergedError(
                f"The trace of {trace.game} diverged at or before step {number}: environment {env} "
                f"ended an episode with return {found}, recorded is {expected}. It was recorded "
                f"with ale-py {trace.ale_py}, this is ale-py {ale_py.__version__}."
            )

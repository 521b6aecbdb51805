"""Stores from traces: what was played is played again."""

from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py
import blosc2
import numpy as np

from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.replay.native import native_shape, with_native_frames
from mgdt_agents.replay.parts import Part
from mgdt_agents.replay.store import PROTOCOL, frame_shape, partial_folder, read_meta, verify
from mgdt_agents.replay.trace import Trace
from mgdt_agents.replay.writer import ReplayWriter, settle
from mgdt_envs.emulator import check_num_threads
from mgdt_envs.errors import OutputExists


class _EpisodeBuffer:
    """The steps of one unfinished episode; its frames wait compressed, 256 small ones at a time.

    Raw, the unfinished episodes of 32 environments can take gigabytes.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        count = max(16, min(256, 256 * 84 * 84 // int(np.prod(shape))))
        self.block = np.empty((count, *shape), np.uint8)
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
    part: Part | None = None,
    *,
    obs_type: str = PROTOCOL,
    num_threads: int = 0,
    on_step: Callable[[], object] = lambda: None,
) -> None:
    """Regenerate a store from a trace.

    Steps of episodes that the recording did not finish are left out: their return is unknown. If
    it is killed, the same call begins anew; if the store is there already, nothing is played.

    Args:
        trace: what to regenerate.
        output: the store's folder.
        part: what of the trace; None is all. The play ends at the first checksum after the last
            episode that is kept.
        obs_type: what the frames show: "protocol", or one of `mgdt_agents.replay.native`, for which
            the play is emulated twice.
        num_threads: emulator threads; 0 takes one a core. The store does not depend on it.
        on_step: called after each step of the trace, for a progress bar.

    Raises:
        TraceDivergedError: if frames, ends or returns are not those recorded. No store is left
            then.
        ReplayError, ValueError: if the trace does not hold the part; see `Part`.
        ReplayError: if `output` is that store and damaged.
        FileExistsError: if it is anything else.
    """
    check_num_threads(num_threads)
    part = part or Part()
    kept = part.episodes(trace)
    if is_expanded(trace, output, part, obs_type=obs_type):
        return
    num_envs, num_rows = part.count_environments(trace), part.count_rows(trace)
    recorded: defaultdict[int, dict[int, float]] = defaultdict(dict)
    plans: list[deque[bool]] = [deque() for _ in range(num_envs)]
    is_kept = np.isin(np.arange(len(trace.episode_return)), kept).tolist()
    ends = (trace.episode_end_step, trace.episode_env, trace.episode_return)
    for number, env, total, keeps in zip(
        *(column.tolist() for column in ends), is_kept, strict=True
    ):
        if env < num_envs:
            recorded[number][env] = total
            plans[env].append(keeps)

    def begin(env: int) -> _EpisodeBuffer | None:
        """Return what keeps the next episode of an environment, if that is kept."""
        return _EpisodeBuffer(shape) if plans[env] and plans[env].popleft() else None

    further: dict[str, Any] = {"regenerated_with": {"ale_py": ale_py.__version__}}
    play = trace.play(num_threads, environments=num_envs)
    if obs_type != PROTOCOL:
        further |= {"obs_type": obs_type, "frame_shape": list(native_shape(trace.game, obs_type))}
        play = with_native_frames(play, trace, obs_type, num_threads, num_envs)
    shape = frame_shape(further, trace.protocol)
    source = part.source(trace)
    with ReplayWriter(output, trace.game, trace.protocol, source, further=further) as writer:
        episodes, returns = [begin(env) for env in range(num_envs)], np.zeros(num_envs)
        for number, step in enumerate(play):
            returns += step.rewards * step.is_transition
            for env in np.flatnonzero(step.is_transition):
                if episode := episodes[env]:
                    episode.add(step.frames[env], step.actions[env], step.rewards[env])
            ended = np.flatnonzero(step.terminated | step.truncated).tolist()
            _compare_ends(trace, number, {env: returns[env] for env in ended}, recorded[number])
            for env in ended:
                if episode := episodes[env]:
                    writer.add_episode(
                        episode.frames(),
                        np.array(episode.actions),
                        np.array(episode.rewards),
                        truncated=not step.terminated[env],
                    )
                episodes[env], returns[env] = begin(env), 0
            on_step()
            if number + 1 == num_rows < len(trace.actions):
                break


def is_expanded(
    trace: Trace, output: str | Path, part: Part | None = None, *, obs_type: str = PROTOCOL
) -> bool:
    """Return whether `output` is a store that `expand` made of the trace.

    Raises:
        FileExistsError: if it is anything else, or the rest of anything else.
        ReplayError: if it is that store and damaged, or the trace does not hold the part.
        ValueError: if the trace has no whole episodes, or too few environments.
    """
    output = Path(output)
    settle(output)
    expected = (trace.game, trace.protocol.to_dict(), (part or Part()).source(trace), obs_type)
    for folder in (output, partial_folder(output)):
        meta = read_meta(folder)
        if meta is None and folder == output and folder.exists():
            raise OutputExists(f"{output} exists; choose another folder or remove it first.")
        if meta is None:
            continue
        found = (meta["game"], meta["protocol"], meta["source"], meta.get("obs_type", PROTOCOL))
        if found != expected:
            raise OutputExists(
                f"{folder} exists and holds other play; choose another folder or remove it first."
            )
    if not output.exists():
        return False
    try:
        verify(output)
    except ReplayError as error:
        raise ReplayError(f"{error} Remove {output} and expand it again.") from error
    return True


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

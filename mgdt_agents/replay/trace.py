"""A trace: a replay kept as seeds and actions, from which the emulator regenerates every frame.

A trace is one `.npz` file, about a third of a byte a step. Of T steps of N environments that were
stepped together, with NEXT_STEP autoreset (the action after an episode's end is ignored):

- `meta`: JSON with `format`, `version`, `game`, `protocol`, `ale_py` (the version it was recorded
  with) and `source` (how the play was made);
- `seeds` `(N,)` int64: environment i was reset with `seeds[i]`;
- `actions` `(T, N)` uint8: full-set ids;
- `checksums` `(ceil(T / 1000) + 1,)` uint32: CRC-32 of the newest frames `(N, height, width)`
  before steps 0, 1000, 2000, ... and after the last step, where it goes on over `actions`: an
  action that is not the recorded one is found even if no frame compared shows it;
- `episode_end_step` int32, `episode_env` int16, `episode_return` float32: every finished episode,
  in the order in which they ended.
"""

import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import blosc2
import numpy as np
from ale_py.vector_env import AtariVectorEnv

from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.replay.files import replace
from mgdt_agents.replay.writer import ReplayWriter
from mgdt_envs import AtariProtocol, game
from mgdt_envs.emulator import check_num_threads, emulator_arguments, minimal_action_index
from mgdt_envs.errors import InvalidArgument, OutputExists

FORMAT = "mgdt-trace"
VERSION = 1
CHECKSUM_INTERVAL = 1000  # steps
BUNDLED = Path(__file__).parent / "traces"


class TraceStep(NamedTuple):
    """What N environments saw, did and got at one step of a trace."""

    frames: np.ndarray
    """`(N, height, width)` uint8, before the action."""
    actions: np.ndarray
    """`(N,)` full-set ids."""
    rewards: np.ndarray
    """`(N,)` int32, unclipped."""
    terminated: np.ndarray
    """`(N,)` bool."""
    truncated: np.ndarray
    """`(N,)` bool."""
    is_transition: np.ndarray
    """`(N,)` bool; false where the step only began a new episode."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trace:
    """Seeds and actions of recorded play; the fields are those of the file (see the module)."""

    game: str
    protocol: AtariProtocol
    seeds: np.ndarray
    actions: np.ndarray
    checksums: np.ndarray
    episode_end_step: np.ndarray
    episode_env: np.ndarray
    episode_return: np.ndarray
    ale_py: str
    source: dict[str, Any]

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the trace to `path`, in one step: whatever happens, there is no part of a trace.

        Args:
            path: the file.
            overwrite: replace a file that is there.

        Raises:
            FileExistsError: if there is a file that may not be replaced.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputExists(f"{path} exists; choose another file or remove it first.")
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "game": self.game,
            "protocol": self.protocol.to_dict(),
            "ale_py": self.ale_py,
            "source": self.source,
        }
        content = io.BytesIO()
        np.savez_compressed(
            content,
            meta=np.array(json.dumps(meta)),
            **{name: getattr(self, name) for name in _ARRAYS},
        )
        replace(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read the trace at `path`.

        Raises:
            ReplayError: if it is no trace, of another version, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                found = meta["format"], meta["version"]
                # Another version may have other arrays.
                arrays = {name: file[name] for name in _ARRAYS if found == (FORMAT, VERSION)}
        except FileNotFoundError:
            raise ReplayError(f"There is no trace at {path}.") from None
        except Exception as error:  # for a damaged file, numpy and zipfile raise a dozen kinds
            raise ReplayError(f"{path} is no readable trace: {error}") from error
        if found != (FORMAT, VERSION):
            raise ReplayError(
                f"Expected {FORMAT} version {VERSION} in {path}, found "
                f"{found[0]} version {found[1]}."
            )
        trace = cls(
            game=game(meta["game"]).name,
            protocol=AtariProtocol.from_dict(meta["protocol"]),
            ale_py=meta["ale_py"],
            source=meta["source"],
            **arrays,
        )
        trace._check(str(path))
        return trace

    def _check(self, path: str) -> None:
        for name, (dtype, ndim) in _ARRAYS.items():
            if (found := getattr(self, name)).dtype != dtype or found.ndim != ndim:
                raise ReplayError(
                    f"Expected {name} of {path} to be {np.dtype(dtype)} of {ndim} dimensions, "
                    f"found {found.dtype} of shape {found.shape}."
                )
        steps, num_envs = self.actions.shape
        if len(self.seeds) != num_envs:
            raise ReplayError(f"Expected {num_envs} seeds in {path}, found {len(self.seeds)}.")
        if len(self.checksums) != -(-steps // CHECKSUM_INTERVAL) + 1:
            raise ReplayError(
                f"Expected {-(-steps // CHECKSUM_INTERVAL) + 1} checksums in {path} for {steps} "
                f"steps, found {len(self.checksums)}."
            )
        if self.actions.size and self.actions.max() > 17:
            raise ReplayError(f"Expected actions 0..17 in {path}, found {self.actions.max()}.")

    def episodes_within(self, limit_steps: int) -> int:
        """Return how many of the first finished episodes have no more steps than that together.

        Raises:
            ReplayError: if the first alone has more.
        """
        lengths = np.zeros(len(self.episode_env), np.int64)
        for env in range(len(self.seeds)):
            mine = self.episode_env == env
            # The step after an end only begins the next episode.
            lengths[mine] = np.diff(self.episode_end_step[mine], prepend=-2) - 1
        if len(lengths) and lengths[0] > limit_steps:
            raise ReplayError(
                f"Expected a limit of at least {lengths[0]:,} steps, those of the first episode "
                f"of {self.game}, got {limit_steps:,}."
            )
        return int(np.searchsorted(lengths.cumsum(), limit_steps, side="right"))

    def steps_within(self, limit_steps: int | None) -> int:
        """Return how many steps of all environments `expand` plays with that limit.

        Raises:
            ReplayError: if the first episode has more.
        """
        num_episodes = None if limit_steps is None else self.episodes_within(limit_steps)
        if num_episodes is None or num_episodes == len(self.episode_return):
            return len(self.actions)
        return int(self.episode_end_step[num_episodes - 1]) + 1

    def play(self, num_threads: int = 0) -> Iterator[TraceStep]:
        """Yield every step of the play, regenerated by the emulator.

        Args:
            num_threads: emulator threads; 0 takes one a core. The bits do not depend on it.

        Raises:
            TraceDivergedError: naming the steps between which the play began to differ.
        """
        played = game(self.game)
        envs = AtariVectorEnv(
            played.rom,
            len(self.seeds),
            num_threads=num_threads,
            **{**emulator_arguments(self.protocol), "stack_num": 1},
        )
        index = minimal_action_index(played, self.protocol)
        frames, _ = envs.reset(seed=self.seeds)
        begins = np.zeros(len(self.seeds), bool)
        for step, actions in enumerate(self.actions):
            if step % CHECKSUM_INTERVAL == 0:
                self._compare(step, frames)
            before = frames
            frames, rewards, terminated, truncated, _ = envs.step(index[actions])
            yield TraceStep(before[:, -1], actions, rewards, terminated, truncated, ~begins)
            begins = terminated | truncated
        self._compare(len(self.actions), frames)

    def _compare(self, step: int, frames: np.ndarray) -> None:
        number = -(-step // CHECKSUM_INTERVAL)
        checksum = zlib.crc32(frames[:, -1].tobytes())
        if step == len(self.actions):
            checksum = zlib.crc32(self.actions.tobytes(), checksum)
        if checksum == self.checksums[number]:
            return
        since = "at the reset" if step == 0 else f"after step {(number - 1) * CHECKSUM_INTERVAL}"
        raise TraceDivergedError(
            f"The trace of {self.game} diverged {since}, at or before step {step}: the play is "
            f"not the recorded one. It was recorded with ale-py {self.ale_py}, this is ale-py "
            f"{ale_py.__version__}; if they are the same, the file is damaged."
        )


_ARRAYS = {
    "seeds": (np.int64, 1),
    "actions": (np.uint8, 2),
    "checksums": (np.uint32, 1),
    "episode_end_step": (np.int32, 1),
    "episode_env": (np.int16, 1),
    "episode_return": (np.float32, 1),
}


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

    Steps of episodes that the recording did not finish are left out: their return is unknown.

    Args:
        trace: what to regenerate.
        output: the store's folder, which must not exist.
        limit_steps: regenerate the first episodes that have no more steps than that together; the
            play ends with the last of them.
        num_threads: emulator threads; 0 takes one a core. The store does not depend on it.
        on_step: called after each step of the trace, for a progress bar.

    Raises:
        TraceDivergedError: if frames or returns are not those recorded. No store is left then.
        ReplayError: if the first episode has more than `limit_steps`.
        FileExistsError: if `output` exists.
    """
    check_num_threads(num_threads)
    if not len(trace.episode_return):
        raise InvalidArgument(
            f"Expected a trace with whole episodes, none of this one of {trace.game} ended within "
            f"its {trace.actions.size:,} steps; record more steps."
        )
    recorded_returns = {
        (int(step), int(env)): float(total)
        for step, env, total in zip(
            trace.episode_end_step, trace.episode_env, trace.episode_return, strict=True
        )
    }
    side = trace.protocol.screen_size
    source = {"kind": "trace", "ale_py": trace.ale_py, **trace.source}
    num_episodes = len(trace.episode_return)
    if limit_steps is not None:
        num_episodes = trace.episodes_within(limit_steps)
        source["limit_steps"] = limit_steps
    is_limited = num_episodes < len(trace.episode_return)
    is_done = False
    with ReplayWriter(output, trace.game, trace.protocol, source) as writer:
        episodes = [_EpisodeBuffer((side, side)) for _ in trace.seeds]
        for number, step in enumerate(trace.play(num_threads)):
            for env in np.flatnonzero(step.is_transition):
                episodes[env].add(step.frames[env], step.actions[env], step.rewards[env])
            for env in np.flatnonzero(step.terminated | step.truncated):
                episode = episodes[env]
                total = float(sum(episode.rewards))
                if recorded_returns.get((number, int(env))) != total:
                    raise TraceDivergedError(
                        f"The trace of {trace.game} diverged at or before step {number}: "
                        f"environment {env} ended an episode with return {total:g}, recorded is "
                        f"{recorded_returns.get((number, int(env)), 'no end')}."
                    )
                writer.add_episode(
                    episode.frames(),
                    np.array(episode.actions),
                    np.array(episode.rewards),
                    truncated=not step.terminated[env],
                )
                episodes[env] = _EpisodeBuffer((side, side))
                is_done = is_limited and writer.num_episodes == num_episodes
                if is_done:
                    break
            on_step()
            if is_done:
                return

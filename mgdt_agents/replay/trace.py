"""A trace: a replay kept as seeds and actions, from which the emulator regenerates every frame.

A trace is one `.npz` file, about a quarter of a byte a step. Of T steps of N environments that were
stepped together, with NEXT_STEP autoreset (the action after an episode's end is ignored):

- `meta`: JSON with `format`, `version`, `game`, `protocol`, `ale_py` (the version it was recorded
  with) and `source` (how the play was made);
- `seeds` `(N,)` int64: environment i was reset with `seeds[i]`;
- `actions` `(T, N)` uint8: full-set ids;
- `checksums` `(ceil(T / 20) + 1,)` uint32: CRC-32 of the newest frames `(N, height, width)` before
  steps 0, 20, 40, ... and after the last step, continued over the actions since the checksum
  before, so that a wrong action is found even if no frame shows it;
- `episode_end_step` int32, `episode_env` int16, `episode_return` float32: every finished episode,
  in the order in which they ended.

Traces of version 1 are read, too: their checksums are 1000 steps apart, and only the last one
covers actions, all of them.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import numpy as np
from ale_py.vector_env import AtariVectorEnv

from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.replay import files
from mgdt_agents.replay.store import game_and_protocol
from mgdt_envs import AtariProtocol, game
from mgdt_envs.emulator import MAX_SEED, emulator_arguments, minimal_action_index
from mgdt_envs.errors import OutputExists

FORMAT = "mgdt-trace"
VERSION = 2
CHECKSUM_INTERVAL = 20  # steps
MAX_ARRAY_BYTES = 1 << 32  # of an array of a trace; the largest hold a byte a step
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
    version: int = VERSION
    """Of the checksums."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the trace to `path`, in one step, so that a part of it is never left there.

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
            "version": self.version,
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
        files.replace(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read the trace at `path`.

        Raises:
            ReplayError: if it is not a trace, of another version, or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise ReplayError(f"There is no trace at {path}.")
        if not zipfile.is_zipfile(path):  # of a text, numpy says that it holds pickled objects
            raise ReplayError(f"{path} is no readable trace: it is no .npz file.")
        try:
            with zipfile.ZipFile(path) as archive:
                largest = max(member.file_size for member in archive.infolist())
            with files.reading(str(path), largest), np.load(path, allow_pickle=False) as file:
                if largest > MAX_ARRAY_BYTES:
                    raise MemoryError
                meta = json.loads(str(file["meta"]))
                found = meta["format"], meta["version"]
                # Another version may have other arrays.
                is_known = found in ((FORMAT, 1), (FORMAT, VERSION))
                arrays = {name: file[name] for name in _ARRAYS if is_known}
        except ReplayError:
            raise
        except Exception as error:  # for a damaged file, numpy and zipfile raise a dozen kinds
            raise ReplayError(f"{path} is no readable trace: {error}") from error
        if not is_known:
            raise ReplayError(
                f"Expected {FORMAT} version {VERSION} in {path}, found "
                f"{found[0]} version {found[1]}."
            )
        kinds = {"game": str, "protocol": dict, "ale_py": str, "source": dict}
        files.check_fields(meta, kinds, path)
        played, protocol = game_and_protocol(meta, path)
        trace = cls(
            game=played,
            protocol=protocol,
            ale_py=meta["ale_py"],
            source=meta["source"],
            version=meta["version"],
            **arrays,
        )
        trace.check(str(path))
        return trace

    def check(self, path: str) -> None:
        """Check that the fields can be those of a trace.

        Args:
            path: what messages call it.

        Raises:
            ReplayError: saying what does not fit.
        """

        def expect(holds: bool | np.bool_, what: str, found: object) -> None:
            if not holds:
                raise ReplayError(f"Expected {what} in {path}, found {found}.")

        for name, (dtype, ndim) in _ARRAYS.items():
            array = getattr(self, name)
            what = f"{name} to be {np.dtype(dtype)} of {ndim} dimensions"
            expect(
                array.dtype == dtype and array.ndim == ndim, what, f"{array.dtype} {array.shape}"
            )
        (steps, num_envs), count = self.actions.shape, len(self.episode_return)
        expect(num_envs, "environments", "none")
        expect(not self.protocol.jpeg, "a protocol without JPEG", "one with it")
        expect(len(self.seeds) == num_envs, f"{num_envs} seeds", len(self.seeds))
        expect(_within(self.seeds, MAX_SEED), f"seeds in 0..{MAX_SEED}", self.seeds)
        marks = -(-steps // self.checksum_interval) + 1
        expect(
            len(self.checksums) == marks,
            f"{marks} checksums for {steps} steps",
            len(self.checksums),
        )
        expect(_within(self.actions, 17), "actions 0..17", self.actions.max(initial=0))
        lengths = {len(self.episode_end_step), len(self.episode_env), count}
        expect(len(lengths) == 1, "as many ends, environments and returns of episodes", lengths)
        expect(_within(self.episode_env, num_envs - 1), f"environments 0..{num_envs - 1}", "others")
        expect(_within(self.episode_end_step, steps - 1), f"ends in steps 0..{steps - 1}", "others")
        expect((np.diff(self.episode_end_step) >= 0).all(), "ends in their order", "another")
        expect((self.episode_lengths > 0).all(), "episodes of a step or more", "shorter ones")
        expect(np.isfinite(self.episode_return).all(), "finite returns", "NaN or infinity")

    @property
    def checksum_interval(self) -> int:
        """Steps from one checksum to the next."""
        return 1000 if self.version == 1 else CHECKSUM_INTERVAL

    @property
    def checksum(self) -> int:
        """The CRC-32 of seeds, actions and checksums: what the play is, and whether it is whole."""
        checksum = 0
        for array in (self.seeds, self.actions, self.checksums):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return checksum

    @property
    def episode_lengths(self) -> np.ndarray:
        """Steps of each episode, `(episodes,)` int64."""
        lengths = np.zeros(len(self.episode_env), np.int64)
        for env in range(len(self.seeds)):
            own = self.episode_env == env
            # The step after an end only begins the next episode.
            lengths[own] = np.diff(self.episode_end_step[own].astype(np.int64), prepend=-2) - 1
        return lengths

    def play(self, num_threads: int = 0, *, environments: int | None = None) -> Iterator[TraceStep]:
        """Yield every step of the play, regenerated by the emulator.

        Args:
            num_threads: emulator threads; 0 takes one a core. The bits do not depend on it.
            environments: play only this many, the first ones; then no checksum is compared, for
                they are over all.

        Raises:
            ReplayError: if the trace cannot be played.
            TraceDivergedError: naming the steps between which the play began to differ.
        """
        self.check(f"a trace of {self.game}")
        played, count = game(self.game), environments or len(self.seeds)
        compares = count == len(self.seeds)
        envs = AtariVectorEnv(
            played.rom,
            count,
            num_threads=num_threads,
            **{**emulator_arguments(self.protocol), "stack_num": 1},
        )
        index = minimal_action_index(played, self.protocol)
        frames, _ = envs.reset(seed=self.seeds[:count])
        begins = np.zeros(count, bool)
        for step, actions in enumerate(self.actions[:, :count]):
            if compares and step % self.checksum_interval == 0:
                self._compare(step, frames)
            before = frames
            frames, rewards, terminated, truncated, _ = envs.step(index[actions])
            yield TraceStep(before[:, -1], actions, rewards, terminated, truncated, ~begins)
            begins = terminated | truncated
        if compares:
            self._compare(len(self.actions), frames)

    def _compare(self, step: int, frames: np.ndarray) -> None:
        number = -(-step // self.checksum_interval)
        since = max(number - 1, 0) * self.checksum_interval
        if self.version > 1:
            checksum = play_checksum(frames[:, -1], self.actions[since:step])
        else:
            is_last = step == len(self.actions)
            checksum = play_checksum(frames[:, -1], self.actions[: step if is_last else 0])
        if checksum == self.checksums[number]:
            return
        place = "at the reset" if step == 0 else f"after step {since}"
        raise TraceDivergedError(
            f"The trace of {self.game} diverged {place}, at or before step {step} (checksum "
            f"{number}): the play is not the recorded one. It was recorded with ale-py "
            f"{self.ale_py}, this is ale-py {ale_py.__version__}; if they are the same, the file "
            "is damaged."
        )


def play_checksum(frames: np.ndarray, actions: np.ndarray) -> int:
    """Return the CRC-32 of frames `(N, height, width)`, continued over actions `(steps, N)`."""
    frames, actions = np.ascontiguousarray(frames), np.ascontiguousarray(actions)
    return zlib.crc32(actions.data, zlib.crc32(frames.data))


def _within(array: np.ndarray, most: int) -> bool:
    return not array.size or bool(array.min() >= 0 and array.max() <= most)


_ARRAYS = {
    "seeds": (np.int64, 1),
    "actions": (np.uint8, 2),
    "checksums": (np.uint32, 1),
    "episode_end_step": (np.int32, 1),
    "episode_env": (np.int16, 1),
    "episode_return": (np.float32, 1),
}

"""Record play as a trace, while it is played."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper
from numpy.typing import NDArray

from mgdt_agents.replay.files import check_json
from mgdt_agents.replay.trace import CHECKSUM_INTERVAL, Trace, play_checksum
from mgdt_envs import MultiGameAtariVectorEnv, __version__
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.seeds import emulator_seed

CODE = Path(__file__).resolve().parents[2]
"""Folder of the packages, which is a git checkout where they are not installed."""


def software() -> str:
    """Return which mgdt this is: its version and, in a git checkout, the commit.

    Such as "0.4.0+g973a457..."; ".dirty" follows where files differ from the commit.
    """
    return __version__ if revision() is None else f"{__version__}+g{revision()}"


@functools.cache
def revision() -> str | None:
    """Return the commit of the code, and ".dirty" where files differ; None if it is not in git."""
    # Without a look at the folder, git would answer for one around it, such as a user's project.
    if not (CODE / ".git").exists():
        return None
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=.dirty"]
    try:
        answer = subprocess.run(describe, cwd=CODE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


class TraceRecorder(VectorWrapper):
    """A vector environment that remembers its play, a trace for each of its games.

    `reset` begins new traces, and takes an integer seed; `trace` may be asked for at any time.

    Args:
        envs: environments of one game or of several.
        source: JSON types that say how the play is made; which `software` recorded it is added.

    Example:
        >>> from mgdt_envs import MultiGameAtariVectorEnv
        >>> envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Pong"), {"policy": "up"})
        >>> observations, infos = envs.reset(seed=5)
        >>> for _ in range(10):
        ...     observations, *_ = envs.step([2, 2])
        >>> trace = envs.trace()
        >>> trace.actions.shape, trace.seeds
        ((10, 2), array([5, 6]))
        >>> sum(1 for step in trace.play())
        10
    """

    def __init__(self, envs: MultiGameAtariVectorEnv, source: dict[str, Any]) -> None:
        if envs.protocol.jpeg:
            raise InvalidArgument(f"A trace holds play without JPEG, got {envs.protocol.sheet()}")
        if (mode := envs.metadata["autoreset_mode"]) is not AutoresetMode.NEXT_STEP:
            raise InvalidArgument(f"A trace is recorded with NEXT_STEP autoreset, got {mode}")
        super().__init__(envs)
        self.games, self.protocol = envs.games, envs.protocol
        games_of_envs = np.array(envs.games_of_envs)
        self._rows = {name: np.flatnonzero(games_of_envs == name) for name in envs.games}
        self.source = check_json(source, "source") | {"mgdt": software()}
        self._frames: NDArray[np.uint8] | None = None  # the newest ones, from the reset on

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start the environments with seeds `seed`, `seed + 1`, ...: a new trace begins."""
        if not isinstance(seed, int | np.integer) or options:
            raise InvalidArgument(
                "Environments that are recorded are reset all together with an integer seed, "
                f"got seed={seed!r} and options={options!r}"
            )
        seed = int(seed)  # a sum of small numpy integers may overflow
        observations, infos = self.env.reset(seed=seed)
        # Those of the emulators, which are all that a trace is played with.
        self._seeds = np.array([emulator_seed(seed + env) for env in range(self.num_envs)])
        self.actions: list[NDArray[np.uint8]] = []
        self._checksums: dict[str, list[int]] = {name: [] for name in self.games}
        self.episodes: list[tuple[int, int, float]] = []
        self._frames = observations[:, -1].copy()  # the caller may write into its own
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Play a step and remember it; one that the environments refuse leaves no mark.

        Raises:
            ValueError: before the reset.
            InvalidAction: if the actions are not of the action space.
        """
        self._check_reset()
        step = len(self.actions)
        is_marked = step % CHECKSUM_INTERVAL == 0
        marks = {name: self._checksum(name) for name in self.games if is_marked}
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        for name, mark in marks.items():
            self._checksums[name].append(mark)
        self.actions.append(np.array(actions, np.uint8))
        for env in np.flatnonzero(terminated | truncated):
            self.episodes.append((step, int(env), float(infos["episode"]["r"][env])))
        self._frames = observations[:, -1].copy()
        return observations, rewards, terminated, truncated, infos

    def _check_reset(self) -> None:
        if self._frames is None:
            raise InvalidArgument(
                "Environments that are recorded play from a reset on; call reset(seed=...) first."
            )

    def _checksum(self, game: str) -> int:
        assert self._frames is not None
        rows = self._rows[game]
        since = max(len(self.actions) - 1, 0) // CHECKSUM_INTERVAL * CHECKSUM_INTERVAL
        actions = np.array(self.actions[since:], np.uint8).reshape(-1, self.num_envs)[:, rows]
        return play_checksum(self._frames[rows], actions)

    def trace(self, game: str | None = None) -> Trace:
        """Return the play of `game`, or of the only game, since the reset.

        Raises:
            ValueError: before the reset, if `game` is not played, or if it is left out and there
                are several.
        """
        self._check_reset()
        if game is None and len(self.games) == 1:
            (game,) = self.games
        if game not in self.games:
            raise InvalidArgument(f"Expected one of {', '.join(self.games)}, got {game!r}.")
        rows = self._rows[game]
        place = {int(env): number for number, env in enumerate(rows)}
        actions = np.array(self.actions, np.uint8).reshape(-1, self.num_envs)[:, rows]
        ended = [(step, place[env], total) for step, env, total in self.episodes if env in place]
        steps, envs, returns = zip(*ended, strict=True) if ended else ((),) * 3
        return Trace(
            game=game,
            protocol=self.protocol,
            seeds=self._seeds[rows],
            actions=actions,
            checksums=np.array([*self._checksums[game], self._checksum(game)], np.uint32),
            episode_end_step=np.array(steps, np.int32),
            episode_env=np.array(envs, np.int16),
            episode_return=np.array(returns, np.float32),
            ale_py=ale_py.__version__,
            source=self.source,
        )

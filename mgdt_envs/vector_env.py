"""Many environments of many Atari games, stepped together on ale-py's C++ emulators."""

import dataclasses
import operator
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ale_py import AtariVectorEnv
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mgdt_envs.emulator import MAX_SEED, NUM_ACTIONS, emulator_actions, jpeg_round_trip
from mgdt_envs.games import Game, game, resolve_games
from mgdt_envs.protocol import AtariProtocol, as_protocol
from mgdt_envs.scoring import human_normalised_score, reason_without_score

KEEP_STREAM = -1
"""The seed that tells an emulator to go on with its random stream."""
COUNTERS = ("lives", "frame_number", "episode_frame_number")


def emulator_arguments(protocol: AtariProtocol) -> dict[str, Any]:
    """Return the keyword arguments that make `ale_py.AtariVectorEnv` follow `protocol`.

    All but JPEG, which the emulator does not know; see `jpeg_round_trip`.

    Example:
        >>> from ale_py import AtariVectorEnv
        >>> env = AtariVectorEnv("pong", 2, **emulator_arguments(AtariProtocol()))
    """
    return {
        "max_num_frames_per_episode": protocol.max_frames,
        "repeat_action_probability": protocol.sticky,
        "full_action_space": protocol.outside_action == "native",
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "img_height": protocol.screen_size,
        "img_width": protocol.screen_size,
        "grayscale": True,
        "stack_num": protocol.stack,
        "frameskip": protocol.frame_skip,
        "maxpool": protocol.max_pool,
        "noop_max": protocol.noop_max,
        "episodic_life": protocol.life_loss_ends,
        "life_loss_info": False,
        "reward_clipping": False,
        "use_fire_reset": protocol.fire_reset,
    }


def minimal_action_index(game: Game, protocol: AtariProtocol) -> NDArray[np.int64]:
    """Return the index that `AtariVectorEnv` takes for each of the 18 actions, (18,) int64.

    It indexes the game's minimal action set, or the full one where the protocol says "native".
    """
    actions = emulator_actions(game, protocol)
    if protocol.outside_action == "native":
        return actions
    return np.array([game.minimal_actions.index(action) for action in actions])


class MultiGameAtariVectorEnv(VectorEnv[NDArray[np.uint8], NDArray[np.integer], NDArray[Any]]):
    """`MultiGameAtariEnv` many times over, each of the environments with a game of its own.

    There is one C++ emulator pool per game, and all of them work at the same time. Spaces,
    rewards and `info` are those of `MultiGameAtariEnv`, with an axis of environments in front.
    On the step after an episode's end an environment ignores its action, resets and gives
    reward 0 (Gymnasium's NEXT_STEP autoreset).

    `infos["episode"]` is there when an episode ended, with arrays "r", "l", "t" and "hns" (NaN
    where there is none); `infos["_episode"]` says in which environments it ended.

    Attributes:
        games: the games, in the order given.
        games_of_envs: the game of each environment; those of one game are neighbors.

    Example:
        >>> from mgdt_envs import MultiGameAtariVectorEnv
        >>> envs = MultiGameAtariVectorEnv(num_envs=3, games=["Pong", "Breakout"])
        >>> envs.games_of_envs
        ('Pong', 'Pong', 'Breakout')
        >>> observations, infos = envs.reset(seed=0)
        >>> observations.shape
        (3, 4, 84, 84)
        >>> observations, rewards, terminated, truncated, infos = envs.step([2, 5, 1])
        >>> infos["lives"]
        array([0, 0, 5])
        >>> envs.close()
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int | None = None,
        games: str | Iterable[str] = "atari57",
        protocol: AtariProtocol | dict[str, Any] | None = None,
        num_threads: int = 0,
        render_mode: None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        """Start the emulators.

        Args:
            num_envs: number of environments, shared out to the games equally, the rest to the
                first ones; by default one a game.
            games: a suite, a game, or several of either; see `mgdt_envs.resolve_games`.
            protocol: preprocessing and episode rules, or their fields; `AtariProtocol()` by
                default.
            num_threads: threads of all emulators together, though at least one a game; 0 for
                one a core.
            render_mode: `None`; only `MultiGameAtariEnv` renders.
            max_episode_steps: agent steps after which an episode is truncated, if before the
                protocol's `max_frames`.

        Raises:
            ValueError: for an unknown game or suite, fewer environments than games, or a render
                mode.
        """
        self._pools: list[tuple[slice, AtariVectorEnv]] = []
        if render_mode is not None:
            raise ValueError(
                f"render_mode must be None, got {render_mode!r}; MultiGameAtariEnv renders"
            )
        self.games = resolve_games(games)
        self.num_envs = len(self.games) if num_envs is None else num_envs
        if self.num_envs < len(self.games):
            raise ValueError(
                f"num_envs must be at least {len(self.games)}, one environment a game, "
                f"got {self.num_envs}; give more environments or fewer games"
            )
        self.protocol = as_protocol(protocol)
        if max_episode_steps is not None:
            frames = min(self.protocol.max_frames, max_episode_steps * self.protocol.frame_skip)
            self.protocol = dataclasses.replace(self.protocol, max_frames=frames)
        size = self.protocol.screen_size
        self.single_observation_space = Box(0, 255, (self.protocol.stack, size, size), np.uint8)
        self.single_action_space = Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        share, rest = divmod(self.num_envs, len(self.games))
        counts = [share + (position < rest) for position in range(len(self.games))]
        self.games_of_envs = tuple(np.repeat(self.games, counts).tolist())
        self._action_index = np.stack(
            [minimal_action_index(game(name), self.protocol) for name in self.games_of_envs]
        )
        self._start_pools(counts, num_threads or available_cores())

        self._observations = np.zeros((self.num_envs, self.protocol.stack, size, size), np.uint8)
        self._counters = {name: np.zeros(self.num_envs, np.int64) for name in COUNTERS}
        self._started = False
        self._ended = np.zeros(self.num_envs, bool)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)  # agent steps
        self._starts = np.zeros(self.num_envs)  # seconds

    def _start_pools(self, counts: list[int], num_threads: int) -> None:
        """Start one pool of emulators per game, with threads in proportion to its `counts`."""
        arguments = emulator_arguments(self.protocol)
        first = 0
        for name, count in zip(self.games, counts, strict=True):
            threads = max(1, num_threads * count // self.num_envs)
            pool = AtariVectorEnv(game(name).rom, count, num_threads=threads, **arguments)
            self._pools.append((slice(first, first + count), pool))
            first += count

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: an integer gives environment i the seed `seed + i`; a sequence has one entry an
                environment, of which those of environments that are not reset do not matter.
                `None`, also as an entry, goes on with the emulator's random stream.
            options: {"reset_mask": (num_envs,) bool} resets only where it is true. The first
                reset must be of every environment.

        Returns:
            Observations, (num_envs, stack, screen_size, screen_size) uint8, and `infos`.

        Raises:
            ValueError: for a seed or a mask of the wrong length or range, or an unknown option.
            ResetNeeded: if the first reset is not of every environment.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        mask = self._checked_mask(options or {})
        seeds = self._checked_seeds(seed)
        for rows, pool in self._pools:
            chosen = mask[rows]
            if chosen.any():
                observations, info = pool.reset(
                    seed=seeds[rows][chosen],
                    options=None if chosen.all() else {"reset_mask": chosen},
                )
                self._store(np.arange(rows.start, rows.stop)[chosen], observations[chosen], mask)
                self._store_counters(rows, info)
        self._started = True
        self._ended[mask] = False
        self._begin_episodes(mask)
        return self._observations.copy(), self._infos()

    def step(
        self, actions: NDArray[np.integer] | Sequence[int]
    ) -> tuple[
        NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Play one agent step in every environment.

        Args:
            actions: ids of the console's full action set, (num_envs,) of integers in 0..17.

        Returns:
            Observations, (num_envs, stack, screen_size, screen_size) uint8; raw rewards,
            (num_envs,) float64; whether games are over and whether `max_frames` are played,
            (num_envs,) bool each; and `infos`.

        Raises:
            ResetNeeded: before the first reset.
            InvalidAction: for another number of actions, or one that is not an integer in 0..17.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        if not self._started:
            raise ResetNeeded("step() was called before the first reset(); call reset() first")
        indices = self._action_index[np.arange(self.num_envs), self._checked_actions(actions)]
        for rows, pool in self._pools:
            pool.send(indices[rows])
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        for rows, pool in self._pools:
            observations, rewards[rows], terminated[rows], truncated[rows], info = pool.recv()
            self._store(np.arange(rows.start, rows.stop), observations, self._ended)
            self._store_counters(rows, info)
        self._begin_episodes(self._ended)
        self._returns += rewards
        self._lengths += ~self._ended
        self._ended = terminated | truncated
        infos = self._infos()
        if self._ended.any():
            infos["episode"] = self._episodes(self._ended)
            infos["_episode"] = self._ended.copy()
        return self._observations.copy(), rewards, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the emulators; `close` calls this."""
        self._pools.clear()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("The environments are closed; make new ones.")

    def _checked_mask(self, options: dict[str, Any]) -> NDArray[np.bool_]:
        if unknown := sorted(set(options) - {"reset_mask"}):
            raise ValueError(f"reset() understands options={{'reset_mask': mask}}, got {unknown}")
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"reset_mask must be bool of shape ({self.num_envs},), "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        if not self._started and not mask.all():
            raise ResetNeeded(
                "The first reset() must be of every environment, "
                f"got a reset_mask with {mask.sum()} of {self.num_envs}"
            )
        return mask

    def _checked_seeds(self, seed: Any) -> NDArray[np.int64]:
        """Return the seed of each environment, (num_envs,) int64."""
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif np.ndim(seed) == 0:
            first = operator.index(seed)
            seeds = list(range(first, first + self.num_envs))
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed must be an integer or have {self.num_envs} entries, got {len(seeds)}"
            )
        for entry in seeds:
            if entry is not None and not 0 <= entry <= MAX_SEED:
                raise ValueError(
                    f"seeds must be in 0..{MAX_SEED}, the emulator's range, got {entry}"
                )
        if seeds[0] is not None:
            super().reset(seed=int(seeds[0]))
        unseeded = np.full(self.num_envs, KEEP_STREAM)
        if not self._started:
            # Left alone, the emulators would all take the time of day.
            unseeded = self.np_random.integers(MAX_SEED, size=self.num_envs)
        filled = [new if old is None else old for old, new in zip(seeds, unseeded, strict=True)]
        return np.array(filled, np.int64)

    def _checked_actions(self, actions: Any) -> NDArray[np.integer]:
        array = np.asarray(actions)
        expected = f"Expected {self.num_envs} integers in 0..17"
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidAction(f"{expected}, got {array.dtype} of shape {array.shape}")
        if ((array < 0) | (array >= NUM_ACTIONS)).any():
            raise InvalidAction(f"{expected}, got {array.tolist()}")
        return array

    def _store(
        self, rows: NDArray[np.integer], observations: NDArray[np.uint8], began: NDArray[np.bool_]
    ) -> None:
        """Keep the observations of `rows`; `began`, (num_envs,), says whose episode is new."""
        if not self.protocol.jpeg:
            self._observations[rows] = observations
            return
        for row, frames in zip(rows, observations, strict=True):
            stack = self._observations[row]
            stack[:-1] = 0 if began[row] else stack[1:]
            stack[-1] = jpeg_round_trip(frames[-1])

    def _store_counters(self, rows: slice, info: dict[str, Any]) -> None:
        for name, counter in self._counters.items():
            counter[rows] = info[name]

    def _begin_episodes(self, mask: NDArray[np.bool_]) -> None:
        self._returns[mask] = 0
        self._lengths[mask] = 0
        self._starts[mask] = time.perf_counter()

    def _infos(self) -> dict[str, Any]:
        """Return the arrays of `infos` and, as Gymnasium has it, a mask for each."""
        infos: dict[str, Any] = {"game": np.array(self.games_of_envs, object)}
        infos |= {name: counter.copy() for name, counter in self._counters.items()}
        return infos | {f"_{name}": np.ones(self.num_envs, bool) for name in infos}

    def _episodes(self, ended: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Return the statistics of the episodes that have just `ended`."""
        scores = np.full(self.num_envs, np.nan)
        for row in np.flatnonzero(ended):
            name = self.games_of_envs[row]
            if reason_without_score(name, self.protocol) is None:
                scores[row] = human_normalised_score(name, self._returns[row])
        seconds = np.round(time.perf_counter() - self._starts, 6)
        episodes = {
            "r": np.where(ended, self._returns, 0.0),
            "l": np.where(ended, self._lengths, 0),
            "t": np.where(ended, seconds, 0.0),
            "hns": scores,
        }
        return episodes | {f"_{name}": ended.copy() for name in episodes}


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Many environments of many Atari games, stepped together on ale-py's C++ emulators."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ale_py import AtariVectorEnv
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mgdt_envs.emulator import (
    MAX_SEED,
    NUM_ACTIONS,
    check_num_threads,
    emulator_action_set,
    emulator_arguments,
    jpeg_round_trip,
    minimal_action_index,
)
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import game, resolve_games
from mgdt_envs.protocol import AnyProtocol, AtariProtocol, as_protocol
from mgdt_envs.screens import ColorScreens, Rows
from mgdt_envs.seeds import checked_seed, emulator_seed
from mgdt_envs.shares import share_out
from mgdt_envs.statistics import EpisodeStatistics

KEEP_STREAM = -1
"""The seed that tells an emulator to go on with its random stream."""
AUTORESET_MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
COUNTERS = ("lives", "frame_number", "episode_frame_number")


class MultiGameAtariVectorEnv(VectorEnv[NDArray[np.uint8], NDArray[np.integer], NDArray[Any]]):
    """`MultiGameAtariEnv` many times over, each of the environments with a game of its own.

    There is one C++ emulator pool per game, and all of them work at the same time. Spaces,
    rewards and `info` are those of `MultiGameAtariEnv`, with an axis of environments in front.

    Environments whose episode has ended reset by themselves, as Gymnasium has it: with NEXT_STEP
    in the step after, which ignores their action and gives reward 0; with SAME_STEP at once, so
    that their observation and `infos` are the new episode's, and `infos["final_obs"]` and
    `infos["final_info"]` the old one's last.

    `infos["episode"]` is there when an episode ended, with arrays "r", "l", "t" and "hns" (NaN
    where there is none); `infos["_episode"]` says in which environments it ended.

    An environment plays what `MultiGameAtariEnv` plays with its seed and actions, whatever the
    others do.

    Attributes:
        games: the games that are played, in the order given.
        games_of_envs: the game of each environment.

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

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": AtariProtocol().steps_per_second,
    }

    def __init__(
        self,
        num_envs: int | None = None,
        games: str | Iterable[str] = "atari57",
        protocol: AnyProtocol = None,
        num_threads: int = 0,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        shares: Mapping[str, float] | Sequence[str] | None = None,
    ) -> None:
        """Start the emulators.

        Args:
            num_envs: number of environments; by default one a game.
            games: a suite, a game, or several of either; see `mgdt_envs.resolve_games`.
            protocol: preprocessing and episode rules: an `AtariProtocol`, the name of one in
                `mgdt_envs.PROTOCOLS`, or its fields; `AtariProtocol()` by default.
            num_threads: threads of all emulators together, though at least one a game; 0 for as
                many as there are cores in each game, the best where other programs run too.
            render_mode: "rgb_array" plays each game in a second emulator, whose screens `render`
                returns; `None` renders nothing.
            max_episode_steps: agent steps after which an episode is truncated, if before the
                protocol's `max_frames`.
            autoreset_mode: NEXT_STEP or SAME_STEP.
            shares: how the environments are shared out to the games: equally, the rest to the
                first games, by weights such as {"Pong": 2} (1 for the other games), or the game
                of each environment.

        Raises:
            ValueError: for an unknown game, suite, protocol or share, fewer environments than
                games, a render mode, or another autoreset mode.
        """
        self._pools: list[tuple[Rows, AtariVectorEnv]] = []
        self._screens: ColorScreens | None = None
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InvalidArgument(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        modes = {name: mode for mode in AUTORESET_MODES for name in (mode, mode.value)}
        if autoreset_mode not in modes:
            raise InvalidArgument(
                "autoreset_mode must be AutoresetMode.NEXT_STEP ('NextStep') or "
                f"AutoresetMode.SAME_STEP ('SameStep'), got {autoreset_mode!r}"
            )
        self.games_of_envs = share_out(resolve_games(games), num_envs, shares)
        self.games = tuple(dict.fromkeys(self.games_of_envs))
        self.num_envs = len(self.games_of_envs)
        self.protocol = as_protocol(protocol)
        self.metadata = self.metadata | {
            "autoreset_mode": modes[autoreset_mode],
            "render_fps": self.protocol.steps_per_second,
        }
        if max_episode_steps is not None:
            frames = min(self.protocol.max_frames, max_episode_steps * self.protocol.frame_skip)
            self.protocol = dataclasses.replace(self.protocol, max_frames=frames)
        self.single_observation_space = Box(0, 255, self.protocol.observation_shape, np.uint8)
        self.single_action_space = Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._action_index = np.stack(
            [minimal_action_index(game(name), self.protocol) for name in self.games_of_envs]
        )
        self._start_pools(num_threads)

        self._statistics = EpisodeStatistics(self.games_of_envs, self.protocol)
        self._batch_shape = (self.num_envs, *self.protocol.observation_shape)
        self._jpeg_stacks = np.zeros(self._batch_shape, np.uint8)
        self._started = False
        self._resets_next = np.zeros(self.num_envs, bool)

    def _start_pools(self, num_threads: int) -> None:
        """Start one pool of emulators per game, with threads in proportion to its environments."""
        check_num_threads(num_threads)
        arguments = emulator_arguments(self.protocol)
        places: list[tuple[str, Rows, int, int]] = []
        for name in self.games:
            rows = np.flatnonzero(np.array(self.games_of_envs) == name)
            threads = num_threads and max(1, num_threads * len(rows) // self.num_envs)
            pool = AtariVectorEnv(game(name).rom, len(rows), num_threads=threads, **arguments)
            # A worker of ale-py that is sent an action that it does not have fails, and then
            # `recv` waits for it forever.
            known = emulator_action_set(game(name), self.protocol)
            found = tuple(action.value for action in pool.ale.get_action_set())
            assert found == known, f"ale-py has the actions {found} in {name}, expected {known}"
            neighbors = rows[-1] - rows[0] + 1 == len(rows)
            place = slice(rows[0], rows[-1] + 1) if neighbors else rows
            self._pools.append((place, pool))
            places.append((name, place, len(rows), threads))
        if self.render_mode:
            self._screens = ColorScreens(places, self.protocol)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: an integer from 0 up gives environment i the seed `seed + i`; a sequence has one
                entry an environment, of which those of environments that are not reset change
                nothing. `None`, also as an entry, goes on with the emulator's random stream. The
                emulator gets what `mgdt_envs.seeds.emulator_seed` makes of a seed.
            options: {"reset_mask": (num_envs,) bool} resets only where it is true. The first
                reset must be of every environment.

        Returns:
            Observations, (num_envs, stack, screen_size, screen_size) uint8, and `infos`.

        Raises:
            ValueError: for a seed that is negative or no integer, a seed or a mask of the wrong
                length, or an unknown option.
            ResetNeeded: if the first reset is not of every environment.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        mask = self._checked_mask(options or {})
        seeds = self._checked_seeds(seed)
        observations, counters = self._reset_pools(mask, seeds)
        self._started = True
        self._resets_next[mask] = False
        self._statistics.begin(mask)
        return observations, self._infos(counters)

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
        observations, counters = self._empty_batch()
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.empty((2, self.num_envs), bool)
        with self._closing_on_failure():
            for rows, pool in self._pools:
                pool.send(indices[rows])
            if self._screens:
                self._screens.send(indices)
            for rows, pool in self._pools:
                observations[rows], rewards[rows], terminated[rows], truncated[rows], info = (
                    pool.recv()
                )
                for name in COUNTERS:
                    counters[name][rows] = info[name]
            if self._screens:
                self._screens.receive()
        everywhere = np.ones(self.num_envs, bool)
        observations = self._through_jpeg(observations, everywhere, self._resets_next)
        self._statistics.begin(self._resets_next)
        self._statistics.count(rewards, ~self._resets_next)
        ended = terminated | truncated
        infos = self._infos(counters)
        if ended.any():
            infos |= {"episode": self._statistics.of(ended), "_episode": ended.copy()}
        if self.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
            self._resets_next = ended
        elif ended.any():
            observations, infos = self._reset_ended(ended, observations, infos)
        return observations, rewards, terminated, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the console's screens, (height, width, 3) uint8 each, if `render_mode` says so.

        Few games have higher ones than others, with which Gymnasium's `RecordVideo` does not work.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        if self._screens is None:
            return None
        if not self._started:
            raise ResetNeeded("render() was called before the first reset(); call reset() first")
        return self._screens.render(self.num_envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the emulators; `close` calls this."""
        self._pools.clear()
        self._screens = None

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("The environments are closed; make new ones.")

    def _checked_mask(self, options: dict[str, Any]) -> NDArray[np.bool_]:
        if unknown := sorted(set(options) - {"reset_mask"}):
            raise InvalidArgument(
                f"reset() understands options={{'reset_mask': mask}}, got {unknown}"
            )
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise InvalidArgument(
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
        """Return the seed of each emulator, (num_envs,) int64."""
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif np.ndim(seed) == 0:
            first = checked_seed(seed)
            seeds = list(range(first, first + self.num_envs))
        else:
            seeds = [None if entry is None else checked_seed(entry) for entry in seed]
        if len(seeds) != self.num_envs:
            raise InvalidArgument(
                f"seed must be an integer or have {self.num_envs} entries, got {len(seeds)}"
            )
        if seeds[0] is not None:
            super().reset(seed=seeds[0])
        unseeded = np.full(self.num_envs, KEEP_STREAM)
        if not self._started:
            # Left alone, the emulators would all take the time of day.
            unseeded = self.np_random.integers(MAX_SEED, size=self.num_envs)
        filled = [
            new if old is None else emulator_seed(old)
            for old, new in zip(seeds, unseeded, strict=True)
        ]
        return np.array(filled, np.int64)

    def _checked_actions(self, actions: Any) -> NDArray[np.integer]:
        array = np.asarray(actions)
        expected = f"Expected {self.num_envs} integers in 0..17"
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidAction(f"{expected}, got {array.dtype} of shape {array.shape}")
        if ((array < 0) | (array >= NUM_ACTIONS)).any():
            raise InvalidAction(f"{expected}, got {array.tolist()}")
        return array

    def _empty_batch(self) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
        """Return arrays to be filled with observations and counters, the caller's to keep."""
        counters = np.empty((len(COUNTERS), self.num_envs), np.int64)
        observations = np.empty(self._batch_shape, np.uint8)
        return observations, dict(zip(COUNTERS, counters, strict=True))

    def _reset_pools(
        self, mask: NDArray[np.bool_], seeds: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
        """Reset where `mask`, (num_envs,), is true; return what is seen in all environments."""
        observations, counters = self._empty_batch()
        with self._closing_on_failure():
            for rows, pool in self._pools:
                chosen = mask[rows]
                options = None if chosen.all() else {"reset_mask": chosen}
                observations[rows], info = pool.reset(seed=seeds[rows][chosen], options=options)
                for name in COUNTERS:
                    counters[name][rows] = info[name]
            if self._screens:
                self._screens.reset(mask, seeds)
        return self._through_jpeg(observations, mask, mask), counters

    def _reset_ended(
        self, ended: NDArray[np.bool_], observations: NDArray[np.uint8], infos: dict[str, Any]
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Reset environments in the step in which they `ended`; return observations and `infos`.

        ale-py's own SAME_STEP would do, but it loses the last `lives` and frame numbers.
        """
        final_observations = np.full(self.num_envs, None, object)
        for row in np.flatnonzero(ended):
            final_observations[row] = observations[row].copy()
        for name in infos:
            if name.startswith("_"):
                infos[name] = ended.copy()
        observations, counters = self._reset_pools(ended, np.full(self.num_envs, KEEP_STREAM))
        self._statistics.begin(ended)
        return observations, self._infos(counters) | {
            "episode": infos["episode"],
            "_episode": ended.copy(),
            "final_obs": final_observations,
            "_final_obs": ended.copy(),
            "final_info": infos,
            "_final_info": ended.copy(),
        }

    @contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        """Close the environments if what is inside fails: some of them are then a step ahead."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _through_jpeg(
        self,
        observations: NDArray[np.uint8],
        moved: NDArray[np.bool_],
        began: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Return `observations` as the protocol has them, with each frame sent through JPEG once.

        Args:
            observations: of all environments, from the emulators.
            moved: which have a new frame, (num_envs,).
            began: of these, which begin an episode with it, (num_envs,).
        """
        if not self.protocol.jpeg:
            return observations
        for row in np.flatnonzero(moved):
            stack = self._jpeg_stacks[row]
            stack[:-1] = 0 if began[row] else stack[1:]
            stack[-1] = jpeg_round_trip(observations[row, -1])
        return self._jpeg_stacks.copy()

    def _infos(self, counters: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        """Return the arrays of `infos` and, as Gymnasium has it, a mask for each."""
        infos: dict[str, Any] = {"game": np.array(self.games_of_envs, object), **counters}
        return infos | {f"_{name}": np.ones(self.num_envs, bool) for name in infos}

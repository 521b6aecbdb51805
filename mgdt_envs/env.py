"""One environment that plays one Atari game per episode, out of one or many."""

import operator
import time
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from mgdt_envs.emulator import MAX_SEED, NUM_ACTIONS, Emulator
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import game, resolve_games
from mgdt_envs.protocol import AnyProtocol, as_protocol
from mgdt_envs.scoring import human_normalized_score, reason_without_score
from mgdt_envs.seeds import checked_seed, emulator_seed


class MultiGameAtariEnv(gym.Env[NDArray[np.uint8], np.int64], EzPickle):
    """Atari games behind one observation space and one action space.

    Each reset draws one of `games`, or takes the one named in `options={"game": ...}`.

    - Observation: the last `stack` frames, oldest first, (stack, screen_size, screen_size) uint8;
      frames before the episode's start are zero.
    - Action: one of the console's 18, whatever the game.
    - Reward: the game's own, not clipped.
    - `info`: "game", "lives", "frame_number", "episode_frame_number"; on an episode's last step
      also "episode" with "r" (score), "l" (agent steps), "t" (seconds) and "hns"
      (human-normalized score), or "hns_missing", the reason why there is none.
      `RecordEpisodeStatistics` is not needed; with it, give it another `stats_key`.

    A seeded reset seeds the emulator with that seed alone: the episode is then the one that
    `MultiGameAtariVectorEnv` plays with that seed, pixel for pixel. An unseeded reset goes on
    with the emulator's random stream.

    Example:
        >>> from mgdt_envs import MultiGameAtariEnv
        >>> env = MultiGameAtariEnv(games=["Pong", "Breakout"])
        >>> observation, info = env.reset(seed=0, options={"game": "Pong"})
        >>> observation.shape, info["game"]
        ((4, 84, 84), 'Pong')
        >>> observation, reward, terminated, truncated, info = env.step(2)
        >>> reward, terminated, truncated
        (0.0, False, False)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        games: str | Iterable[str] = "atari57",
        protocol: AnyProtocol = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; emulators start when their game is first played.

        Args:
            games: a suite, a game, or several of either; see `mgdt_envs.resolve_games`.
            protocol: preprocessing and episode rules: an `AtariProtocol`, the name of one in
                `mgdt_envs.PROTOCOLS`, or its fields; `AtariProtocol()` by default.
            render_mode: "rgb_array", or `None` to render nothing.

        Raises:
            ValueError: for an unknown game, suite, protocol or render mode.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InvalidArgument(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.games = resolve_games(games)
        self.protocol = as_protocol(protocol)
        self.render_mode = render_mode
        # A copy begins anew, as those of ale-py's environments do.
        EzPickle.__init__(self, self.games, self.protocol, render_mode)
        self.metadata = self.metadata | {"render_fps": self.protocol.steps_per_second}
        self.observation_space = Box(0, 255, self.protocol.observation_shape, np.uint8)
        self.action_space = Discrete(NUM_ACTIONS)
        self._emulators: dict[str, Emulator] = {}
        self._emulator: Emulator | None = None
        self._playing = False
        self._closed = False
        self._return = 0.0
        self._length = 0  # agent steps
        self._start = 0.0  # seconds

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the draw of the game and of the emulator, at least 0. The emulator takes seeds
                to 2**31 - 1 as they are; see `mgdt_envs.seeds.emulator_seed` for larger ones.
            options: {"game": name} plays that game.

        Returns:
            The observation and `info`.

        Raises:
            ValueError: for a seed that is negative or no integer, an unknown option, or a game that
                is not one of this environment's.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        seed = None if seed is None else checked_seed(seed)
        name = self._named_game(options or {})
        super().reset(seed=seed)
        if name is None:
            name = self.games[int(self.np_random.integers(len(self.games)))]
        if seed is not None:
            # Whatever follows depends on this seed alone, so no game keeps its old stream.
            self._emulators.clear()
        if name not in self._emulators:
            number = int(self.np_random.integers(MAX_SEED)) if seed is None else emulator_seed(seed)
            self._emulators[name] = Emulator(game(name), self.protocol, number)
        self._emulator = self._emulators[name]
        self._emulator.reset()
        self._playing = True
        self._return, self._length, self._start = 0.0, 0, time.perf_counter()
        return self._emulator.stack.copy(), self._info(self._emulator)

    def step(
        self, action: int | np.integer[Any]
    ) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Play one agent step.

        Args:
            action: 0..17, an id of the console's full action set.

        Returns:
            Observation, raw reward, whether the game is over, whether `max_frames` are played,
            and `info`.

        Raises:
            ResetNeeded: before the first reset and after an episode's end.
            InvalidAction: if the action is not an integer in 0..17.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        emulator = self._emulator
        if emulator is None or not self._playing:
            when = "before the first reset()" if emulator is None else "after the episode's end"
            raise ResetNeeded(f"step() was called {when}; call reset() first")
        reward = emulator.step(_checked_action(action))
        self._return += reward
        self._length += 1
        info = self._info(emulator)
        if emulator.terminated or emulator.truncated:
            self._playing = False
            info["episode"] = self._episode(emulator)
        observation = emulator.stack.copy()
        return observation, reward, emulator.terminated, emulator.truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return the console's screen, (height, width, 3) uint8, if `render_mode` says so.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        if self.render_mode is None:
            return None
        if self._emulator is None:
            raise ResetNeeded("render() was called before the first reset(); call reset() first")
        return np.asarray(self._emulator.ale.getScreenRGB(), np.uint8)

    def close(self) -> None:
        """Let the emulators go."""
        self._emulators.clear()
        self._emulator = None
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("The environment is closed; make a new one.")

    def _named_game(self, options: dict[str, Any]) -> str | None:
        """Return the canonical name of the game in `options`, `None` if there is none."""
        if unknown := sorted(set(options) - {"game"}):
            raise InvalidArgument(f"reset() understands options={{'game': name}}, got {unknown}")
        if (wanted := options.get("game")) is None:
            return None
        by_loose_name = {key: name for name in self.games for key in (name.lower(), game(name).rom)}
        if (name := by_loose_name.get(str(wanted).lower())) is None:
            raise InvalidArgument(
                f"options['game'] must be one of {', '.join(self.games)}; got {wanted!r}"
            )
        return name

    def _info(self, emulator: Emulator) -> dict[str, Any]:
        return {
            "game": emulator.game.name,
            "lives": emulator.lives,
            "frame_number": emulator.ale.getFrameNumber(),
            "episode_frame_number": emulator.ale.getEpisodeFrameNumber(),
        }

    def _episode(self, emulator: Emulator) -> dict[str, Any]:
        """Return the statistics of the episode that has just ended."""
        seconds = round(time.perf_counter() - self._start, 6)
        episode: dict[str, Any] = {"r": self._return, "l": self._length, "t": seconds}
        if reason := reason_without_score(emulator.game.name, self.protocol):
            return episode | {"hns_missing": reason}
        return episode | {"hns": float(human_normalized_score(emulator.game.name, self._return))}


def _checked_action(action: Any) -> int:
    """Return `action` as an int.

    Raises:
        InvalidAction: if it is not an integer in 0..17.
    """
    try:
        index = operator.index(action)
    except TypeError:
        kind = type(action).__name__
        raise InvalidAction(f"Expected an integer in 0..17, got {action!r} ({kind})") from None
    if not 0 <= index < NUM_ACTIONS:
        raise InvalidAction(f"Expected an integer in 0..17, got {index}")
    return index

"""One game in one emulator, from raw frames to stacked observations, and ale-py's arguments.

`Emulator` is ale-py's C++ preprocessing of its vector environment, step for step
(ale-py 0.12.1, `src/ale/vector/preprocessed_env.cpp`), so that a single environment and a
vector environment give the same pixels for the same seed and actions.
"""

from pathlib import Path
from typing import Any

import ale_py
import cv2
import numpy as np
from ale_py import roms
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import ALL_ACTIONS, Game
from mgdt_envs.protocol import AtariProtocol

NOOP = 0
FIRE = 1
NUM_ACTIONS = 18
MAX_SEED = 2**31 - 1
JPEG_QUALITY = 95
SKIING_ACTIONS = (0, 2, 3, 4, 5, 6, 7, 8, 9)
"""All that the emulator takes in Skiing; it makes NOOP of the actions with FIRE."""


def emulator_action_set(game: Game, protocol: AtariProtocol) -> tuple[int, ...]:
    """Return the full-set ids of the actions that `AtariVectorEnv` has, in its order.

    They are the game's minimal set, or the full one where the protocol says "native".
    """
    if protocol.outside_action == "noop":
        return game.minimal_actions
    return SKIING_ACTIONS if game.name == "Skiing" else ALL_ACTIONS


def emulator_actions(game: Game, protocol: AtariProtocol) -> NDArray[np.int64]:
    """Return the full-set id that the emulator is given for each of the 18 actions, (18,) int64.

    An action outside the game's minimal set becomes NOOP, unless the protocol says "native".
    """
    actions = np.arange(NUM_ACTIONS)
    actions[~np.isin(actions, emulator_action_set(game, protocol))] = NOOP
    return actions


def minimal_action_index(game: Game, protocol: AtariProtocol) -> NDArray[np.int64]:
    """Return the index that `AtariVectorEnv` takes for each of the 18 actions, (18,) int64."""
    action_set = emulator_action_set(game, protocol)
    return np.array([action_set.index(action) for action in emulator_actions(game, protocol)])


def minimal_actions(game: Game) -> tuple[int, ...]:
    """Return the full-set ids of the actions that ale-py says a game has."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(rom_path(game))
    return tuple(sorted(action.value for action in emulator.getMinimalActionSet()))


def check_num_threads(num_threads: int) -> None:
    """Refuse a number of threads below 0, which ale-py would take for its default.

    Raises:
        ValueError: if it is negative.
    """
    if num_threads < 0:
        raise InvalidArgument(
            f"Expected a number of threads, or 0 for one a core, got {num_threads}."
        )


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


def jpeg_round_trip(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the gray `frame`, (height, width) uint8, as it looks after JPEG."""
    _, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def rom_path(game: Game) -> Path:
    """Return the file of the game's ROM, which ale-py brings."""
    path = roms.get_rom_path(game.rom)
    assert path is not None, f"ale-py has no ROM {game.rom!r}"
    return Path(path)


class Emulator:
    """One Atari game under a protocol.

    Attributes:
        stack: the last frames, oldest first, (stack, screen_size, screen_size) uint8. It is
            overwritten by the next `reset` or `step`.
        terminated: whether the game is over, or a life is lost where that ends an episode.
        truncated: whether `max_frames` are played and the game is not over.
        lives: lives left.
    """

    def __init__(self, game: Game, protocol: AtariProtocol, seed: int) -> None:
        """Load the game's ROM; `reset` must come first.

        Args:
            game: which game.
            protocol: how its frames become observations.
            seed: of the emulator and of the number of no-ops, 0 to 2**31 - 1.
        """
        self.game = game
        self.protocol = protocol
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", protocol.sticky)
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(rom_path(game))
        # C++ counts the no-ops by `std::uniform_int_distribution` over `std::mt19937`. That is
        # `Generator.integers` of 32 bits (libstdc++ and numpy both use Lemire's method) over
        # MT19937 as `RandomState` seeds it.
        state: Any = np.random.RandomState(seed).get_state(legacy=False)
        bits = np.random.MT19937()
        bits.state = state
        self._noop_random = np.random.Generator(bits)

        self._actions = emulator_actions(game, protocol).tolist()
        self._presses_fire = protocol.fire_reset and FIRE in emulator_action_set(game, protocol)
        height, width = self.ale.getScreenDims()
        self._raw = np.zeros((2, height, width), np.uint8)
        size = protocol.screen_size
        self.stack = np.zeros((protocol.stack, size, size), np.uint8)
        self.terminated = self.truncated = False
        self.lives = 0
        self._frames = 0

    def reset(self) -> None:
        """Start an episode. The emulator's random stream goes on."""
        self.ale.reset_game()
        if self._presses_fire:
            self.ale.act(FIRE)
        noops = 0
        if self.protocol.noop_max > 0:
            noops = int(self._noop_random.integers(self.protocol.noop_max, dtype=np.uint32))
        for _ in range(noops - self._presses_fire):
            self.ale.act(NOOP)
            if self.ale.game_over():
                self.ale.reset_game()
        self.stack[:] = 0
        self.ale.getScreenGrayscale(self._raw[0])
        self._raw[1] = 0
        self._push_frame()
        self.terminated = self.truncated = False
        self.lives = self.ale.lives()
        self._frames = 0

    def step(self, action: int) -> float:
        """Play `action`, a full-set id, for `frame_skip` frames and return the raw reward."""
        protocol = self.protocol
        action = self._actions[action]
        reward = 0
        for frames_left in range(protocol.frame_skip, 0, -1):
            reward += self.ale.act(action)
            self._frames += 1
            lives = self.ale.lives()
            self.terminated = self.ale.game_over() or (
                protocol.life_loss_ends and 0 < lives < self.lives
            )
            self.truncated = self._frames >= protocol.max_frames and not self.terminated
            if self.terminated or self.truncated:
                # The raw frames stay those of earlier steps, as in C++.
                break
            if frames_left <= 2:
                self.ale.getScreenGrayscale(self._raw[frames_left - 1])
        self._push_frame()
        self.lives = self.ale.lives()
        return float(reward)

    def _push_frame(self) -> None:
        """Pool and resize the raw frames, and put the result last in the stack."""
        if self.protocol.max_pool:
            # Into the first raw frame, which matters when the next step ends early.
            np.maximum(self._raw[0], self._raw[1], out=self._raw[0])
        size = (self.protocol.screen_size, self.protocol.screen_size)
        frame = np.asarray(cv2.resize(self._raw[0], size, interpolation=cv2.INTER_AREA), np.uint8)
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = jpeg_round_trip(frame) if self.protocol.jpeg else frame

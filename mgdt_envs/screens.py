"""The console's screens in color, from emulators that play beside those of a vector environment.

ale-py's vector environment shows what its preprocessing leaves, small gray frames. A second
emulator with the same seed and the same actions plays the same game, so it can show the screen as
it is. It costs the emulation once more.
"""

from collections.abc import Sequence

import ale_py
import numpy as np
from ale_py import AtariVectorEnv
from numpy.typing import NDArray

from mgdt_envs.emulator import emulator_arguments, rom_path
from mgdt_envs.games import game
from mgdt_envs.protocol import AtariProtocol

Rows = slice | NDArray[np.intp]


class ColorScreens:
    """Emulators that repeat the play of a vector environment and keep its screens.

    What they show is what `MultiGameAtariEnv.render` shows: the last frame of a step, not the
    maximum of two; but after the step that ends an episode they show the frame before it.

    Args:
        games: of each its name, which environments play it, how many they are, and the threads of
            its emulators; 0 is one a core.
        protocol: the vector environment's.
    """

    def __init__(
        self, games: Sequence[tuple[str, Rows, int, int]], protocol: AtariProtocol
    ) -> None:
        self._pools: list[tuple[Rows, AtariVectorEnv]] = []
        self._screens: list[NDArray[np.uint8]] = []
        for name, rows, count, threads in games:
            height, width = screen_size(name)
            arguments = emulator_arguments(protocol) | {
                "grayscale": False,
                "img_height": height,
                "img_width": width,
                "stack_num": 1,
                "maxpool": False,
            }
            pool = AtariVectorEnv(game(name).rom, count, num_threads=threads, **arguments)
            self._pools.append((rows, pool))
            self._screens.append(np.zeros((count, height, width, 3), np.uint8))

    def reset(self, mask: NDArray[np.bool_], seeds: NDArray[np.int64]) -> None:
        """Reset the environments of `mask`, as the vector environment does."""
        for place, (rows, pool) in enumerate(self._pools):
            chosen = mask[rows]
            options = None if chosen.all() else {"reset_mask": chosen}
            observations, _ = pool.reset(seed=seeds[rows][chosen], options=options)
            self._screens[place] = observations[:, 0]

    def send(self, indices: NDArray[np.integer]) -> None:
        """Begin a step with the emulators' actions, `(num_envs,)`."""
        for rows, pool in self._pools:
            pool.send(indices[rows])

    def receive(self) -> None:
        """End the step that `send` began."""
        for place, (_, pool) in enumerate(self._pools):
            self._screens[place] = pool.recv()[0][:, 0]

    def render(self, num_envs: int) -> tuple[NDArray[np.uint8], ...]:
        """Return the screen of each environment, `(height, width, 3)` uint8."""
        order = np.arange(num_envs)
        screens: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * num_envs
        for (rows, _), pictures in zip(self._pools, self._screens, strict=True):
            for row, screen in zip(order[rows], pictures, strict=True):
                screens[row] = screen
        return tuple(screens)


def screen_size(name: str) -> tuple[int, int]:
    """Return height and width of the console's picture in a game, in pixels."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(rom_path(game(name)))
    height, width = ale.getScreenDims()
    return height, width


def of_one_height(screens: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Return the screens, (height, width, 3) uint8 each, black below those that are less high."""
    height = max(map(len, screens))
    return [np.pad(screen, ((0, height - len(screen)), (0, 0), (0, 0))) for screen in screens]

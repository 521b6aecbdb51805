"""The vector environment against bare emulators and against Gymnasium's processes."""

from collections.abc import Callable, Sequence
from functools import partial

import ale_py
import gymnasium as gym
import numpy as np
from ale_py import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv, game
from mgdt_envs.emulator import emulator_arguments
from tests.perf.timing import Figure, ratio

GAMES = (
    "Breakout",
    "Pong",
    "Seaquest",
    "SpaceInvaders",
    "Qbert",
    "Freeway",
    "Boxing",
    "MsPacman",
)
ENVS_OF_A_GAME = 4
STEPS = 100  # of a round


def _rounds(step: Callable[[int], object]) -> Callable[[], None]:
    """Return a function that plays a round."""

    def play() -> None:
        for number in range(STEPS):
            step(number)

    return play


def _ours(random: np.random.Generator) -> tuple[MultiGameAtariVectorEnv, Callable[[], None]]:
    envs = MultiGameAtariVectorEnv(len(GAMES) * ENVS_OF_A_GAME, GAMES)
    envs.reset(seed=0)
    actions = random.integers(18, size=(STEPS, envs.num_envs))
    return envs, _rounds(lambda number: envs.step(actions[number]))


def _bare(random: np.random.Generator) -> Callable[[], None]:
    pools: Sequence[tuple[AtariVectorEnv, np.ndarray]] = [
        (
            AtariVectorEnv(game(name).rom, ENVS_OF_A_GAME, **emulator_arguments(AtariProtocol())),
            random.integers(len(game(name).minimal_actions), size=(STEPS, ENVS_OF_A_GAME)),
        )
        for name in GAMES
    ]
    for pool, _ in pools:
        pool.reset(seed=0)

    def step(number: int) -> None:
        for pool, actions in pools:
            pool.step(actions[number])

    return _rounds(step)


def _preprocessed(name: str) -> gym.Env:
    gym.register_envs(ale_py)  # in the worker's process, where nothing is registered yet
    env = gym.make(f"ALE/{name}-v5", frameskip=1, full_action_space=True)
    return FrameStackObservation(AtariPreprocessing(env, noop_max=0), 4, padding_type="zero")


def measure() -> dict[str, Figure]:
    """Return the figures `env.*`."""
    random = np.random.default_rng(0)
    envs, ours = _ours(random)
    vector_vs_bare = ratio(ours, _bare(random))
    actions = random.integers(18, size=(STEPS, envs.num_envs))
    processes = AsyncVectorEnv([partial(_preprocessed, name) for name in envs.games_of_envs])
    processes.reset(seed=0)
    vector_vs_async = ratio(ours, _rounds(lambda number: processes.step(actions[number])))
    processes.close()
    envs.close()
    size = f"{len(GAMES)} games x {ENVS_OF_A_GAME}"
    return {
        "env.vector_vs_bare": Figure(
            vector_vs_bare, "x", f"one AtariVectorEnv a game stepped in turn, {size}"
        ),
        "env.vector_vs_async": Figure(
            vector_vs_async, "x", f"AsyncVectorEnv of AtariPreprocessing and frame stacks, {size}"
        ),
    }

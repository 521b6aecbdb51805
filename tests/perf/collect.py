"""Collectors on one core against the bare emulators that they play, with random actions."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from ale_py import AtariVectorEnv

from mgdt_agents.online.learner import Play, updates
from mgdt_agents.online.pqn import PQN, PQNConfig
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv, game
from mgdt_envs.emulator import emulator_arguments
from tests.perf.timing import Figure, take_turns

GAMES = ("Breakout", "Freeway", "Pong", "SpaceInvaders")
ROUNDS = 5


def _collector(name: str, config: PQNConfig) -> Callable[[], object]:
    """Return a function that plays a rollout and learns it."""
    games = [name] * config.num_envs
    envs = TraceRecorder(MultiGameAtariVectorEnv(config.num_envs, name, num_threads=1), {})
    learner = PQN(config, games, 3_000_000, device="cpu")
    return partial(next, updates(learner, Play(envs, games, seed=0)))


def emulators(games: Sequence[str], num_envs: int, steps: int) -> Callable[[], object]:
    """Return a function that takes `steps` steps of `num_envs` emulators, equally many a game."""
    arguments = emulator_arguments(AtariProtocol())
    count = num_envs // len(games)
    pools = [AtariVectorEnv(game(name).rom, count, num_threads=1, **arguments) for name in games]
    for pool in pools:
        pool.reset(seed=0)
    random = np.random.default_rng(0)
    choices = [len(game(name).minimal_actions) for name in games]

    def play() -> None:
        for _ in range(steps):
            for pool, actions in zip(pools, choices, strict=True):
                pool.step(random.integers(actions, size=count))

    return play


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and the emulators that it starts, on one core."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def measure() -> dict[str, Figure]:
    """Return the figures `collect.*`."""
    config = PQNConfig()
    steps = config.rollout_steps * config.num_envs
    seconds = np.zeros(2)
    with one_core():
        for name in GAMES:
            sides = {
                "bare": emulators([name], config.num_envs, config.rollout_steps),
                "collector": _collector(name, config),
            }
            taken = take_turns(sides, rounds=ROUNDS)
            bare, collector = (float(np.median(taken[side])) for side in sides)
            print(
                f"collect: {name} {steps / collector:,.0f} agent steps/s, "
                f"{bare / collector:.2f} of the bare emulator's {steps / bare:,.0f}",
                flush=True,
            )
            seconds += bare, collector
    peer = f"bare AtariVectorEnv, random actions, one core; {', '.join(GAMES)}"
    return {
        "collect.steps_per_second_vs_emulator": Figure(seconds[0] / seconds[1], "x", peer),
        "collect.steps_per_second": Figure(len(GAMES) * steps / seconds[1], "1/s", "one core"),
    }

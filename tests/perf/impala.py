"""IMPALA of four games on one core against their bare emulators, with random actions."""

import time
from functools import partial

import numpy as np

from mgdt_agents.online.impala import Impala, ImpalaLearnerConfig
from mgdt_agents.online.learner import Play, updates
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_envs import MultiGameAtariVectorEnv
from tests.perf.collect import emulators, one_core
from tests.perf.timing import Figure, take_turns

GAMES = ("Breakout", "CrazyClimber", "Pong", "SpaceInvaders")
UPDATES = 5  # of a round
ROUNDS = 7


def measure() -> dict[str, Figure]:
    """Return the figures `impala.*`: playing, recording and learning with the defaults."""
    config = ImpalaLearnerConfig()
    steps = UPDATES * config.unroll_length
    with one_core():
        envs = MultiGameAtariVectorEnv(config.num_envs, GAMES, num_threads=1)
        learner = Impala(config, envs.games_of_envs, 6_000_000, device="cpu")
        play = Play(TraceRecorder(envs, {}), envs.games_of_envs, seed=0)
        update = partial(next, updates(learner, play))
        sides = {
            "bare": emulators(GAMES, config.num_envs, steps),
            "impala": lambda: [update() for _ in range(UPDATES)],
        }
        # Of all threads: others may have the core, too.
        taken = take_turns(sides, rounds=ROUNDS, clock=time.process_time)
    peer = f"bare AtariVectorEnv, random actions, one core; {', '.join(GAMES)} together"
    per_second = steps * config.num_envs / float(np.median(taken["impala"]))
    return {
        "impala.steps_per_second_vs_emulator": Figure(
            float(np.median(taken["bare"] / taken["impala"])), "x", peer
        ),
        "impala.steps_per_second": Figure(per_second, "1/s", "of processor time"),
    }

"""The benchmark against what it is made of: environments that step, an agent that decides.

Whole episodes are played, each from its own seed, with all that the benchmark keeps of them. The
bare environments start from seeds once in a round, as often as there are episodes here. Both sides
have made their emulators before, as a benchmark has when its second agent plays.
"""

from functools import partial

import numpy as np
import torch

from mgdt_agents import load_agent
from mgdt_agents.evaluation.benchmark import finished
from mgdt_agents.evaluation.place import Emulators
from mgdt_agents.evaluation.report import counted
from mgdt_agents.evaluation.rollout import rollout
from mgdt_envs import MultiGameAtariVectorEnv
from tests.perf.timing import Figure, ratio

GAMES = ("Breakout", "Freeway", "Pong")
EPISODES = 8  # of each game
ROUNDS = 3
DECISIONS = 50  # of a round


def _play(name: str, emulators: Emulators) -> int:
    """Play the benchmark and return the number of steps."""
    agent = load_agent(name, device="cpu")
    steps = rollout(agent, GAMES, episodes=EPISODES, emulators=emulators)
    return sum(episode.steps for episode, _ in finished(steps, name, 0, "default"))


def _step(envs: MultiGameAtariVectorEnv, steps: int) -> None:
    """Step environments at random as often as the benchmark did."""
    random = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(steps // envs.num_envs):
        envs.step(random.integers(18, size=envs.num_envs))


def _random() -> Figure:
    num_envs = EPISODES * len(GAMES)
    envs = MultiGameAtariVectorEnv(num_envs, GAMES)
    emulators = Emulators()  # both sides make theirs before they are measured
    steps = _play("random", emulators)
    value = ratio(partial(_play, "random", emulators), partial(_step, envs, steps), rounds=ROUNDS)
    envs.close()
    return Figure(value, "x", f"bare vector environment, {num_envs} environments, as many steps")


def _agent(name: str, threads: int) -> Figure:
    """Return how fast an agent plays, over how fast it decides at the same size of the batch.

    With fewer threads than cores, the emulators have a core of their own, and play meanwhile.

    Args:
        name: of the agent.
        threads: that decide, on either side.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    agent = load_agent(name, device="cpu")
    num_envs = EPISODES * len(GAMES)
    frames = np.random.default_rng(0).integers(256, size=(num_envs, 4, 84, 84), dtype=np.uint8)
    steps = rollout(agent, GAMES, episodes=4 * EPISODES, batch_size=num_envs)
    next(steps)  # the first episodes are begun

    def play() -> None:
        for _ in range(DECISIONS):
            next(steps)

    def decide() -> None:
        state = None
        for _ in range(DECISIONS):
            _, state = agent.predict(frames, state, reward=np.zeros(num_envs))

    value = ratio(play, decide, rounds=ROUNDS)
    torch.set_num_threads(before)
    return Figure(value, "x", f"its predict alone, {counted(threads, 'thread')}, batch {num_envs}")


def measure() -> dict[str, Figure]:
    """Return the figures `bench.*`."""
    return {
        "bench.random_vs_env": _random(),
        "bench.dt_vs_predict": _agent("dt", torch.get_num_threads()),
        "bench.dt_vs_predict_one_thread": _agent("dt", 1),
    }

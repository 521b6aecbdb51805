"""How an agent plays under several settings of how it acts, for choosing one.

`python -m tests.studies.acting_settings RUN --kappa 10,30 --temperature 1,0.5` plays a `dt` with
each tilt of its expert returns and each temperature of its actions; `--beta 0,3,10` varies the
weight of a `dtq`'s values or a `tt`'s scores, `--horizon` and `--likely` the latter's search. Seeds
are those of evaluation during training, which the benchmark does not use.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mgdt_agents import NetworkAgent, load_agent
from mgdt_agents.evaluation.benchmark import BenchmarkConfig, run_benchmark
from mgdt_envs.seeds import EVALUATION_SEED

NAMES = ("kappa", "beta", "temperature", "horizon", "likely")


def settings(run: str, arguments: argparse.Namespace) -> Iterator[tuple[str, NetworkAgent]]:
    """Yield the agent with each setting, and what the table calls it."""
    varied = [name for name in NAMES if getattr(arguments, name)]
    for numbers in itertools.product(*(getattr(arguments, name) for name in varied)):
        agent: Any = load_agent(run, device="cpu")
        for name, number in zip(varied, numbers, strict=True):
            if name == "beta":
                agent.beta = number
            elif name in ("horizon", "likely"):
                number = int(number) if name == "horizon" else number
                agent.search = dataclasses.replace(agent.search, **{name: number})
            elif name == "temperature" and not hasattr(agent, "rule"):
                agent.action_temperature = number
            else:
                field = "kappa" if name == "kappa" else "action_temperature"
                agent.rule = dataclasses.replace(agent.rule, **{field: number})
        if arguments.bf16:
            agent.model.bfloat16()
        named = [f"{name} {number:g}" for name, number in zip(varied, numbers, strict=True)]
        yield ", ".join(named) or "as saved", agent


def main() -> None:
    """Play, and print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    for name in NAMES:
        parser.add_argument(f"--{name}", type=listed, default=[])
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--idle-steps", type=int, help="end episodes without reward for so long")
    parser.add_argument("--bf16", action="store_true", help="play faster where the CPU has AMX")
    arguments = parser.parse_args()
    for name, agent in settings(arguments.run, arguments):
        games = agent.games
        config = BenchmarkConfig(
            games=games,
            episodes=arguments.episodes,
            seed=EVALUATION_SEED,
            idle_steps=arguments.idle_steps,
        )
        results = run_benchmark({name: agent}, config)
        means = ", ".join(f"{game} {results.scores(name, game).mean():.1f}" for game in games)
        normalized = np.mean([values.mean() for values in results.human_normalized(name).values()])
        print(f"{name:>26}: human-normalized {normalized:.3f}; {means}", flush=True)


def listed(text: str) -> list[float]:
    """Return the numbers of a list with commas."""
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    main()

"""How an agent plays under several settings of how it acts, for choosing one.

`python -m tests.studies.acting_settings RUN --kappa 0,10,30` plays a `dt` with each tilt of its
expert returns; `--beta 0,1,3` a `dtq` with each weight of its values. Seeds are those of evaluation
during training, which the benchmark does not use.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from mgdt_agents import load_agent
from mgdt_agents.agent import NetworkAgent
from mgdt_agents.decision_transformer import ExpertReturn
from mgdt_agents.evaluation.benchmark import BenchmarkConfig, run_benchmark
from mgdt_envs.seeds import EVALUATION_SEED


def settings(run: str, name: str, numbers: list[float]) -> Iterator[tuple[str, NetworkAgent]]:
    """Yield the agent with each setting, and what the table calls it."""
    agent = load_agent(run, device="cpu")
    assert isinstance(agent, NetworkAgent)
    for number in numbers:
        if name == "kappa":
            agent.rule = ExpertReturn(kappa=number)  # type: ignore[attr-defined]
        else:
            agent.beta = number  # type: ignore[attr-defined]
        yield f"{name} {number:g}", agent
    if not numbers:
        yield "as saved", agent


def main() -> None:
    """Play, and print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--kappa", type=numbers, default=[])
    parser.add_argument("--beta", type=numbers, default=[])
    parser.add_argument("--episodes", type=int, default=8)
    arguments = parser.parse_args()
    varied = "beta" if arguments.beta else "kappa"
    for name, agent in settings(arguments.run, varied, getattr(arguments, varied)):
        games = agent.games
        config = BenchmarkConfig(games=games, episodes=arguments.episodes, seed=EVALUATION_SEED)
        results = run_benchmark({name: agent}, config)
        means = ", ".join(f"{game} {results.scores(name, game).mean():.1f}" for game in games)
        normalized = np.mean([values.mean() for values in results.human_normalized(name).values()])
        print(f"{name:>10}: human-normalized {normalized:.3f}; {means}", flush=True)


def numbers(text: str) -> list[float]:
    """Return the numbers of a list with commas."""
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    main()

"""IMPALA's learning curves beside PQN's specialists at as many steps of each game: docs/impala.png.

`python -m tests.studies.impala_curve docs/experiment/results/impala.jsonl` reads what
`mgdt-train --agent impala` left as `metrics.jsonl` and the bundled traces, draws the picture, and
prints the table of docs/agents.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mgdt_agents.online.learner import RECENT_EPISODES
from mgdt_agents.replay import Trace
from mgdt_agents.replay.trace_collection import bundled
from mgdt_envs import game

STEPS_SHOWN = (0.25, 0.5, 1.0, 1.5)
"""Million steps of a game, the columns of the table."""

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Million steps of a game, and mean returns of the last 100 episodes."""


def of_run(rows: list[dict[str, float | None]], name: str, games: int) -> Curve:
    """Return a game's curve in a run of several games, which share its steps equally."""
    known = [row for row in rows if row[f"mean_return/{name}"] is not None]
    steps = np.array([row["step"] for row in known], float) / games / 1e6
    return steps, np.array([row[f"mean_return/{name}"] for row in known], float)


def of_trace(trace: Trace) -> Curve:
    """Return the curve of a trace."""
    sums = np.insert(trace.episode_return.cumsum(dtype=np.float64), 0, 0)
    counts = np.minimum(np.arange(1, len(sums)), RECENT_EPISODES)
    means = (sums[1:] - sums[np.arange(1, len(sums)) - counts]) / counts
    return (trace.episode_end_step + 1) * len(trace.seeds) / 1e6, means


def at(curve: Curve, millions: float) -> str:
    """Return the curve's value after so many steps."""
    steps, returns = curve
    return f"{returns[np.searchsorted(steps, millions, side='right') - 1]:,.1f}"


def main() -> None:
    """Draw the picture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/impala.png"))
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.metrics.read_text().splitlines()]
    games = [key.split("/")[1] for key in rows[0] if key.startswith("mean_return/")]
    figure = Figure(figsize=(9, 5), dpi=90, layout="constrained")
    end = max(row["step"] for row in rows) / len(games) / 1e6
    print("| game | | " + " | ".join(f"{millions:g}M" for millions in STEPS_SHOWN) + " |")
    print("|---" * (2 + len(STEPS_SHOWN)) + "|")
    for axes, name in zip(figure.subplots(2, 2).flat, games, strict=True):
        (path,) = bundled().paths([name])
        curves = {
            "IMPALA, one network for all": of_run(rows, name, len(games)),
            "PQN, a network for each": of_trace(Trace.load(path)),
        }
        for label, (steps, returns) in curves.items():
            axes.plot(steps[steps <= end], returns[steps <= end], label=label)
            cells = [at(curves[label], millions) for millions in STEPS_SHOWN]
            print(f"| {name} | {label} | {' | '.join(cells)} |")
        axes.axhline(game(name).random, color="gray", linestyle=":", label="random, published")
        axes.set(title=name, xlabel="million steps of the game", ylabel="mean return")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(arguments.output, metadata={"Software": None})


if __name__ == "__main__":
    main()

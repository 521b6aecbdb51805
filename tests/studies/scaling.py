"""How the loss falls with the size of `dt`, at home and in games never seen: docs/scaling.png.

`python -m tests.studies.scaling RUN... --replay replay/* --unseen replay/BeamRider` measures the
cross-entropy of actions of each run's agent on the same windows: of the episodes that the training
held out, good ones as often as in training; and of games that it never saw, all play alike. It fits
E + A / N^alpha to those of the training's games, N being the parameters, and says how far the
largest run is from what the smaller ones predict. `--tuned` names runs of the same folder names
that were fine-tuned to the games never seen, `--results` what the agents scored. Intervals are of
windows drawn anew, or of episodes, not of training runs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import least_squares

from mgdt_agents import load_agent
from mgdt_agents.acting_settings import split_settings
from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.evaluation.results import Aggregate, Results
from mgdt_agents.markdown import markdown_table
from mgdt_agents.replay import ReplayStore, WindowSampler
from mgdt_agents.training import TrainingConfig
from mgdt_agents.training.plan import cost_of

BATCH_SIZE = 64
DRAWS = 1000  # of the bootstrap
TUNED_HELDOUT = 0.92  # of a game never seen; docs/experiment/transfer.json learns from the rest

Losses = NDArray[np.float64]
"""`(runs, games, batches)`, mean cross-entropies of actions, in nats."""


def action_losses(
    agent: DecisionTransformerAgent,
    paths: list[Path],
    heldout_fraction: float,
    return_weighting: float,
    batches: int,
) -> NDArray[np.float64]:
    """Return `(games, batches)` losses of an agent, on the held-out episodes of each store."""
    losses = np.empty((len(paths), batches))
    for number, path in enumerate(paths):
        sampler = WindowSampler(
            [ReplayStore(path)],
            **agent.windows,
            heldout_fraction=heldout_fraction,
            return_weighting=return_weighting,
            split="heldout" if heldout_fraction else "train",
            seed=0,
        )
        for step in range(batches):
            with torch.no_grad():
                _, terms = agent.loss(sampler.sample(BATCH_SIZE, step))
            losses[number, step] = terms["action_loss"]
    return losses


def fitted(parameters: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E, A and alpha of E + A / N^alpha, least squares, all of them above zero.

    N is counted in millions, so that A is the loss that a million parameters could still take off.
    """
    millions = parameters / 1e6

    def errors(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        limit, scale, exponent = np.exp(logarithms)
        return np.asarray(limit + scale / millions**exponent - losses)

    above = max(float(np.ptp(losses)), 1e-3)
    guess = np.log([0.9 * float(losses.min()), above, 0.5])
    bounds = np.log([[1e-3, 1e-4, 0.01], [10.0, 10.0, 3.0]])
    found = least_squares(errors, np.clip(guess, *bounds), bounds=bounds, xtol=1e-12, ftol=1e-12)
    return np.exp(found.x)


def predicted(law: NDArray[np.float64], parameters: float) -> float:
    """Return the loss that the law gives a network of so many parameters."""
    limit, scale, exponent = law
    return float(limit + scale / (parameters / 1e6) ** exponent)


def drawn_anew(losses: Losses, seed: int = 0) -> Losses:
    """Return `(draws, runs)` mean losses of batches drawn anew, the same ones for all runs."""
    draws = np.random.default_rng(seed)
    games, batches = losses.shape[1:]
    chosen = draws.integers(batches, size=(DRAWS, games, batches))
    return np.stack(
        [np.take_along_axis(run[None], chosen, 2).mean((1, 2)) for run in losses], axis=1
    )


def interval(values: NDArray[np.float64]) -> str:
    """Return the middle 95 % of some values, as text."""
    low, high = np.percentile(values, [2.5, 97.5])
    return f"[{low:.3f}, {high:.3f}]"


def with_interval(losses: Losses) -> list[str]:
    """Return each run's mean loss and its interval, as text."""
    ends = drawn_anew(losses).T
    means = losses.mean((1, 2))
    return [f"{mean:.3f} {interval(values)}" for mean, values in zip(means, ends, strict=True)]


def iqms(paths: list[Path], runs: list[Path]) -> dict[Path, Aggregate]:
    """Return each run's IQM, human-normalized, from the results that it is in."""
    found = {}
    for path in paths:
        results = Results.load(path)
        for agent in results.agents:
            run = Path(split_settings(agent)[0])
            if run in runs:
                found[run] = results.aggregates[agent, "default"]["iqm"]
    return found


def draw(
    path: Path,
    sizes: NDArray[np.float64],
    compute: NDArray[np.float64],
    home: Losses,
    games: dict[str, tuple[Losses, Losses | None]],
    scores: list[Aggregate | None],
) -> None:
    """Draw loss against parameters, IQM against compute, and the loss in games never seen.

    Args:
        path: of the picture.
        sizes: parameters of each run.
        compute: FLOP of each run's training.
        home: losses on held-out episodes of the training's games.
        games: losses in each game never seen, before and after fine-tuning.
        scores: of each run.
    """
    panels = 1 + any(scores) + bool(games)
    figure = Figure(figsize=(4.5 * panels, 4), dpi=90, layout="constrained")
    axes, *others = figure.subplots(1, panels, squeeze=False)[0]
    law, line = fitted(sizes, home.mean((1, 2))), np.geomspace(sizes[0], sizes[-1], 50)
    axes.plot(line, [predicted(law, size) for size in line], color="gray", label="E + A / N^alpha")
    with_intervals(axes, sizes, home, "o", "held-out episodes")
    axes.set(xlabel="parameters", ylabel="cross-entropy of actions (nats)")
    if any(scores):
        panel, *others = others
        played = [(x, score) for x, score in zip(compute, scores, strict=True) if score]
        values = [score.value for _, score in played]
        ends = np.transpose([score.interval or (score.value,) * 2 for _, score in played])
        panel.errorbar([x for x, _ in played], values, abs(ends - values), fmt="o", label="IQM")
        panel.set(xlabel="training compute (FLOP)", ylabel="human-normalized score")
    for game, (before, after) in games.items():
        with_intervals(others[0], sizes, before, "s--", f"{game}, never seen")
        if after is not None:
            with_intervals(others[0], sizes, after, "^--", f"{game}, fine-tuned")
        others[0].set(xlabel="parameters", ylabel="cross-entropy of actions (nats)")
    for panel in figure.axes:
        panel.set_xscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend()
    figure.savefig(path, metadata={"Software": None})


def with_intervals(
    axes: Axes, sizes: NDArray[np.float64], losses: Losses, style: str, label: str
) -> None:
    """Draw mean losses and their intervals."""
    means = losses.mean((1, 2))
    low, high = np.percentile(drawn_anew(losses), [2.5, 97.5], axis=0)
    axes.errorbar(sizes, means, [means - low, high - means], fmt=style, label=label)


def main() -> None:
    """Measure, print the tables, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of mgdt-train --agent dt")
    parser.add_argument("--replay", nargs="+", type=Path, required=True)
    parser.add_argument("--unseen", nargs="*", type=Path, default=[], help="stores of other games")
    parser.add_argument("--tuned", nargs="*", type=Path, default=[], help="runs fine-tuned to them")
    parser.add_argument("--results", nargs="*", type=Path, default=[], help="results.json of runs")
    parser.add_argument("--batches", type=int, default=16, help="of 64 windows, of each game")
    parser.add_argument("--output", type=Path, default=Path("docs/scaling.png"))
    arguments = parser.parse_args()
    batches, tuned = arguments.batches, {path.name: path for path in arguments.tuned}
    rows = []
    for run in arguments.runs:
        agent = load_agent(run, device="cpu")
        assert isinstance(agent, DecisionTransformerAgent), f"{run} is not a dt"
        settings = json.loads((run / "training.json").read_text())["training"]
        steps = settings["steps"]
        cost = cost_of(DecisionTransformerAgent, agent.config, TrainingConfig(steps=steps))
        windows = steps * settings["batch_size"]
        heldout, weighting = settings["heldout_fraction"], settings["return_weighting"]
        home = action_losses(agent, arguments.replay, heldout, weighting, batches)
        # All play alike of what the fine-tuning does not learn from, before and after it.
        before = action_losses(agent, arguments.unseen, TUNED_HELDOUT, 0.0, batches)
        after = None
        if tuned:
            tuned_agent = load_agent(tuned[run.name], device="cpu")
            assert isinstance(tuned_agent, DecisionTransformerAgent), f"{run} is not a dt"
            after = action_losses(tuned_agent, arguments.unseen, TUNED_HELDOUT, 0.0, batches)
        rows.append((run, cost.parameters, cost.flop * windows, home, before, after))
    rows.sort(key=lambda row: row[1])
    runs, parameters, flop, homes, befores, afters = zip(*rows, strict=True)
    sizes, compute, home = np.array(parameters, float), np.array(flop, float), np.array(homes)
    found = iqms(arguments.results, list(runs))
    scores = [found.get(run) for run in runs]
    games: dict[str, tuple[Losses, Losses | None]] = {}
    for number, path in enumerate(arguments.unseen):
        after = np.array(afters)[:, [number]] if tuned else None
        games[path.name] = np.array(befores)[:, [number]], after

    columns: dict[str, list[str]] = {
        "parameters": [f"{size / 1e6:.2f}M" for size in sizes],
        "TFLOP": [f"{value / 1e12:.0f}" for value in compute],
        "held-out episodes": with_interval(home),
    }
    for name, (before, after) in games.items():
        columns[f"{name}, never seen"] = with_interval(before)
        if after is not None:
            columns[f"{name}, fine-tuned"] = with_interval(after)
    if found:
        columns["IQM"] = [
            f"{it.value:.2f} [{it.interval[0]:.2f}, {it.interval[1]:.2f}]"
            if it and it.interval
            else ""
            for it in scores
        ]
    print(markdown_table(list(columns), list(zip(*columns.values(), strict=True))))
    means, draws = home.mean((1, 2)), drawn_anew(home)
    law, laws = fitted(sizes, means), np.array([fitted(sizes, losses) for losses in draws])
    for name, value, values in zip(("E", "A", "alpha"), law, laws.T, strict=True):
        print(f"{name} {value:.3f} {interval(values)}")
    expected = predicted(fitted(sizes[:-1], means[:-1]), sizes[-1])
    print(
        f"The largest, predicted from the others: {expected:.3f}; measured: {means[-1]:.3f}, "
        f"{means[-1] - expected:+.3f}"
    )
    draw(arguments.output, sizes, compute, home, games, scores)


if __name__ == "__main__":
    main()

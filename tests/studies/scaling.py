"""How the loss falls with the size of `dt`, at home and in games never seen: docs/scaling.png.

`python -m tests.studies.scaling RUN... --replay replay/* --unseen replay/BeamRider` measures the
cross-entropy of actions of each run's agent on the same windows: of the episodes that the training
held out, and of games that it never saw, good episodes as often as in training. It fits E + A /
N^alpha to those of the training's games, N being the parameters, and says how far the largest run
is from what the smaller ones predict. Intervals are of windows drawn anew, not of training runs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import least_squares

from mgdt_agents import load_agent
from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.replay import ReplayStore, WindowSampler

BATCH_SIZE = 64
DRAWS = 1000  # of the bootstrap

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


def main() -> None:
    """Measure, print the tables, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of mgdt-train --agent dt")
    parser.add_argument("--replay", nargs="+", type=Path, required=True)
    parser.add_argument("--unseen", nargs="*", type=Path, default=[], help="stores of other games")
    parser.add_argument("--batches", type=int, default=16, help="of 64 windows, of each game")
    parser.add_argument("--output", type=Path, default=Path("docs/scaling.png"))
    arguments = parser.parse_args()
    parameters, at_home, away = [], [], []
    for run in arguments.runs:
        agent = load_agent(run, device="cpu")
        assert isinstance(agent, DecisionTransformerAgent), f"{run} is not a dt"
        settings = json.loads((run / "training.json").read_text())["training"]
        heldout, weighting = settings["heldout_fraction"], settings["return_weighting"]
        parameters.append(sum(p.numel() for p in agent.model.parameters()))
        batches = arguments.batches
        at_home.append(action_losses(agent, arguments.replay, heldout, weighting, batches))
        away.append(action_losses(agent, arguments.unseen, 0.0, weighting, batches))
    order = np.argsort(parameters)
    sizes = np.array(parameters, float)[order]
    home, unseen = np.array(at_home)[order], np.array(away)[order]
    means, draws = home.mean((1, 2)), drawn_anew(home)

    print(
        "| parameters | held-out episodes | " + " | ".join(p.name for p in arguments.unseen) + " |"
    )
    print("|---" * (2 + len(arguments.unseen)) + "|")
    for number, size in enumerate(sizes):
        cells = [f"{size / 1e6:.2f}M", f"{means[number]:.3f} {interval(draws[:, number])}"]
        for game in range(len(arguments.unseen)):
            alone = drawn_anew(unseen[:, [game]])[:, number]
            cells.append(f"{unseen[number, game].mean():.3f} {interval(alone)}")
        print(f"| {' | '.join(cells)} |")
    law = fitted(sizes, means)
    laws = np.array([fitted(sizes, losses) for losses in draws])
    for name, value, values in zip(("E", "A", "alpha"), law, laws.T, strict=True):
        print(f"{name} {value:.3f} {interval(values)}")
    expected = predicted(fitted(sizes[:-1], means[:-1]), sizes[-1])
    print(
        f"The largest, predicted from the others: {expected:.3f}; measured: {means[-1]:.3f}, "
        f"{means[-1] - expected:+.3f}"
    )

    figure = Figure(figsize=(9, 4), dpi=90, layout="constrained")
    axes, *beside = figure.subplots(1, 2 if arguments.unseen else 1, squeeze=False)[0]
    line = np.geomspace(sizes[0], sizes[-1], 50)
    axes.plot(line, [predicted(law, size) for size in line], color="gray", label="E + A / N^alpha")
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    axes.errorbar(sizes, means, [means - low, high - means], fmt="o", label="held-out episodes")
    for game, path in enumerate(arguments.unseen):
        beside[0].plot(sizes, unseen[:, game].mean(-1), "s--", label=f"{path.name}, never seen")
    for panel in (axes, *beside):
        panel.set(xscale="log", xlabel="parameters", ylabel="cross-entropy of actions (nats)")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend()
    figure.savefig(arguments.output, metadata={"Software": None})


if __name__ == "__main__":
    main()

"""Curves of trainings beside each other: `mgdt-train curves RUN...`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.table import Table

from mgdt_agents.evaluation.figures import legend_label
from mgdt_agents.number_text import number_text
from mgdt_agents.training.metrics import LOG, Curve, read_curves
from mgdt_cli.arguments import Names, training_runs
from mgdt_cli.console import check_plot, draw_panels, print_table, say
from mgdt_envs.aggregates import interval_over_runs
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

DEFAULT_FIGURES = ("loss", "heldout_loss")
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvesArguments:
    """Draw what trainings logged, beside each other.

    Examples:
        mgdt-train curves runs/dt-small runs/bc-small
        mgdt-train curves runs/* --figures heldout_loss,score/Pong --plot curves.png
        mgdt-train curves runs/dt-{seed} runs/bc-{seed} --seeds 0,1,2
    """

    runs: tyro.conf.Positional[Names]
    """Folders of trainings."""
    seeds: Names = ()
    """Training runs of one agent, which are one line: {seed} in its path becomes each. The line is
    their mean, with its 95 % bootstrap interval over the runs."""
    figures: Names = DEFAULT_FIGURES
    """Figures of the log; those that no run has are left out of the default."""
    plot: Path | None = None
    """Picture to draw, too, such as curves.png (pip install 'mgdt[plot]')."""


class MeanCurve(NamedTuple):
    """A figure of one training run or several."""

    steps: list[int]
    means: list[float]
    lows: list[float]
    """Lower ends of the intervals over runs; NaN for one run."""
    highs: list[float]
    """Upper ends."""


def draw_curves(arguments: CurvesArguments) -> None:
    """Print the curves, and draw them where a picture is asked for.

    Raises:
        ValueError: if there is no such run or figure, or a run has one that is no number.
    """
    if not arguments.runs:
        raise InvalidArgument("Expected at least one folder of a training, got none.")
    if arguments.plot:
        check_plot(arguments.plot)
    paths = training_runs(arguments.runs, arguments.seeds)
    for log in (Path(path) / LOG for runs in paths.values() for path in runs):
        if not log.exists():
            raise InvalidArgument(f"Expected the folder of a training, and {log} is missing.")
    runs = {
        name: mean_curves([finite_curves(path) for path in its_runs])
        for name, its_runs in paths.items()
    }
    known = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    figures = [name for name in arguments.figures if name in known]
    if arguments.figures != DEFAULT_FIGURES:
        for name in arguments.figures:
            if name not in known:
                raise InvalidArgument(f"No run logged {name!r}. {did_you_mean(name, known)}")
    if not figures:
        raise InvalidArgument(
            f"No run has logged {' or '.join(arguments.figures)} yet, but "
            f"{', '.join(known) or 'nothing at all'}: choose --figures."
        )
    for figure in figures:
        print_figure(
            figure, {run: curves[figure] for run, curves in runs.items() if figure in curves}
        )
    if arguments.plot:
        plot_figures(figures, runs, arguments.plot)
        say(f"Drew {arguments.plot}.")


def finite_curves(path: str) -> dict[str, Curve]:
    """Return each figure's curve in the log of the run `path`.

    Raises:
        ValueError: naming a figure that is no number, as of a run that diverged.
    """
    curves = read_curves(Path(path))
    for name, (steps, values) in curves.items():
        for step, value in zip(steps, values, strict=True):
            if not math.isfinite(value):
                raise InvalidArgument(
                    f"{path} logged {name} {value} at step {step:,}, which has no place on a "
                    "curve. Leave that run out."
                )
    return curves


def mean_curves(runs: Sequence[dict[str, Curve]]) -> dict[str, MeanCurve]:
    """Return the mean of the runs' curves by figure, at the steps that all of them logged."""
    curves = {}
    for name in runs[0]:
        by_step = [
            dict(zip(*curves_of_run.get(name, ((), ())), strict=True)) for curves_of_run in runs
        ]
        steps = [step for step in by_step[0] if all(step in values for values in by_step)]
        if steps:
            values = np.array([[values[step] for step in steps] for values in by_step])
            ends = interval_over_runs(lambda samples: samples.mean(-2), values)
            curves[name] = MeanCurve(steps, values.mean(0).tolist(), *ends.tolist())
    return curves


def print_figure(name: str, curves: dict[str, MeanCurve]) -> None:
    """Print a table with a line for each run, all on one scale."""
    low = min(min(curve.means) for curve in curves.values())
    high = max(max(curve.means) for curve in curves.values())
    title = f"{name}: {_text(low)} to {_text(high)}"
    table = Table(title=title, box=None, title_justify="left")
    for column in ("Run", "Curve"):
        table.add_column(column, overflow="fold")
    for column in ("Steps", "First", "Last", "Least", "Most"):
        table.add_column(column, justify="right")
    for run, (steps, means, lows, highs) in curves.items():
        interval = f" [{_text(lows[-1])}, {_text(highs[-1])}]" * math.isfinite(lows[-1])
        first, last, least, most = map(_text, (means[0], means[-1], min(means), max(means)))
        bars = sparkline(means, low, high)
        table.add_row(run, bars, f"{steps[-1]:,}", first, last + interval, least, most)
    print_table(table)


def _text(value: float) -> str:
    return number_text(value, "{:.4g}")


def sparkline(values: Sequence[float], low: float, high: float, width: int = 24) -> str:
    """Return a line of bars, each the mean of its share of the values."""
    bars = ""
    count = min(width, len(values))
    for place in range(count):
        piece = values[place * len(values) // count : (place + 1) * len(values) // count]
        mean = math.fsum(piece) / len(piece)
        share = (mean - low) / (high - low) if high > low else 0.5
        bars += BARS[min(len(BARS) - 1, int(share * len(BARS)))]
    return bars


def plot_figures(figures: Sequence[str], runs: dict[str, dict[str, MeanCurve]], path: Path) -> None:
    """Draw a panel for each figure, with a line for each run."""

    def draw(axes: Any, name: str) -> None:
        axes.set(xlabel="gradient steps", ylabel=name)
        for run, curves in runs.items():
            if name in curves:
                steps, means, lows, highs = curves[name]
                (line,) = axes.plot(steps, means, label=legend_label(run))
                axes.fill_between(
                    steps, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0
                )

    draw_panels(path, figures, draw)

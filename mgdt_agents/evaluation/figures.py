"""Pictures of results, drawn once, as SVG for the page and as PNG for papers."""

import io
import math
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from mgdt_agents.evaluation.report import headline_name
from mgdt_agents.evaluation.results import Results, run_means
from mgdt_envs.aggregates import performance_profile, probability_of_improvement
from mgdt_envs.errors import importing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mgdt_agents.training.metrics import Curve

# Okabe and Ito's colors, told apart by people who see few of them (jfly.uni-koeln.de/color).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A08000")
MARKERS = "osD^vPX*"
INK = "#123456"
"""Of text and axes; the page replaces it by the color of its text, light or dark."""
NAME_WIDTH = 30
"""Characters of an agent's name on a line; paths and settings have more."""
LEAST_SHOWN = 0.01
"""Human-normalized scores below are drawn here, for a logarithm has no zero."""


def draw(results: Results, protocol: str = "default") -> dict[str, "Figure"]:
    """Return the figures of the results by name; fewer where no game has a reference score.

    Args:
        results: with one agent or more.
        protocol: a key of `results.protocols`.

    Raises:
        MissingExtra: if matplotlib is not installed.
    """
    normalized = {
        agent: scores
        for agent in results.agents
        if (scores := results.human_normalized(agent, protocol))
    }
    if not normalized:
        return {}
    with _style():
        figures = {
            "leaderboard": _leaderboard(results, protocol, list(normalized)),
            "games": _games(normalized),
            "profile": _profile(normalized),
        }
        if len(normalized) > 1:
            figures["improvement"] = _improvement(normalized)
    return figures


def draw_curves(curves: Mapping[str, Mapping[str, "Curve"]]) -> dict[str, "Figure"]:
    """Return the learning curves of training runs, beside each other, by the name of the loss.

    Args:
        curves: of each run, its figures' curves.
    """
    losses = sorted({name for run in curves.values() for name in run if name.endswith("loss")})
    with _style():
        return {loss: _curve(loss, curves) for loss in losses}


def as_svg(figure: "Figure") -> str:
    """Return a figure as an `<svg>` element that takes its text color from the page."""
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK.lower(), "currentColor")


def legend_label(name: str) -> str:
    """Return a label that a legend shows: matplotlib leaves out those that begin with "_"."""
    return f" {name}" if name.startswith("_") else name


def _wrapped(names: Iterable[str]) -> tuple[list[str], int, int]:
    """Return names in lines, how many characters the longest has, and the most lines of a name."""
    wrapped = [textwrap.fill(name, NAME_WIDTH) for name in names]
    lines = [name.split("\n") for name in wrapped]
    return wrapped, max(len(line) for name in lines for line in name), max(map(len, lines))


def _curve(loss: str, curves: Mapping[str, Mapping[str, "Curve"]]) -> "Figure":
    figure, axes = _new(7, 3)
    labels, *_ = _wrapped(curves)
    for number, run in enumerate(curves.values()):
        if loss in run:
            label = legend_label(labels[number])
            axes.plot(*run[loss], color=_color(number), label=label)
    axes.set_xlabel("gradient steps")
    axes.set_ylabel(loss.replace("_", " "))
    axes.legend()
    return figure


def _leaderboard(results: Results, protocol: str, agents: list[str]) -> "Figure":
    labels, _, lines = _wrapped(agents)
    figure, axes = _new(7, 0.9 + max(0.4, 0.2 * lines) * len(agents))
    main = results.headline()
    for row, agent in enumerate(agents):
        aggregate = results.aggregates[agent, protocol][main]
        low, high = aggregate.interval or (aggregate.value, aggregate.value)
        axes.plot([low, high], [row, row], color=_color(row), linewidth=6, alpha=0.35)
        axes.plot(aggregate.value, row, MARKERS[row % len(MARKERS)], color=_color(row))
    axes.set_yticks(range(len(agents)), labels)
    axes.set_ylim(len(agents) - 0.5, -0.5)
    axes.set_xlabel(f"human-normalized {headline_name(results)}, and its 95 % interval")
    _scale_by_humans(axes)
    return figure


def _games(normalized: Mapping[str, Mapping[str, np.ndarray]]) -> "Figure":
    """Draw every agent's mean in every game, the best games first, on a logarithmic axis."""
    from matplotlib.ticker import NullFormatter

    means = {
        agent: {game: float(scores.mean()) for game, scores in games.items()}
        for agent, games in normalized.items()
    }
    names = list(next(iter(means.values())))
    best = {name: max(games[name] for games in means.values()) for name in names}
    names.sort(key=lambda name: -best[name])
    labels, longest, lines = _wrapped(means)
    # Inches of a legend's column: its color and spaces, and the characters.
    columns = max(1, min(5, len(means), int(7 / (0.67 + 0.09 * longest))))
    legend = 0.2 * lines * math.ceil(len(means) / columns)
    figure, axes = _new(7, 0.8 + legend + len(names) * (0.12 + 0.13 * len(means)))
    height = 0.8 / len(means)
    for number, games in enumerate(means.values()):
        rows = np.arange(len(names)) + (number - (len(means) - 1) / 2) * height
        values = np.maximum([games[name] for name in names], LEAST_SHOWN)
        style = {"color": _color(number), "label": legend_label(labels[number])}
        axes.barh(rows, values - LEAST_SHOWN, height, LEAST_SHOWN, **style)
    axes.set_xscale("log")
    axes.set_xlim(LEAST_SHOWN, max(1.2, 1.1 * max(best.values())))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"human-normalized score; {LEAST_SHOWN:.0%} and less at the left")
    _scale_by_humans(axes)
    # Above the bars, which leave no corner free, and outside the axes, which it would squeeze.
    figure.legend(loc="outside upper left", ncols=columns)
    return figure


def _profile(normalized: Mapping[str, Mapping[str, np.ndarray]]) -> "Figure":
    figure, axes = _new(7, 3.2)
    scores = {agent: run_means(games) for agent, games in normalized.items()}
    # A few very high scores would leave no room for the others.
    highest = max(1.5, max(float(np.quantile(values, 0.9)) for values in scores.values()))
    thresholds = np.linspace(0, highest, 200)
    labels, *_ = _wrapped(scores)
    for number, values in enumerate(scores.values()):
        profile = performance_profile(values, thresholds)
        style = {"color": _color(number), "label": legend_label(labels[number])}
        axes.step(thresholds, profile, where="post", **style)
    axes.set_xlabel("human-normalized score")
    axes.set_ylabel("share of games above it")
    axes.set_ylim(0, 1.02)
    _scale_by_humans(axes)
    axes.legend()
    return figure


def _improvement(normalized: Mapping[str, Mapping[str, np.ndarray]]) -> "Figure":
    """Draw how probably an episode of one agent scores more than one of another."""
    agents = list(normalized)
    labels, longest, lines = _wrapped(agents)
    upright = longest > 12  # characters, which would run into the next column's
    height = 1.4 + max(0.6, 0.2 * lines) * len(agents) + 0.08 * longest * upright
    figure, axes = _new(3 + 0.9 * len(agents), height)
    table = np.full((len(agents), len(agents)), np.nan)
    for row, x in enumerate(agents):
        for column, y in enumerate(agents):
            if row != column:
                table[row, column] = _improvement_of(normalized[x], normalized[y])
                axes.text(column, row, f"{table[row, column]:.0%}", ha="center", va="center")
    axes.imshow(table, cmap="RdBu", vmin=-0.2, vmax=1.2, aspect="auto", alpha=0.4)
    axes.set_xticks(range(len(agents)), labels, rotation=90 * upright)
    axes.set_yticks(range(len(agents)), labels)
    axes.set_xlabel("than")
    axes.set_ylabel("better")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _improvement_of(x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray]) -> float:
    """Return the probability over episodes, in the mean over the games that both have."""
    shared = [game for game in x if game in y]
    return float(
        np.mean(
            [
                probability_of_improvement(x[game].reshape(-1, 1), y[game].reshape(-1, 1))
                for game in shared
            ]
        )
    )


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _scale_by_humans(axes: Any) -> None:
    """Write the horizontal axis in percent, and mark a person's score."""
    from matplotlib.ticker import PercentFormatter

    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")


def _new(width: float, height: float) -> tuple["Figure", Any]:
    """Return an empty figure of a size in inches, without pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure((width, height))
    return figure, figure.subplots()


def _style() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and written."""
    with importing("Figures need matplotlib", "report"):
        from matplotlib import rc_context
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # names are no formulas
        "svg.hashsalt": "mgdt",  # the same picture twice is the same file
        "figure.constrained_layout.use": True,
    }
    for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"):
        style[name] = INK
    for name in ("axes.spines.top", "axes.spines.right", "legend.frameon"):
        style[name] = False
    return rc_context(style)

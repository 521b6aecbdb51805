"""Results as a table for people and as tab-separated lines for programs."""

from typing import Any

from rich.table import Table

from mgdt_envs import AtariProtocol, game

# Beside the IQM; they go without intervals, which are in the results.
FURTHER_AGGREGATES = ("mean", "median", "optimality_gap")


def results_table(results: dict[str, Any]) -> Table:
    """Return a table of every game and agent, with the agents' aggregates over games below.

    Args:
        results: what `run_benchmark` returned.
    """
    agents = results["agents"]
    table = Table(
        title=f"{results['episodes']} episodes a game, mean score [95 % interval over episodes]",
        caption=protocol_sheet(results),
        caption_justify="left",
    )
    table.add_column("game", no_wrap=True)
    table.add_column("agent")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("human-normalised", justify="right")
    table.add_column("random / human", justify="right")
    for name in next(iter(agents.values()))["games"]:
        entry = game(name)
        for row, (agent, scores) in enumerate(agents.items()):
            summary = scores["games"][name]
            references = f"{entry.random:,g} / {entry.human:,g}"
            table.add_row(
                name if row == 0 else "",
                agent,
                _with_interval(summary["mean"], summary["interval"], "{:,.1f}"),
                _percent(summary["human_normalised"]),
                references if row == 0 and entry.has_human_reference else "",
                end_section=row == len(agents) - 1,
            )
    for row, (agent, scores) in enumerate(agents.items()):
        if scores["iqm"]:
            table.add_row(
                f"IQM of {scores['iqm']['games']} games" if row == 0 else "",
                agent,
                "",
                _with_interval(scores["iqm"]["value"], scores["iqm"]["interval"], "{:.1%}"),
                "",
                end_section=row == len(agents) - 1,
            )
    for row, (agent, scores) in enumerate(agents.items()):
        if scores["iqm"]:
            figures = [f"{scores[name]['value']:.1%}" for name in FURTHER_AGGREGATES]
            table.add_row("mean, median, gap" if row == 0 else "", agent, "", ", ".join(figures))
    return table


def results_lines(results: dict[str, Any]) -> list[str]:
    """Return a header and a line for each agent and game, tab-separated.

    Args:
        results: what `run_benchmark` returned.
    """
    lines = ["\t".join(("agent", "game", "mean", "low", "high", "human_normalised", "episodes"))]
    for agent, scores in results["agents"].items():
        rows = [
            (name, summary["mean"], summary["interval"], summary["human_normalised"])
            for name, summary in scores["games"].items()
        ]
        if iqm := scores["iqm"]:
            rows.append(("IQM", iqm["value"], iqm["interval"], iqm["value"]))
        for name, mean, interval, normalised in rows:
            figures = [mean, *(interval or [None, None]), normalised]
            cells = ["" if figure is None else f"{figure:.6g}" for figure in figures]
            lines.append("\t".join((agent, name, *cells, str(results["episodes"]))))
    return lines


def protocol_sheet(results: dict[str, Any]) -> str:
    """Return under which rules and with which versions the results were made."""
    versions = results["versions"]
    games = next(iter(results["agents"].values()))["games"]
    left_out = [name for name, summary in games.items() if summary["human_normalised"] is None]
    if len(left_out) == len(games):
        left_out = ["any game"]
    return " · ".join(
        [
            f"mgdt {versions['mgdt']}",
            f"ale-py {versions['ale-py']}",
            AtariProtocol.from_dict(results["protocol"]).sheet(),
            "likeliest actions" if results["deterministic"] else "sampled actions",
            f"seeds from {results['seed']}",
            "one training run an agent",
            "references: dqn_zoo",
            *([f"not human-normalised: {', '.join(left_out)}"] if left_out else []),
        ]
    )


def _with_interval(value: float, interval: list[float] | None, form: str) -> str:
    if interval is None:
        return form.format(value)
    low, high = map(form.format, interval)
    return f"{form.format(value)} [{low}, {high}]"


def _percent(value: float | None) -> str:
    return "no reference" if value is None else f"{value:.1%}"

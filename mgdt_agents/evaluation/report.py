"""Results as a table for people, as tab-separated lines for programs, and as Markdown."""

import numpy as np
from rich.box import HORIZONTALS
from rich.table import Table

from mgdt_agents.evaluation.published_scores import PublishedAgent
from mgdt_agents.evaluation.results import (
    FEWEST_SCORES_OF_IQM,
    AgentInfo,
    Aggregate,
    Interval,
    Results,
    Summary,
)
from mgdt_agents.markdown import markdown_table
from mgdt_agents.number_text import number_text
from mgdt_agents.random_agent import RandomAgent
from mgdt_envs import game
from mgdt_envs.aggregates import AGGREGATES
from mgdt_envs.scoring import HUMAN_MAX_FRAMES, human_normalized_score, human_normalized_scores

# Beside the main figure; they go without intervals, which are in the results.
FURTHER_AGGREGATES = {"mean": "mean", "median": "median", "optimality_gap": "gap"}
LINE_COLUMNS = ("agent", "protocol", "game", "mean", "low", "high", "human_normalized", "episodes")
PUBLISHED_MARK = "†"
"""Beside agents whose scores others have published."""
LONGEST_NAME = 16
"""Characters of an agent's name that a narrow table leaves in one line."""
CUT_MARK = "*"
"""Beside human-normalized scores of games that may have been cut before the human's were."""


def counted(number: int, noun: str) -> str:
    """Return "1 episode" or "2 episodes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def headline_name(results: Results) -> str:
    """Return what the main figure is called: "IQM", or "mean" of too few scores for that."""
    return {"iqm": "IQM", "mean": "mean"}[results.headline()]


def results_table(results: Results, *, narrow: bool = False) -> Table:
    """Return a table of every game and agent, with the agents' aggregates over games below.

    Args:
        results: what is shown.
        narrow: leave out the reference scores, and break what is long into lines.
    """
    several = len(results.protocols) > 1
    per_game = f"{counted(len(results.seeds), 'episode')} a game"
    table = Table(
        title=f"{per_game}, mean score [95 % interval over {intervals_over(results)}]",
        caption=protocol_sheet(results),
        caption_justify="left",
    )
    if narrow:
        table.box, table.show_edge, table.pad_edge, table.padding = HORIZONTALS, False, False, 0
        # Only figures share the room that is left.
        width = max(len("parameters /"), *map(len, results.games))
        table.add_column("game", width=width, overflow="fold")
        names = [*results.agents, *map(marked_name, results.published)]
        width = min(max(map(len, names)), LONGEST_NAME)
        table.add_column("agent", width=width, overflow="fold")
    else:
        table.add_column("game", no_wrap=True)
        table.add_column("agent")
    for protocol in results.protocols:
        under = f", {protocol}" if several else ""
        human = "human-\nnormalized" if narrow else "human-normalized"
        name = f"{human}{under}{cut_mark(results, protocol)}"
        table.add_column(f"score{under}", justify="right", no_wrap=not narrow, overflow="fold")
        table.add_column(name, justify="right", overflow="fold")
    if not narrow:
        table.add_column("random / human", justify="right")
    for name in results.games:
        entry = game(name)
        rows = [
            (agent, [results.summaries[agent, protocol, name] for protocol in results.protocols])
            for agent in results.agents
        ]
        # In the first columns of scores.
        rows += [
            (marked_name(agent), [published_summary(agent, name)])
            for agent in published_in(results, name)
        ]
        for row, (agent, summaries) in enumerate(rows):
            cells = [cell for summary in summaries for cell in _score_cells(summary)]
            if row == 0 and entry.has_human_reference and not narrow:
                cells.append(f"{entry.random:,g} / {entry.human:,g}")
            label = name if row == 0 else ""
            table.add_row(label, agent, *cells, end_section=row == len(rows) - 1)
    _add_aggregates(table, results)
    _add_medians(table, results)
    _add_costs(table, results)
    return table


def published_in(results: Results, name: str) -> list[PublishedAgent]:
    """Return the published agents that have a score in a game."""
    return [agent for agent in results.published if name in agent.scores]


def marked_name(agent: PublishedAgent) -> str:
    """Return the name of a published agent as tables have it."""
    return f"{agent.name} {PUBLISHED_MARK}"


def published_summary(agent: PublishedAgent, name: str) -> Summary:
    """Return a published agent's score in a game, as `Results.summaries` has those of others."""
    score, normalized = agent.scores[name], None
    if game(name).has_human_reference:
        normalized = float(human_normalized_score(name, score))
    return Summary(mean=score, interval=None, human_normalized=normalized)


def published_aggregates(results: Results, agent: PublishedAgent) -> dict[str, Aggregate]:
    """Return a published agent's figures over games, as `Results.aggregates` has those of others.

    They are over those of the games that it has scores of.
    """
    scores = {name: agent.scores[name] for name in results.games if name in agent.scores}
    normalized = np.array([list(human_normalized_scores(scores).scores.values())])
    count = normalized.size
    return {
        name: Aggregate(value=float(metric(normalized)), interval=None, games=count, scores=count)
        for name, metric in AGGREGATES.items()
        if count >= (FEWEST_SCORES_OF_IQM if name == "iqm" else 1)
    }


def _add_medians(table: Table, results: Results) -> None:
    """Add a row of the estimate of the Atari-57 median for each agent that has one."""
    for agent in results.agents:
        found = [results.atari57_medians.get((agent, name)) for name in results.protocols]
        cells = []
        for estimate in found:
            value = (
                ""
                if estimate is None
                else with_interval(estimate.value, estimate.interval, "{:.1%}")
            )
            cells += ["", value]
        if subsets := {estimate.subset for estimate in found if estimate is not None}:
            table.add_row(f"Atari-57 median by {', '.join(subsets)}", agent, *cells)


def costs(info: AgentInfo) -> dict[str, float | None]:
    """Return what an agent costs: of its network, its training and its play."""
    return {
        "parameters": info.parameters,
        "training windows": info.trained_windows,
        "decisions/s": info.decisions_per_second,
    }


def _add_costs(table: Table, results: Results) -> None:
    """Add a row of what each agent costs, where anything is known."""
    table.add_section()
    label = "parameters / windows / decisions/s"
    for agent, info in results.agents.items():
        values = costs(info).values()
        if any(value is not None for value in values):
            cells = ["-" if value is None else f"{value:,.0f}" for value in values]
            table.add_row(label, agent, " / ".join(cells))
            label = ""


def _add_aggregates(table: Table, results: Results) -> None:
    """Add the rows of the aggregates, which some agents may lack."""
    main = results.headline()
    further = {name: word for name, word in FURTHER_AGGREGATES.items() if name != main}
    agents = [
        agent
        for agent in results.agents
        if any(results.aggregates[agent, protocol] for protocol in results.protocols)
    ]
    for row, agent in enumerate(agents):
        cells = []
        for protocol in results.protocols:
            figure = results.aggregates[agent, protocol].get(main)
            cells += ["", "" if figure is None else _aggregate_cell(figure)]
        table.add_row(
            _over_games(results, agents[0]) if row == 0 else "",
            agent,
            *cells,
            end_section=row == len(agents) - 1,
        )
    for published in results.published:
        if figures := published_aggregates(results, published):
            name, word = ("iqm", "IQM") if "iqm" in figures else ("mean", "mean")
            label = f"{word} of {counted(figures[name].games, 'game')}"
            table.add_row(label, marked_name(published), "", _aggregate_cell(figures[name]))
    for row, agent in enumerate(agents):
        cells = []
        for protocol in results.protocols:
            figures = results.aggregates[agent, protocol]
            values = [_percent(figures[name].value) for name in further if figures]
            cells += ["", ", ".join(values)]
        table.add_row(", ".join(further.values()) if row == 0 else "", agent, *cells)


def _over_games(results: Results, agent: str) -> str:
    """Return such as "IQM of 41 games"."""
    games = max(
        figures[results.headline()].games
        for protocol in results.protocols
        if (figures := results.aggregates[agent, protocol])
    )
    return f"{headline_name(results)} of {counted(games, 'game')}"


def results_lines(results: Results) -> list[str]:
    """Return a header and a line for each agent, protocol and game, tab-separated."""
    lines = ["\t".join(LINE_COLUMNS)]
    for agent in results.agents:
        for protocol in results.protocols:
            rows = []
            for name in results.games:
                summary = results.summaries[agent, protocol, name]
                rows.append((name, summary.mean, summary.interval, summary.human_normalized))
            if figure := results.aggregates[agent, protocol].get(results.headline()):
                rows.append((headline_name(results), figure.value, figure.interval, figure.value))
            for name, score, interval, normalized in rows:
                figures = [score, *(interval or [None, None]), normalized]
                cells = ["" if value is None else number_text(value, "{:.6g}") for value in figures]
                episodes = str(len(results.seeds) * results.agents[agent].runs)
                lines.append("\t".join((agent, protocol, name, *cells, episodes)))
    return lines


def rows_by_game(results: Results, protocol: str) -> tuple[list[str], list[list[str]]]:
    """Return a header, and a row a game, with a column an agent, the human's last."""
    mark = cut_mark(results, protocol)
    rows = []
    for name in results.games:
        scores = [results.summaries[agent, protocol, name] for agent in results.agents]
        cells = [with_interval(score.mean, score.interval, "{:,.1f}") for score in scores]
        entry = game(name)
        rows.append([name, *cells, f"{entry.human:,g}" if entry.has_human_reference else ""])
    figures = [results.aggregates[agent, protocol] for agent in results.agents]
    if all(figures):
        cells = [_aggregate_cell(figure[results.headline()]) for figure in figures]
        rows.append([f"{headline_name(results)}, human-normalized{mark}", *cells, "100%"])
    return ["game", *results.agents, "human"], rows


def markdown_by_game(results: Results, protocol: str = "default") -> str:
    """Return `rows_by_game` as a Markdown table."""
    return markdown_table(*rows_by_game(results, protocol))


def latex_by_game(results: Results, protocol: str = "default") -> str:
    """Return `rows_by_game` as a LaTeX table, which needs the package booktabs."""
    header, rows = rows_by_game(results, protocol)
    lines = [
        f"% {protocol_sheet(results)}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, rf"\{c}" if c in "&%$#_{}" else c) for c in text)


def markdown_of_agent(
    results: Results, agent: str, beside: str | None = None, protocol: str = "default"
) -> str:
    """Return a Markdown table with a row a game, of one agent and perhaps another beside it."""
    mark = cut_mark(results, protocol)
    names = [agent] if beside is None else [agent, beside]
    columns = ["score"] if beside is None else names
    header, rows = ["game", *columns, f"human-normalized{mark}"], []
    for name in results.games:
        summaries = [results.summaries[agent, protocol, name] for agent in names]
        cells = [with_interval(entry.mean, entry.interval, "{:,.1f}") for entry in summaries]
        rows.append([name, *cells, _percent(summaries[0].human_normalized)])
    figures = [results.aggregates[agent, protocol].get(results.headline()) for agent in names]
    if figures[0] is not None:
        blank = [""] * len(names)
        rows.append([_over_games(results, agent), *blank, _aggregate_cell(figures[0])])
    return markdown_table(header, rows)


def protocol_sheet(results: Results) -> str:
    """Return under which rules and with which versions the results were made."""
    versions = results.versions
    parts = [f"mgdt {versions['mgdt']}", f"ale-py {versions['ale-py']}"]
    several = len(results.protocols) > 1
    for name, protocol in results.protocols.items():
        parts.append(f"{name}: {protocol.sheet()}" if several else protocol.sheet())
    parts += [
        "likeliest actions" if results.deterministic else "sampled actions",
        f"seeds {results.seeds.start} to {results.seeds.stop - 1}",
        *([f"given up after {results.max_steps:,} steps"] if results.max_steps else []),
        *([f"given up after {results.idle_steps:,} idle steps"] if results.idle_steps else []),
        *filter(None, [_training_runs(results)]),
        *_other_rules(results),
        "references: dqn_zoo",
    ]
    if any(cut_mark(results, name) for name in results.protocols):
        parts.append(f"{CUT_MARK} the references are of {HUMAN_MAX_FRAMES:,} frames")
    left_out = sorted({name for rules in results.protocols for name in results.left_out(rules)})
    if left_out:
        names = ["any game"] if len(left_out) == len(results.games) else left_out
        parts.append(f"not human-normalized: {', '.join(names)}")
    published: dict[str, list[str]] = {}  # agents by what is known of them
    for agent in results.published:
        text = "; ".join(filter(None, (agent.source, agent.protocol, agent.note)))
        published.setdefault(text, []).append(agent.name)
    parts += [
        f"{PUBLISHED_MARK} {', '.join(names)}: published, {text}"
        for text, names in published.items()
    ]
    return " · ".join(parts)


def _training_runs(results: Results) -> str:
    """Return how many trained networks of each agent played."""
    agents = results.agents.items()
    runs = {agent: info.runs for agent, info in agents if info.kind != RandomAgent.kind}
    if not runs:
        return ""
    if len(set(runs.values())) == 1:
        return f"{counted(next(iter(runs.values())), 'training run')} an agent"
    return "training runs: " + ", ".join(f"{agent} {number}" for agent, number in runs.items())


def _other_rules(results: Results) -> list[str]:
    """Return which agents were trained under other rules than those they played by."""
    parts = []
    for name, protocol in results.protocols.items():
        other = [
            agent
            for agent, info in results.agents.items()
            if info.trained_under is not None and info.trained_under != protocol
        ]
        if other:
            under = f" than {name}" if len(results.protocols) > 1 else ""
            parts.append(f"trained under other rules{under}: {', '.join(other)}")
    return parts


def intervals_over(results: Results) -> str:
    """Return what the intervals are over: "episodes", "training runs", or either."""
    several = {info.runs > 1 for info in results.agents.values()}
    if several == {True, False}:
        return "training runs, or over episodes of a single one"
    return "training runs" if several == {True} else "episodes"


def cut_mark(results: Results, protocol: str) -> str:
    """Return the mark of scores of games that may be cut before the human's, or nothing."""
    is_cut = results.protocols[protocol].max_frames < HUMAN_MAX_FRAMES
    return CUT_MARK if is_cut or results.max_steps or results.idle_steps else ""


def with_interval(value: float, interval: Interval | None, form: str) -> str:
    """Return such as "9.1 [6.6, 11.9]"."""
    text = number_text(value, form)
    if interval is None:
        return text
    low, high = (number_text(end, form) for end in interval)
    return f"{text} [{low}, {high}]"


def _score_cells(summary: Summary) -> list[str]:
    score = with_interval(summary.mean, summary.interval, "{:,.1f}")
    return [score, _percent(summary.human_normalized)]


def _aggregate_cell(figure: Aggregate) -> str:
    return with_interval(figure.value, figure.interval, "{:.1%}")


def _percent(value: float | None) -> str:
    return "no reference" if value is None else number_text(value, "{:.1%}")

"""Results for people: a page that needs nothing else, and tables and pictures for papers.

`write_report` makes of `Results`

    report.html     tables, figures, videos and rules in one file that asks nothing of the network
    results.csv     a line an episode
    table.md        a row a game, a column an agent
    table.tex       the same, for LaTeX with booktabs
    figures/*.png   the page's figures

Under several protocols the last three are of each: table-default.md, figures/games-default.png.
"""

import base64
import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgdt_agents.evaluation.figures import as_svg, draw, draw_curves
from mgdt_agents.evaluation.report import (
    CUT_MARK,
    PUBLISHED_MARK,
    costs,
    counted,
    cut_mark,
    headline_name,
    intervals_over,
    latex_by_game,
    markdown_by_game,
    marked_name,
    protocol_sheet,
    published_aggregates,
    published_in,
    published_summary,
    with_interval,
)
from mgdt_agents.evaluation.results import Episode, Results
from mgdt_agents.number_text import number_text
from mgdt_agents.replay import files
from mgdt_envs import PROTOCOLS, game
from mgdt_envs.errors import importing

if TYPE_CHECKING:
    from mgdt_agents.training.metrics import Curve

TEMPLATE = Path(__file__).parent / "report.html"
PNG_DOTS_PER_INCH = 150
FIGURE_LABELS = {
    "leaderboard": "Each agent's figure over games with its interval",
    "games": "Each agent's human-normalized score in each game",
    "profile": "Share of games above each human-normalized score, for each agent",
    "improvement": "Probability that an episode of one agent scores more than one of another",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that can be sorted."""

    text: str
    value: float | str
    """What it is sorted by."""


def write_report(
    results: Results,
    folder: Path,
    *,
    curves: Mapping[str, Mapping[str, "Curve"]] | None = None,
    videos: Mapping[tuple[str, str], Path] | None = None,
) -> Path:
    """Write the report into `folder`, and return the path of its page.

    Args:
        results: what is reported.
        folder: where to; what a former report wrote there is replaced, whatever its protocols.
        curves: of agents that were trained here, what `mgdt_agents.training.metrics.read_curves`
            returned.
        videos: short .mp4 files by agent and game, which become part of the page.

    Raises:
        MissingExtra: if jinja2 or matplotlib is not installed.
        ReplayError: naming a file that cannot be written.
    """
    with importing("The report needs jinja2", "report"):
        from jinja2 import Environment
    files.make_folder(folder)
    _remove_former(folder, results)
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, [field.name for field in fields(Episode)])
    writer.writeheader()
    writer.writerows(asdict(episode) for episode in results.episodes)
    files.replace(folder / "results.csv", rows.getvalue().encode())
    sections = [_leaderboard(results), _games(results)]
    sections += _drawn(results, folder)
    if curves:
        figures = draw_curves(curves)
        labels = {name: f"{name} of the runs against gradient steps" for name in figures}
        sections.append(
            {
                "id": "curves",
                "title": "Learning curves",
                "text": "Losses of the training runs, on what they were trained on.",
                "figures": _figures(figures, labels, folder),
            }
        )
    if videos:
        sections.append(_videos(videos))
    sections.append(_rules(results))
    names = {protocol: f"table-{protocol}" for protocol in results.protocols}
    if len(names) == 1:
        names = dict.fromkeys(names, "table")
    for protocol, name in names.items():
        table = markdown_by_game(results, protocol)
        text = f"{table}\n\n{protocol_sheet(results)}\n"
        files.replace(folder / f"{name}.md", text.encode())
        files.replace(folder / f"{name}.tex", latex_by_game(results, protocol).encode())
    page = (
        Environment(autoescape=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            title=f"{', '.join(results.agents)}: {counted(len(results.games), 'Atari game')}",
            subtitle=f"{counted(len(results.seeds), 'episode')} a game, 95 % intervals over "
            f"{intervals_over(results)}.",
            sections=sections,
        )
    )
    path = folder / "report.html"
    files.replace(path, page.encode())
    return path


def _remove_former(folder: Path, results: Results) -> None:
    """Remove the tables and figures of a former report, which may be of other protocols."""
    for protocol in ("", *PROTOCOLS, *results.protocols):
        suffix = f"-{protocol}" if protocol else ""
        for name in (f"table{suffix}.md", f"table{suffix}.tex"):
            (folder / name).unlink(missing_ok=True)
        for name in FIGURE_LABELS:
            (folder / "figures" / f"{name}{suffix}.png").unlink(missing_ok=True)


def _leaderboard(results: Results) -> dict[str, Any]:
    """Return the section of the figures over games, a row for each agent and protocol."""
    several = len(results.protocols) > 1
    main = results.headline()
    others = [name for name in ("mean", "median", "optimality_gap") if name != main]
    words = {"mean": "mean", "median": "median", "optimality_gap": "optimality gap"}
    mark = CUT_MARK if any(cut_mark(results, name) for name in results.protocols) else ""
    header = ["agent", *(["protocol"] if several else []), "games"]
    header += [f"{name}{mark}" for name in (headline_name(results), *map(words.get, others))]
    header += ["parameters", "training windows", "decisions/s", "training runs"]
    entries = [(*names, figures) for names, figures in results.aggregates.items()]
    entries += [
        (marked_name(agent), "published", figures)
        for agent in results.published
        if (figures := published_aggregates(results, agent))
    ]
    rows = []
    for agent, protocol, figures in entries:
        row = [Cell(agent, agent), *([Cell(protocol, protocol)] if several else [])]
        games = max((figure.games for figure in figures.values()), default=0)
        row.append(Cell(str(games), games))
        for name in (main, *others):
            if figure := figures.get(name):
                text = with_interval(figure.value, figure.interval, "{:.1%}")
                row.append(Cell(text, figure.value))
            else:  # or too few scores for an IQM
                row.append(Cell("" if figures else "no reference", ""))
        info = results.agents.get(agent)
        known = [*costs(info).values(), info.runs] if info else [None] * 4
        rows.append(row + [_number(value, "{:,.0f}") for value in known])
    text = "Human-normalized scores over games: 0 % is random play, 100 % a person's."
    if results.published:
        text += f" {PUBLISHED_MARK} published, not played here, and by rules of its own: see below."
    return {
        "id": "leaderboard",
        "title": "Leaderboard",
        "text": text,
        "table": {"header": header, "rows": rows, "left": 2 if several else 1},
    }


def _number(value: float | None, form: str) -> Cell:
    return Cell("", "") if value is None else Cell(number_text(value, form), value)


def _games(results: Results) -> dict[str, Any]:
    several = len(results.protocols) > 1
    entries = [(*names, summary) for names, summary in results.summaries.items()]
    entries += [
        (marked_name(agent), "published", name, published_summary(agent, name))
        for name in results.games
        for agent in published_in(results, name)
    ]
    rows = [
        [
            Cell(name, name),
            Cell(agent, agent),
            *([Cell(protocol, protocol)] if several else []),
            Cell(with_interval(summary.mean, summary.interval, "{:,.1f}"), summary.mean),
            _normalized(summary.human_normalized),
            *_references(name),
        ]
        for agent, protocol, name, summary in sorted(entries, key=lambda entry: entry[2])
    ]
    header = ["game", "agent", *(["protocol"] if several else []), "mean score"]
    mark = CUT_MARK if any(cut_mark(results, name) for name in results.protocols) else ""
    header += [f"human-normalized{mark}", "random", "human"]
    return {
        "id": "games",
        "title": "Games",
        "text": "Choose a heading to sort by it.",
        "table": {
            "header": header,
            "rows": rows,
            "left": 3 if several else 2,
            "filter": "Filter by game or agent",
        },
    }


def _normalized(value: float | None) -> Cell:
    return Cell("no reference", "") if value is None else _number(value, "{:.1%}")


def _references(name: str) -> list[Cell]:
    """Return the cells of what the random policy and a person score in a game."""
    entry = game(name)
    if not entry.has_human_reference:
        return [Cell("", "")] * 2
    return [_number(score, "{:,g}") for score in (entry.random, entry.human)]


def _drawn(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Return the sections of the figures, of each protocol, and write them as pictures."""
    texts = {
        "leaderboard": ("Over games", "The dotted line is a person's score."),
        "games": ("Game by game", "Best games first, on a logarithmic axis."),
        "profile": ("Performance profile", "How many games are played better than a score."),
        "improvement": (
            "Probability of improvement",
            "How probably an episode of the agent of the row scores more than one of the column's, "
            "in the mean over games; equal scores count half.",
        ),
    }
    sections: dict[str, dict[str, Any]] = {}
    for protocol in results.protocols:
        several = len(results.protocols) > 1
        figures = draw(results, protocol)
        labels = {
            name: FIGURE_LABELS[name] + (f", {protocol}" if several else "") for name in figures
        }
        suffix = f"-{protocol}" if several else ""
        for name, drawn in zip(figures, _figures(figures, labels, folder, suffix), strict=True):
            if several:
                drawn["caption"] = protocol
            title, text = texts[name]
            section = {"id": f"figure-{name}", "title": title, "text": text, "figures": []}
            sections.setdefault(name, section)["figures"].append(drawn)
    return list(sections.values())


def _figures(
    figures: Mapping[str, Any], labels: Mapping[str, str], folder: Path, suffix: str = ""
) -> list[dict[str, str]]:
    """Write figures as PNG, and return them as the page shows them."""
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=PNG_DOTS_PER_INCH, facecolor="white")
        files.replace(folder / "figures" / f"{name}{suffix}.png", picture.getvalue())
    return [{"label": labels[name], "svg": as_svg(figure)} for name, figure in figures.items()]


def _videos(videos: Mapping[tuple[str, str], Path]) -> dict[str, Any]:
    shown = [
        {
            "label": f"{agent}, {name}",
            "data": base64.b64encode(path.read_bytes()).decode(),
        }
        for (agent, name), path in videos.items()
    ]
    return {
        "id": "videos",
        "title": "Videos",
        "text": "The first seconds of the first episode.",
        "videos": shown,
        "filter": "Filter by game or agent",
    }


def _rules(results: Results) -> dict[str, Any]:
    facts = [("Rules", protocol_sheet(results)), *results.versions.items()]
    for name, info in results.agents.items():
        trained = ", ".join(info.trained_on) or "no games"
        facts.append((f"{name} ({info.kind})", f"trained on {trained}"))
    for agent in results.published:
        notes = "; ".join(filter(None, (agent.source, agent.protocol, agent.note)))
        facts.append((f"{marked_name(agent)} (published)", notes))
    for protocol in results.protocols:
        for name, reason in results.left_out(protocol).items():
            facts.append((f"{name} is not normalized", reason))
    return {
        "id": "protocol",
        "title": "Protocol",
        "text": "Under which rules the scores were made, and with which versions.",
        "facts": facts,
    }

"""What `mgdt-bench` does with results that are there: `compare`, `verify`, `import-scores`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from mgdt_agents.evaluation.compare import Comparison, compare
from mgdt_agents.evaluation.published_scores import load_published
from mgdt_agents.evaluation.report import counted, results_table, with_interval
from mgdt_agents.evaluation.results import Results
from mgdt_agents.evaluation.verify import verify
from mgdt_agents.number_text import number_text
from mgdt_agents.registry import path_of_agent
from mgdt_agents.replay.files import exclusive
from mgdt_agents.training.metrics import Curve, read_curves
from mgdt_cli.arguments import Names
from mgdt_cli.console import MAX_WIDTH, ProgressBar, print_table, say
from mgdt_envs.aggregates import FEWEST_EPISODES
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

TOO_FEW = (
    f"With fewer than {FEWEST_EPISODES} episodes a game, the intervals over episodes may be too "
    "narrow (docs/benchmark.md)."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareArguments:
    """Say which of two agents is better, and whether that is more than noise.

    An agent is a folder of results, with the agent's name after a colon where there are several.
    """

    a: Annotated[str, tyro.conf.Positional]
    """Such as results/mine, or results/mine:dt."""
    b: Annotated[str, tyro.conf.Positional]
    """Such as results/mine:bc."""
    protocol: str = ""
    """Which of several protocols; by default the first of A."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyArguments:
    """Play every episode of a folder of results again, without the agents, and check each score."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `mgdt-bench --trace` wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportScoresArguments:
    """Put published scores beside those of a folder of results, marked as published.

    Tables that come with the package: jowa15 (MGDT, MTBC, EDT, Scaled-QL and JOWA in 15 games) and
    atari57 (22 online agents in 57 games).
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """What mgdt-bench wrote."""
    table: Annotated[str, tyro.conf.Positional]
    """jowa15, atari57, or a JSON file of the same form."""
    agents: Names = ()
    """Those of the table to take; by default all."""


def import_scores(arguments: ImportScoresArguments) -> None:
    """Add published agents to the results of a folder, and print the table.

    Raises:
        ValueError: if the folder has no results, or the table no such agent.
    """
    agents = {agent.name: agent for agent in load_published(arguments.table)}
    if unknown := sorted(set(arguments.agents) - set(agents)):
        raise InvalidArgument(
            f"Unknown agent {unknown[0]!r} of {arguments.table}. {did_you_mean(unknown[0], agents)}"
        )
    chosen = {name: agents[name] for name in arguments.agents or agents}
    path = arguments.folder / "results.json"
    Results.load(path)  # before the lock, which would make a folder
    with exclusive(arguments.folder, inside=True):
        results = Results.load(path)
        kept = [agent for agent in results.published if agent.name not in chosen]
        results = dataclasses.replace(results, published=(*kept, *chosen.values()))
        table = fitting_table(results)  # before anything is saved that cannot be shown
        results.save(path)
        print_table(table)
        if (arguments.folder / "report.html").exists():
            _write_report_again(arguments.folder, results)


def fitting_table(results: Results) -> Table:
    """Return the table of results; the narrow one where the terminal has no room for the whole."""
    table = results_table(results)
    console = Console()
    wide = console.options.update(max_width=MAX_WIDTH)
    if console.is_terminal and Measurement.get(console, wide, table).maximum > console.width:
        table = results_table(results, narrow=True)
    return table


def _write_report_again(folder: Path, results: Results) -> None:
    """Write the report of results, with the videos that are there."""
    # Imported only when needed: matplotlib takes a second.
    from mgdt_agents.evaluation.page import write_report

    videos = {
        (agent, game): path
        for agent in results.agents
        for game in results.games
        if (path := folder / "videos" / video_name(results, agent, game)).exists()
    }
    report = write_report(results, folder, curves=curves_of(results), videos=videos)
    say(f"The report: {report}")


def curves_of(results: Results) -> dict[str, dict[str, Curve]]:
    """Return the training curves of those agents that are folders of runs, by name."""
    folders = {name: folder for name in results.agents if (folder := path_of_agent(name))}
    return {name: curves for name, run in folders.items() if (curves := read_curves(run))}


def video_name(results: Results, agent: str, game: str) -> str:
    """Return the name of the file of an agent's first episode, which no other agent's has."""
    weights = "".join(results.agents[agent].weights[:1])
    return f"{weights}-{game}-{results.seeds.start}.mp4"


def compare_results(arguments: CompareArguments) -> None:
    """Print a comparison.

    Raises:
        ValueError: if a folder has no results of one such agent, or the rules differ.
    """
    a, b = _one_agent(arguments.a), _one_agent(arguments.b)
    comparison = compare(a, b, arguments.protocol or next(iter(a.protocols)))
    if comparison.over != "training runs" and min(len(a.seeds), len(b.seeds)) < FEWEST_EPISODES:
        say(TOO_FEW)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(comparison), allow_nan=False))
    else:
        print_table(comparison_table(comparison))


def comparison_table(comparison: Comparison) -> Table:
    """Return a comparison as a table for people."""
    table = Table(title=f"95 % intervals over {comparison.over}")
    for column in ("", comparison.a, comparison.b, "difference", "better"):
        table.add_column(column)
    for rows, form in ((comparison.games, "{:,.1f}"), (comparison.overall, "{:.1%}")):
        for number, row in enumerate(rows):
            table.add_row(
                row.what,
                *("" if value is None else number_text(value, form) for value in (row.a, row.b)),
                with_interval(row.value, row.interval, form),
                row.better,
                end_section=number == len(rows) - 1,
            )
    return table


def verify_results(arguments: VerifyArguments) -> None:
    """Verify a folder, and say so.

    Raises:
        ValueError: naming the first thing that is not as the results say.
    """
    total = len(Results.load(arguments.folder / "results.json").episodes)
    with ProgressBar() as progress:
        task = progress.add_task("verify", total=total)
        results = verify(arguments.folder, lambda episode: progress.advance(task))
    episodes = counted(len(results.episodes), "episode")
    say(
        f"Verified: {episodes} of {', '.join(results.agents)}. What agents say of themselves, such "
        "as their kind, parameters and training, is not checked."
    )


def _one_agent(name: str) -> Results:
    """Return the results of one agent: a folder or file, and a name after a colon."""
    path, agent = name, ""
    while not Path(path).exists() and ":" in path:
        path, _, last = path.rpartition(":")
        agent = f"{last}:{agent}" if agent else last
    folder = Path(path or name)
    results = Results.load(folder / "results.json" if folder.is_dir() else folder)
    names = [agent] if agent else list(results.agents)
    if len(names) != 1 or names[0] not in results.agents:
        raise InvalidArgument(
            f"Expected one of the agents in {folder}, such as {folder}:{next(iter(results.agents))}"
            f"; got {name!r}, and there are {', '.join(results.agents)}."
        )
    return results.of(names[0])

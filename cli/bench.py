"""Play agents and print how well they play.

Examples:
    mgdt-bench --agents dt,cql,bc
    mgdt-bench --agents dt --games Pong --episodes 1
    mgdt-bench --agents runs/dt-small,random --games Pong,Breakout --output results/mine
"""

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from mgdt_agents import Agent, load_agent
from mgdt_agents.evaluation import BenchmarkConfig, Results, RolloutStep, play_episodes
from mgdt_agents.evaluation.benchmark import results_of
from mgdt_agents.evaluation.report import protocol_sheet, results_lines, results_table
from mgdt_cli.common import Games, Names, parse, progress_bar, run, say
from mgdt_envs import PROTOCOLS, resolve_games
from mgdt_envs.errors import InvalidArgument, MissingExtra, OutputExists
from mgdt_envs.seeds import BENCHMARK_SEED


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchArguments:
    """Play agents on games and report their scores.

    A terminal gets a table; a pipe gets tab-separated lines. Progress goes to stderr.
    """

    agents: Names
    """Bundled agents (dt, bc, cql), random, folders of agents, zips of stable-baselines3, or
    agents of the Hugging Face Hub (hf://user/name)."""
    games: Games = ()
    """Games or suites; by default those of the bundled agents."""
    episodes: int = 16
    """Whole episodes of each game, for each agent (Lee et al. 2022: 16)."""
    seed: int = BENCHMARK_SEED
    """Of the first episode of each game, and of the agents' draws."""
    protocol: Literal["default", "mgdt_release", "nature", "machado"] = "default"
    """Rules of play: those of DQN Replay, of the released evaluator, of DQN, or of all actions."""
    deterministic: bool = False
    """Take the likeliest action instead of drawing one."""
    output: Path | None = None
    """Folder for results.json; by default results/<date and time>."""
    overwrite: bool = False
    """Replace the results of an existing output folder."""
    report: bool = True
    """Write the report, too: a page, tables and figures (extra report)."""
    video_seconds: float = 5.0
    """Length of the report's video of each agent and game (extra video); 0 makes none."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""


def main() -> None:
    """Run the command."""
    run(lambda: bench(parse(BenchArguments, __doc__)))


def bench(arguments: BenchArguments) -> None:
    """Play, print and write the results.

    Raises:
        ValueError: for unknown agents or games, no agent or episode at all, or a folder that
            cannot be written to.
        FileExistsError: if the output folder exists and may not be overwritten.
    """
    if not arguments.agents:
        raise InvalidArgument("Expected at least one agent after --agents, such as dt,cql,bc.")
    if arguments.episodes < 1:
        raise InvalidArgument(f"Expected at least one episode, got {arguments.episodes}.")
    config = BenchmarkConfig(
        games=resolve_games(arguments.games or "bundled"),
        episodes=arguments.episodes,
        seed=arguments.seed,
        protocols={arguments.protocol: PROTOCOLS[arguments.protocol]},
        deterministic=arguments.deterministic,
    )
    agents = {name: load_agent(name, device=arguments.device) for name in arguments.agents}
    output = arguments.output or Path("results") / time.strftime("%Y-%m-%d-%H%M%S")
    episodes = []
    with (
        _new_file(output, "episodes.jsonl", arguments.overwrite).open("w") as file,
        progress_bar() as progress,
    ):
        total = config.episodes * len(config.games)
        tasks = {name: progress.add_task(name, total=total, note="") for name in agents}
        steps = dict.fromkeys(agents, 0)

        def show(name: str, step: RolloutStep) -> None:
            steps[name] += len(step.actions)
            ended = int((step.terminated | step.truncated).sum())
            progress.update(tasks[name], advance=ended, note=f"{steps[name]:,} steps")

        try:
            for episode in play_episodes(agents, config, show):
                episodes.append(episode)
                print(json.dumps(dataclasses.asdict(episode)), file=file, flush=True)
        except KeyboardInterrupt:
            say(f"{len(episodes)} episodes were played; they are kept in {file.name}.")
            raise
    results = results_of(agents, config, episodes)
    results.save(output / "results.json")
    if sys.stdout.isatty():
        # Names of agents are no markup, whatever brackets they have.
        Console(markup=False).print(results_table(results))
    else:
        print("\n".join(results_lines(results)))
        say(protocol_sheet(results))
    say(f"Every episode's score: {output / 'results.json'}")
    if arguments.report:
        write_report_of(agents, results, output, arguments.video_seconds)


def write_report_of(
    agents: dict[str, Agent], results: Results, output: Path, video_seconds: float
) -> None:
    """Write the report and say where it is; where an extra is missing, say what is left out."""
    # Imported only when needed: matplotlib takes a second.
    from mgdt_agents.evaluation.page import read_curves, write_report

    try:
        videos = record_videos(agents, results, output / "videos", video_seconds)
    except MissingExtra as error:
        videos = {}
        say(f"The report has no videos. {error}")
    curves = {name: lines for name in agents if (lines := read_curves(Path(name)))}
    try:
        say(f"The report: {write_report(results, output, curves=curves, videos=videos)}")
    except MissingExtra as error:
        say(f"There is no report. {error}")


def record_videos(
    agents: dict[str, Agent], results: Results, folder: Path, seconds: float
) -> dict[tuple[str, str], Path]:
    """Record the first seconds of each agent's first episode of each game."""
    from mgdt_agents.evaluation.videos import record_episode

    videos: dict[tuple[str, str], Path] = {}
    protocol = next(iter(results.protocols.values()))
    with progress_bar() as progress:
        steps = round(seconds * protocol.steps_per_second)
        task = progress.add_task("videos", total=steps * len(agents) * len(results.games))
        for number, (name, agent) in enumerate(agents.items()):
            for game in results.games if steps else ():
                path = folder / f"{number}-{game}.mp4"
                folder.mkdir(exist_ok=True)
                record_episode(
                    path,
                    agent,
                    game,
                    protocol=protocol,
                    seed=results.seeds.start,
                    seconds=seconds,
                    deterministic=results.deterministic,
                    on_step=lambda: progress.advance(task),
                )
                videos[name, game] = path
        progress.update(task, completed=progress.tasks[task].total)  # episodes may end before
    return videos


def _new_file(folder: Path, name: str, overwrite: bool) -> Path:
    """Make the output folder before anything is played, and return the path of a file in it.

    Raises:
        OutputExists: if the folder exists and may not be overwritten.
        InvalidArgument: if it cannot be written to.
    """
    if folder.exists() and not overwrite:
        raise OutputExists(f"{folder} exists; choose another --output or add --overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise InvalidArgument(
            f"Cannot write to {folder}: {error.strerror}. Choose another --output."
        ) from error
    return folder / name


if __name__ == "__main__":
    main()

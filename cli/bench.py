"""Play agents and print how well they play.

Examples:
    mgdt-bench --agents dt,cql,bc
    mgdt-bench --agents dt --games Pong --episodes 1
    mgdt-bench --agents runs/dt-small,random --games Pong,Breakout --output results/mine
    mgdt-bench --agents dt:kappa=0,dt:kappa=100,dt:rule=BestOfSamples
    mgdt-bench --agents runs/dt-{seed} --seeds 0,1,2 --games atari5 --workers 8 --trace
    mgdt-bench compare results/mine:dt results/mine:bc
    mgdt-bench verify results/mine
    mgdt-bench import-scores results/mine jowa15
"""

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdt_agents import Agent, load_agent
from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation import BenchmarkConfig, Results, play_episodes
from mgdt_agents.evaluation.benchmark import check_agents, results_of, with_speeds
from mgdt_agents.evaluation.episode_log import FILE as EPISODES
from mgdt_agents.evaluation.episode_log import EpisodeLog, fingerprint
from mgdt_agents.evaluation.published_scores import PublishedAgent
from mgdt_agents.evaluation.report import counted, protocol_sheet, results_lines
from mgdt_agents.evaluation.results import Episode
from mgdt_agents.evaluation.workers import play_in_processes
from mgdt_agents.replay.files import exclusive, is_left_over, naming
from mgdt_cli.arguments import Games, Names, parse, training_runs
from mgdt_cli.bench_results import (
    TOO_FEW,
    CompareArguments,
    ImportScoresArguments,
    VerifyArguments,
    compare_results,
    curves_of,
    fitting_table,
    import_scores,
    verify_results,
    video_name,
)
from mgdt_cli.console import ProgressBar, print_table, run, say
from mgdt_envs import resolve_games
from mgdt_envs.aggregates import FEWEST_EPISODES
from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument, MissingExtra, OutputExists
from mgdt_envs.protocol import as_protocol
from mgdt_envs.seeds import BENCHMARK_SEED, BENCHMARK_SEEDS


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchArguments:
    """Play agents on games and report their scores.

    A terminal gets a table; a pipe gets tab-separated lines. Progress goes to stderr.
    """

    agents: Names
    """Bundled agents (dt, dtq, bc, bc-weighted, bc-filtered, cql, impala), random, folders of
    agents, zips of stable-baselines3, or agents of the Hugging Face Hub (hf://user/name). Settings
    of how one acts may follow, in place of the saved ones: dt:kappa=30:action_temperature=1,
    dt:rule=BestOfSamples."""
    games: Games = ()
    """Games or suites; by default those that the agents learned."""
    episodes: int = 16
    """Whole episodes of each game, for each agent (Lee et al. 2022: 16)."""
    seed: int = BENCHMARK_SEED
    """Of the first episode of each game, and of the agents' draws."""
    seeds: Names = ()
    """Training runs of one agent, which are one row: {seed} in its path becomes each."""
    protocol: Names = ("default",)
    """Rules of play: default (those of DQN Replay), mgdt_release (of the released evaluator),
    nature (of DQN), machado (all actions); several are columns beside each other."""
    deterministic: bool = False
    """Take the likeliest action instead of drawing one."""
    max_steps: int | None = None
    """Give an episode up after this many agent steps."""
    idle_steps: int | None = None
    """Give an episode up after this many agent steps without a reward."""
    batch_size: int = 64
    """Episodes played at once, at most; changes no score."""
    workers: int = 1
    """Processes that play, each with one thread."""
    output: Path | None = None
    """Folder for the results; by default results/<date and time>. Episodes that it has already are
    not played again, so the same command resumes a benchmark."""
    overwrite: bool = False
    """Begin anew in an existing output folder."""
    trace: bool = False
    """Keep what every episode can be played again from, for `mgdt-bench verify`."""
    json: bool = False
    """Print the results as JSON."""
    report: bool = True
    """The report, a page, tables and figures (extra report), is written, or not."""
    video_seconds: float = 5.0
    """Length of the report's video of each agent and game (extra video); 0 makes none."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "compare": (CompareArguments, compare_results),
    "import-scores": (ImportScoresArguments, import_scores),
    "verify": (VerifyArguments, verify_results),
}


def main() -> None:
    """Run the command."""
    name = " ".join(sys.argv[1:2])
    if name in COMMANDS:
        kind, command = COMMANDS[name]
        run(lambda: command(parse(kind, kind.__doc__, name)))
    else:
        run(lambda: bench(parse(BenchArguments, __doc__)))


def bench(arguments: BenchArguments) -> None:
    """Play, print and write the results.

    Raises:
        ValueError: for unknown agents, games or protocols, no agent or episode at all, or a folder
            that cannot be written to.
        FileExistsError: if the output folder has other results, which would be lost.
    """
    if not arguments.agents:
        raise InvalidArgument("Expected at least one agent after --agents, such as dt,cql,bc.")
    paths = training_runs(arguments.agents, arguments.seeds)
    agents = {
        name: [load_agent(path, device=arguments.device) for path in runs]
        for name, runs in paths.items()
    }
    config = config_of(arguments, agents)
    check_agents(agents, config)
    output = arguments.output or new_folder()
    with exclusive(output, inside=True):
        published = _make_folder(output, agents, config, arguments.overwrite)
        log = EpisodeLog(output)
        try:
            with ProgressBar() as progress:
                episodes = _play(arguments, paths, agents, config, log, progress)
        except KeyboardInterrupt:
            say(
                f"{counted(len(log), 'episode')} were played and are kept in {log.path}. "
                f"The same command with --output {output} resumes."
            )
            raise
        finally:
            log.close()
        results = dataclasses.replace(results_of(agents, config, episodes), published=published)
        results = with_speeds(results, agents, config)
        results.save(output / "results.json")
        _print(results, arguments.json)
        say(f"Every episode's score: {output / 'results.json'}")
        if arguments.report:
            one_run = {name: runs[0] for name, runs in agents.items()}
            write_report_of(one_run, results, output, arguments.video_seconds)
        elif (output / "report.html").exists():
            say(f"The report in {output} is of the results before; without --no-report it is anew.")


def new_folder() -> Path:
    """Make a folder that is named by the time, and that nobody else has."""
    moment = time.strftime("%Y-%m-%d-%H%M%S")
    for number in itertools.count(1):
        folder = Path("results", moment if number == 1 else f"{moment}-{number}")
        with naming(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
        return folder
    raise AssertionError("There is always another number.")


def config_of(arguments: BenchArguments, agents: Mapping[str, Sequence[Agent]]) -> BenchmarkConfig:
    """Return what is to be played.

    Raises:
        ValueError: for what cannot be played.
    """
    for name in ("episodes", "workers", "batch_size", "max_steps", "idle_steps"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InvalidArgument(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    if not 0 <= arguments.video_seconds < math.inf:
        raise InvalidArgument(
            f"--video-seconds must be at least 0 and finite, got {arguments.video_seconds}."
        )
    last = arguments.seed + arguments.episodes - 1
    if arguments.seed < 0 or last > MAX_SEED:
        raise InvalidArgument(
            f"--seed must be at least 0 and the last seed at most {MAX_SEED}, got {arguments.seed} "
            f"to {last}."
        )
    if arguments.seed not in BENCHMARK_SEEDS:
        say(
            f"Seeds below {BENCHMARK_SEED} are those of recordings and of evaluations during "
            "training: an agent may have seen these starts."
        )
    if arguments.episodes < FEWEST_EPISODES:
        say(TOO_FEW)
    learned = {game for runs in agents.values() for agent in runs for game in agent.games}
    return BenchmarkConfig(
        games=resolve_games(arguments.games or sorted(learned) or "bundled"),
        episodes=arguments.episodes,
        seed=arguments.seed,
        protocols={name: as_protocol(name) for name in arguments.protocol or ("default",)},
        deterministic=arguments.deterministic,
        max_steps=arguments.max_steps,
        idle_steps=arguments.idle_steps,
        batch_size=arguments.batch_size,
    )


def _play(
    arguments: BenchArguments,
    paths: dict[str, list[str]],
    agents: dict[str, list[Agent]],
    config: BenchmarkConfig,
    log: EpisodeLog,
    progress: ProgressBar,
) -> list[Episode]:
    """Play what is not in the log, and return all episodes."""
    a_run = config.episodes * len(config.games) * len(config.protocols)
    tasks = {name: progress.add_task(name, total=a_run * len(runs)) for name, runs in paths.items()}
    steps = dict.fromkeys(paths, 0)

    def count(name: str, number: int) -> None:
        steps[name] += number
        progress.update(tasks[name], note=f"{steps[name]:,} steps")

    if arguments.workers > 1:
        episodes = play_in_processes(
            agents,
            paths,
            config,
            arguments.workers,
            log,
            lambda episode: count(episode.agent, episode.steps),
            device=arguments.device,
            traced=arguments.trace,
        )
    else:
        episodes = play_episodes(
            agents,
            config,
            log,
            lambda name, step: count(name, len(step.actions)),
            traced=arguments.trace,
        )
    played = []
    for episode in episodes:
        played.append(episode)
        progress.advance(tasks[episode.agent])
    return played


def _print(results: Results, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results.to_dict(), allow_nan=False))
    elif sys.stdout.isatty():
        print_table(fitting_table(results))
    else:
        print("\n".join(results_lines(results)))
        say(protocol_sheet(results))


def write_report_of(
    agents: dict[str, Agent], results: Results, output: Path, video_seconds: float
) -> None:
    """Write the report and say where it is; what cannot be made is left out, and said so."""
    # Imported only when needed: matplotlib takes a second.
    from mgdt_agents.evaluation.page import write_report

    try:
        videos = record_videos(agents, results, output / "videos", video_seconds)
    except (MissingExtra, ReplayError) as error:
        videos = {}
        say(f"The report has no videos. {error}")
    try:
        report = write_report(results, output, curves=curves_of(results), videos=videos)
        say(f"The report: {report}")
    except MissingExtra as error:
        say(f"There is no report. {error}")


def record_videos(
    agents: dict[str, Agent], results: Results, folder: Path, seconds: float
) -> dict[tuple[str, str], Path]:
    """Record the first seconds of each agent's first episode of each game."""
    from mgdt_agents.evaluation.videos import record_episode

    videos: dict[tuple[str, str], Path] = {}
    protocol = next(iter(results.protocols.values()))
    with ProgressBar() as progress:
        steps = round(seconds * protocol.steps_per_second)
        task = progress.add_task("videos", total=steps * len(agents) * len(results.games))
        for name, agent in agents.items():
            for game in results.games if steps else ():
                path = folder / video_name(results, name, game)
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


def _make_folder(
    folder: Path, agents: dict[str, list[Agent]], config: BenchmarkConfig, overwrite: bool
) -> tuple[PublishedAgent, ...]:
    """Prepare the output folder before anything is played; return the published scores in it.

    Raises:
        OutputExists: if it has other results, or anything but results.
    """
    published: tuple[PublishedAgent, ...] = ()
    if overwrite:
        for name in (EPISODES, "results.json"):
            (folder / name).unlink(missing_ok=True)
    elif (folder / "results.json").exists():
        try:
            there = Results.load(folder / "results.json")
        except InvalidArgument as error:
            advice = "Choose another --output"
            if (folder / EPISODES).exists():
                advice += f", or move the file away: episodes in {EPISODES} are not played again"
            raise OutputExists(f"{folder} exists. {error} {advice}.") from error
        published = there.published
        lost = [
            *(set(there.agents) - set(agents)),
            *(set(there.games) - set(config.games)),
            *(
                name
                for name, rules in there.protocols.items()
                if config.protocols.get(name) != rules
            ),
            *(["seeds"] if set(there.seeds) - set(config.seeds) else []),
            *(
                f"{name}={getattr(there, name)}"
                for name in ("deterministic", "max_steps", "idle_steps")
                if getattr(there, name) != getattr(config, name)
            ),
            *(
                f"runs of {name}"
                for name, runs in agents.items()
                if name in there.agents
                and set(there.agents[name].weights) - set(map(fingerprint, runs))
            ),
        ]
        if lost:
            raise OutputExists(
                f"{folder} has results that would be lost: {', '.join(sorted(lost))}. Choose "
                "another --output, name them again to extend the results, or add --overwrite."
            )
    elif not all(map(is_left_over, folder.glob("*"))) and not (folder / EPISODES).exists():
        raise OutputExists(f"{folder} exists; choose another --output or add --overwrite.")
    return published


if __name__ == "__main__":
    main()

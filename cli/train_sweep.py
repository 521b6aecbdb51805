"""Several trainings from one file: `mgdt-train --sweep FILE`."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mgdt_agents.number_text import number_text
from mgdt_agents.replay.files import make_folder
from mgdt_agents.training.metrics import read_curves
from mgdt_cli.cluster import connect
from mgdt_cli.console import fail, handling_signals, print_table, say
from mgdt_envs.errors import InvalidArgument

PARTS = {"common", "grid", "runs"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepArguments:
    """Train several agents, one after the other or some at once, and print a table of them.

    The file is JSON. "common" holds options of all runs, "grid" lists of values of which every
    combination is a run, "runs" a list of runs, each with its own options, and a "name" if its
    folder is not to be named by them:

        {"common": {"agent": "dt", "replay": "replay/Pong", "steps": "10k"},
         "grid": {"size": ["small", "2m"], "seed": [0, 1]}}

    The same command resumes what was stopped.
    """

    sweep: Path
    """The file."""
    output: Path | None = None
    """Folder in which each run gets a folder; by default runs/<name of the file>."""
    at_once: int = 1
    """Runs at once, each on its own share of the cores."""
    ray: str | None = None
    """Address of a Ray cluster over which the runs are shared out, such as "auto". Its machines
    must share the output folder and the replay."""


def start_sweep(arguments: SweepArguments) -> None:
    """Train what the file says.

    Raises:
        ValueError: if the file is not one of a sweep.
    """
    if arguments.at_once < 1:
        raise InvalidArgument(f"--at-once must be at least 1, got {arguments.at_once}")
    runs = read_sweep(arguments.sweep)
    output = (arguments.output or Path("runs") / arguments.sweep.stem).resolve()
    make_folder(output)
    commands = {name: command_of(options, output / name) for name, options in runs.items()}
    if arguments.ray is not None:
        failed = run_in_cluster(commands, output, arguments)
    else:
        failed = run_here(commands, output, arguments.at_once)
    print_runs(runs, output)
    if failed:
        logs = ", ".join(f"{output / name}.log" for name in failed)
        fail(f"Not finished: {', '.join(failed)}. What they printed is in {logs}.")


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """Return the options of each run by its name, which says what is not the same in all.

    A run's "name" stands for its own options there.

    Raises:
        ValueError: if the file is not one of a sweep.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidArgument(f"{path} does not exist.") from None
    except ValueError as error:
        raise InvalidArgument(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content or set(content) - PARTS:
        raise InvalidArgument(f"Expected common, grid and runs in {path}, got {content!r:.200}")
    common, grid = content.get("common", {}), content.get("grid", {})
    listed = content.get("runs", [{}])
    for name, part in ("common", common), ("grid", grid):
        if not isinstance(part, dict):
            raise InvalidArgument(f"Expected an object of options as {name}, got {part!r:.200}.")
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise InvalidArgument(f"Expected a list of values for each option of grid, got {grid}.")
    if not isinstance(listed, list) or not listed or not all(isinstance(r, dict) for r in listed):
        raise InvalidArgument(f"Expected a list of objects of options as runs, got {listed!r:.200}")
    runs = {}
    for run in listed:
        own = {key: value for key, value in run.items() if key != "name"}
        named = [str(run["name"])] if "name" in run else _pairs(own)
        for values in itertools.product(*grid.values()):
            varied = dict(zip(grid, values, strict=True))
            special = {**own, **varied}
            name = (",".join([*named, *_pairs(varied)]) or "run").replace("/", "_")
            if name.startswith("."):
                raise InvalidArgument(f"A run's name may not begin with a dot, got {name!r}.")
            if name in runs:
                raise InvalidArgument(f"{path} has the run {name} twice.")
            runs[name] = {**common, **special}
    return runs


def command_of(options: Mapping[str, Any], output: Path) -> list[str]:
    """Return the command that trains a run."""
    command = [sys.executable, "-m", "mgdt_cli.train"]
    for name, value in options.items():
        if value is not False:
            command.append(f"--{name.replace('_', '-')}")
            values = value if isinstance(value, list) else [value]
            command += [] if value is True else map(str, values)
    return [*command, "--output", str(output)]


def _pairs(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in options.items()]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def run_here(commands: Mapping[str, list[str]], output: Path, at_once: int) -> list[str]:
    """Run the commands on this machine; return the names of those that did not finish."""
    shares = shares_of_cores(at_once)
    waiting, failed = list(commands), []
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    stopping: list[int] = []

    def stop(number: int, frame: Any) -> None:
        # In sessions of their own, they do not hear the keyboard.
        stopping.append(number)
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)

    with handling_signals(stop):
        while running or (waiting and not stopping):
            for place, cores in enumerate(shares):
                if place not in running and waiting and not stopping:
                    name = waiting.pop(0)
                    say(f"{name}: begins on cores {','.join(map(str, cores))}")
                    running[place] = name, start_run(commands[name], output / f"{name}.log", cores)
            time.sleep(0.1)
            for place, (name, process) in list(running.items()):
                if process.poll() is not None:
                    del running[place]
                    finished = process.returncode == 0 and not stopping
                    say(f"{name}: {'finished' if finished else 'not finished'}")
                    failed += [] if finished else [name]
    return failed + waiting


def start_run(command: list[str], log: Path, cores: list[int]) -> "subprocess.Popen[bytes]":
    """Start a run that keeps to its cores, and writes what it prints to `log`."""

    def keep_to_cores() -> None:
        if hasattr(os, "sched_setaffinity"):  # not on macOS
            os.sched_setaffinity(0, cores)

    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
            start_new_session=True,
            preexec_fn=keep_to_cores,
        )


def shares_of_cores(at_once: int) -> list[list[int]]:
    """Return the cores of each of the runs at once; if they are too few, some have the same."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    if at_once >= len(cores):
        return [[cores[place % len(cores)]] for place in range(at_once)]
    bounds = [place * len(cores) // at_once for place in range(at_once + 1)]
    return [cores[first:last] for first, last in itertools.pairwise(bounds)]


def run_in_cluster(
    commands: Mapping[str, list[str]], output: Path, arguments: SweepArguments
) -> list[str]:
    """Run the commands on a Ray cluster; return the names of those that did not finish."""
    assert arguments.ray is not None
    connect(arguments.ray)
    from ray.util.multiprocessing import Pool

    with Pool(arguments.at_once) as pool:
        # Ray's workers are in other folders, and paths of replay may be relative.
        here = Path.cwd()
        tasks = [(command, output / f"{name}.log", here) for name, command in commands.items()]
        statuses = pool.starmap(run_in_worker, tasks)
    return [name for name, status in zip(commands, statuses, strict=True) if status]


def run_in_worker(command: list[str], log: Path, folder: Path) -> int:
    """Run a command in a process of a cluster, in a folder; return its exit status."""
    with log.open("ab") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=file, check=False)
    return done.returncode


def print_runs(runs: Mapping[str, Any], output: Path) -> None:
    """Print a line for each run: the last of what it logged."""
    lasts: dict[str, dict[str, float]] = {}
    for name in runs:
        curves = read_curves(output / name)
        lasts[name] = {figure: values[-1] for figure, (_, values) in curves.items()}
        lasts[name]["steps"] = max((steps[-1] for steps, _ in curves.values()), default=0)
    shown = ["steps", "loss", "accuracy", "heldout_loss", "heldout_accuracy"]
    scores = sorted({name for last in lasts.values() for name in last if name.startswith("score/")})
    shown = [
        name
        for name in [*shown, *scores, "windows_per_second"]
        if any(name in v for v in lasts.values())
    ]
    table = Table(box=None)
    table.add_column("Run", overflow="fold")
    for figure in shown:
        table.add_column(figure.replace("_", " "), justify="right")
    for name, last in lasts.items():
        cells = [number_text(last[f], "{:,.4g}") if f in last else "" for f in shown[1:]]
        table.add_row(name, f"{last['steps']:,.0f}", *cells)
    print_table(table)

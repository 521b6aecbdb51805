"""Play games, learn them online, and keep every step.

Examples:
    mgdt-collect --games Pong --steps 2m
    mgdt-collect --games Pong,Boxing,Qbert --steps 1.5m --processes 3 --store
    mgdt-collect --games Breakout --algo ppo --output collection-ppo
    mgdt-collect --games Pong,Breakout --algo impala   # both with one set of weights
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import tyro

from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation.workers import leaving_interrupts
from mgdt_agents.online.collection import LEARNERS, check_folder, collect, describe
from mgdt_agents.online.impala import ImpalaLearnerConfig
from mgdt_agents.online.pqn import PQNConfig
from mgdt_agents.online.sb3_learner import DQNLearnerConfig, PPOLearnerConfig
from mgdt_agents.replay import Trace, expand
from mgdt_cli.arguments import Games, Steps, parse
from mgdt_cli.cluster import connect
from mgdt_cli.console import (
    HANGUP,
    ProgressBar,
    describe_play,
    fail,
    handling_signals,
    run,
    say,
)
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument

TOGETHER = ("impala",)
"""Learners that learn all games together."""
STOPPING = threading.Event()
"""Set when collections are to stop after what they are at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectArguments:
    """Learn games online and keep every step of them as traces, from random play to skill.

    Each game gets a folder in the output folder, which holds the trace and the trained agent;
    impala learns all games together, in the folder impala, with a trace of each. A collection of
    impala or pqn that was stopped (Ctrl-C) resumes when the same command runs again.
    """

    games: Annotated[Games, tyro.conf.arg(aliases=["--game"])]
    """Games or suites to collect."""
    steps: Steps = 2_000_000
    """Agent steps of each game."""
    algo: Literal["pqn", "impala", "dqn", "ppo"] = "pqn"
    """PQN; IMPALA; or stable-baselines3's DQN or PPO, which are slower on a CPU and cannot
    resume."""
    output: Path = Path("collection")
    """Folder in which each game gets a folder of its name."""
    store: bool = False
    """Expand each finished trace into the store <output>/<game>/store, too; of impala
    <output>/impala/store/<game>."""
    processes: int | None = None
    """Games collected at once, each in a process; by default one, with Ray one a CPU. It is one
    process for all games of impala."""
    ray: str | None = None
    """Address of a Ray cluster over which the games are shared out, such as "auto" or
    ray://HOST:10001. Its machines must share the output folder."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    threads: int = 0
    """Emulator threads; 0 takes one a core, shared among processes, and one with Ray. The play
    does not depend on it."""
    pqn: PQNConfig = field(default_factory=PQNConfig)
    impala: ImpalaLearnerConfig = field(default_factory=ImpalaLearnerConfig)
    dqn: DQNLearnerConfig = field(default_factory=DQNLearnerConfig)
    ppo: PPOLearnerConfig = field(default_factory=PPOLearnerConfig)


class NotExpanded(ReplayError):
    """A collection that is finished, and a trace of it that makes no store."""


class Collection(NamedTuple):
    """A folder to be filled by one learner."""

    name: str
    """Of the folder: the game's, or the learner's where it learns all games."""
    games: tuple[str, ...]
    steps: int
    """Agent steps of all its games."""


def main() -> None:
    """Run the command."""
    run(lambda: collect_all(parse(CollectArguments, __doc__)))


def collections_of(arguments: CollectArguments) -> list[Collection]:
    """Return what is to be collected."""
    games = resolve_games(arguments.games)
    if arguments.algo in TOGETHER:
        return [Collection(arguments.algo, games, arguments.steps * len(games))]
    return [Collection(name, (name,), arguments.steps) for name in games]


def collect_all(arguments: CollectArguments) -> None:
    """Collect what the arguments say.

    Raises:
        ValueError: for an unknown game, options of another learner, or a number of processes below
            1 or without use.
        FileExistsError: if a folder to be filled holds something else; nothing is collected then.
    """
    collections = collections_of(arguments)
    for name, learner in LEARNERS.items():
        if name != arguments.algo and getattr(arguments, name) != learner.config_class():
            raise InvalidArgument(
                f"--algo {arguments.algo} does not read --{name}.*. Leave it out, or choose "
                f"--algo {name}."
            )
    if arguments.processes is not None and arguments.processes < 1:
        raise InvalidArgument(f"--processes must be at least 1, got {arguments.processes}")
    if arguments.algo in TOGETHER and arguments.processes not in (None, 1):
        raise InvalidArgument(
            f"{arguments.algo} learns all games in one process, got --processes "
            f"{arguments.processes}. Leave it out, or choose --algo pqn, which learns each game "
            "by itself."
        )
    for name, games, steps in collections:
        description = describe(games, steps, arguments.algo, config_of(arguments))
        check_folder(arguments.output / name, description)
    STOPPING.clear()
    if arguments.ray is not None:
        collect_in_cluster(arguments, collections)
        return
    with handling_signals(stop):
        if arguments.processes in (None, 1):
            collect_in_turn(arguments, collections)
        else:
            collect_in_processes(arguments, collections)


def collect_in_turn(arguments: CollectArguments, collections: Sequence[Collection]) -> None:
    """Collect one after the other, with a progress bar."""
    failures = []
    with ProgressBar() as progress:
        for collection in collections:
            task = progress.add_task(collection.name, total=collection.steps)

            def show(figures: dict[str, Any], task: Any = task) -> None:
                progress.update(task, completed=figures["step"], note=describe_play(figures))

            try:
                collect_one(arguments, collection, arguments.threads, show)
            except NotExpanded as error:
                failures.append(collection.name)
                say(str(error))
            if STOPPING.is_set():
                break
    if failures:
        fail(f"Not expanded: {', '.join(failures)}. The other games are not affected.")


def collect_in_processes(arguments: CollectArguments, collections: Sequence[Collection]) -> None:
    """Collect several at once, each in a process of its own, so that one may be killed."""
    context = multiprocessing.get_context("spawn")
    waiting = deque(collections)
    running: list[Any] = []
    failures = []
    while running or (waiting and not STOPPING.is_set()):
        while waiting and len(running) < (arguments.processes or 1) and not STOPPING.is_set():
            collection = waiting.popleft()
            running.append(
                context.Process(
                    target=collect_in_own_process,
                    args=(arguments, collection),
                    name=collection.name,
                    daemon=True,
                )
            )
            with leaving_interrupts():
                running[-1].start()
        connection.wait([process.sentinel for process in running])
        ended = [process for process in running if process.exitcode is not None]
        for process in ended:
            running.remove(process)
            # Told to stop before it could be told so.
            told = [-number for number in (signal.SIGTERM, HANGUP) if number is not None]
            stopped = STOPPING.is_set() and process.exitcode in told
            if process.exitcode and not stopped:
                failures.append(f"{process.name} {_reason(process.exitcode)}")
                say(f"Collecting {failures[-1]}")
    if failures:
        what = "Not collected or not expanded" if arguments.store else "Not collected"
        fail(f"{what}: {', '.join(failures)}. The other games are not affected.")


def _reason(exit_status: int) -> str:
    if exit_status > 0:
        return f"ended with exit status {exit_status}"
    name = signal.Signals(-exit_status).name
    return f"was killed by {name}, perhaps by the system for want of memory"


def collect_in_own_process(arguments: CollectArguments, collection: Collection) -> None:
    """Collect in a process that was started for it."""

    def stop_if_told(number: int, frame: Any) -> None:
        # The first process alone answers the keyboard and the terminal, and says when to stop.
        if number == signal.SIGTERM:
            stop(number, frame)

    with handling_signals(stop_if_told):
        run(lambda: collect_in_worker(arguments, collection))


def collect_in_cluster(arguments: CollectArguments, collections: Sequence[Collection]) -> None:
    """Collect several at once on a Ray cluster."""
    assert arguments.ray is not None
    connect(arguments.ray)
    from ray.util.multiprocessing import Pool

    # Ray's workers are in other folders.
    arguments = replace(arguments, output=arguments.output.resolve())
    with Pool(arguments.processes) as pool:
        results = [pool.apply_async(collect_in_worker, (arguments, each)) for each in collections]
        pool.close()
        pool.join()
    for result in results:
        result.get()  # raises what the collection raised


def collect_in_worker(arguments: CollectArguments, collection: Collection) -> None:
    """Collect in a process that shares the cores with others."""
    threads = 1
    if arguments.processes is not None and arguments.ray is None:
        threads = max(1, (os.cpu_count() or 1) // arguments.processes)
    torch.set_num_threads(threads)

    def show(figures: dict[str, Any]) -> None:
        steps = f"{figures['step']:,} of {collection.steps:,} steps"
        say(f"{collection.name}: {steps}, {describe_play(figures)}")

    collect_one(arguments, collection, arguments.threads or threads, show)


def collect_one(
    arguments: CollectArguments,
    collection: Collection,
    threads: int,
    on_log: Callable[[dict[str, Any]], object],
) -> None:
    """Fill one folder, and say what came of it.

    Raises:
        NotExpanded: if a trace makes no store, such as one without a whole episode; the others are
            expanded.
    """
    name, games, steps = collection
    output = arguments.output / name
    finished = collect(
        arguments.algo,
        games,
        steps,
        config_of(arguments),
        output,
        device=arguments.device,
        num_threads=threads,
        on_log=on_log,
        should_stop=STOPPING.is_set,
    )
    traces = [output / f"{game}.npz" for game in games]
    if not finished and LEARNERS[arguments.algo].can_resume:
        say(f"Stopped {name}; the same command resumes.")
    elif not finished:
        say(f"Stopped {name}; {output} holds what was played and learned. It cannot resume.")
    elif not arguments.store:
        paths = " ".join(str(trace) for trace in traces if len(Trace.load(trace).episode_return))
        if paths:
            say(f"Collected {name}; `mgdt-replay expand {paths}` makes a store of each trace.")
        else:
            say(f"Collected {name}; no episode ended, so no store can be made of {output}.")
    else:
        stores = [output / "store"]
        if arguments.algo in TOGETHER:
            stores = [output / "store" / game for game in games]
        failures = []
        for trace, store in zip(traces, stores, strict=True):
            if not store.exists():
                try:
                    expand(Trace.load(trace), store, num_threads=threads)
                except InvalidArgument as error:
                    failures.append(f"{trace} makes no store: {error}")
        if failures:
            raise NotExpanded(f"Collected {name}, but {' '.join(failures)}")
        say(f"Collected {name}; what was played is in {', '.join(map(str, stores))}.")


def stop(number: int, frame: Any) -> None:
    """Have collections stop after what they are at; at once the second time."""
    if STOPPING.is_set():
        raise KeyboardInterrupt
    STOPPING.set()
    if multiprocessing.parent_process() is None:
        say("Stopping after this update; once more to stop at once.")
    for process in multiprocessing.active_children():
        process.terminate()


def config_of(arguments: CollectArguments) -> Any:
    """Return how the chosen learner learns, of its `config_class`."""
    return getattr(arguments, arguments.algo)


if __name__ == "__main__":
    # Functions of a module that is called __main__ cannot be sent to Ray's workers.
    from mgdt_cli.collect import main as imported_main

    imported_main()

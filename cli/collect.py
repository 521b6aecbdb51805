"""Play a game, learn it online, and keep every step.

Examples:
    mgdt-collect --games Pong --steps 2m
    mgdt-collect --games Pong,Boxing,Qbert --steps 1.5m --processes 3 --store
    mgdt-collect --games Breakout --algo ppo --output collection-ppo
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from mgdt_agents.online.collection import LEARNERS, check_folder, collect, describe
from mgdt_agents.online.pqn import PQNConfig
from mgdt_agents.online.sb3_learner import DQNLearnerConfig, PPOLearnerConfig
from mgdt_agents.replay import Trace, expand
from mgdt_cli.common import Games, Steps, describe_play, fail, parse, progress_bar, run, say
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument, MissingExtra

STOPPING = threading.Event()
"""Set when collections are to stop after what they are at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectArguments:
    """Learn games online and keep every step of them as traces, from random play to skill.

    Each game gets a folder in the output folder, which holds the trace and the trained agent. A
    collection of PQN that was stopped (Ctrl-C) resumes when the same command runs again.
    """

    games: Annotated[Games, tyro.conf.arg(aliases=["--game"])]
    """Games or suites to collect."""
    steps: Steps = 2_000_000
    """Agent steps of each game."""
    algo: Literal["pqn", "dqn", "ppo"] = "pqn"
    """PQN, or stable-baselines3's DQN or PPO, which are slower on a CPU and cannot resume."""
    output: Path = Path("collection")
    """Folder in which each game gets a folder of its name."""
    store: bool = False
    """Expand each finished trace into the store <output>/<game>/store, too."""
    processes: int | None = None
    """Games collected at once, each in a process; by default one, with Ray one a CPU."""
    ray: str | None = None
    """Address of a Ray cluster over which the games are shared out, such as "auto" or
    ray://HOST:10001. Its machines must share the output folder."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    threads: int = 0
    """Emulator threads; 0 takes one a core, shared among processes, and one with Ray. The play
    does not depend on it."""
    pqn: PQNConfig = field(default_factory=PQNConfig)
    dqn: DQNLearnerConfig = field(default_factory=DQNLearnerConfig)
    ppo: PPOLearnerConfig = field(default_factory=PPOLearnerConfig)


def main() -> None:
    """Run the command."""
    run(lambda: collect_all(parse(CollectArguments, __doc__)))


def collect_all(arguments: CollectArguments) -> None:
    """Collect what the arguments say.

    Raises:
        ValueError: for an unknown game, or a number of processes below 1.
        FileExistsError: if the folder of a game holds something else; nothing is collected then.
    """
    names = resolve_games(arguments.games)
    if arguments.processes is not None and arguments.processes < 1:
        raise InvalidArgument(f"--processes must be at least 1, got {arguments.processes}")
    for name in names:
        description = describe((name,), arguments.steps, arguments.algo, config_of(arguments))
        check_folder(arguments.output / name, description)
    STOPPING.clear()
    if arguments.ray is not None:
        collect_in_cluster(arguments, names)
        return
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if arguments.processes in (None, 1):
        collect_in_turn(arguments, names)
    else:
        collect_in_processes(arguments, names)


def collect_in_turn(arguments: CollectArguments, names: tuple[str, ...]) -> None:
    """Collect one game after the other, with a progress bar."""
    with progress_bar() as progress:
        for name in names:
            task = progress.add_task(name, total=arguments.steps, note="")

            def show(figures: dict[str, Any], task: Any = task) -> None:
                progress.update(task, completed=figures["step"], note=describe_play(figures))

            collect_game(arguments, name, arguments.threads, show)
            if STOPPING.is_set():
                return


def collect_in_processes(arguments: CollectArguments, names: tuple[str, ...]) -> None:
    """Collect several games at once, each in a process of its own, so that one may be killed."""
    context = multiprocessing.get_context("spawn")
    waiting = deque(names)
    running: list[Any] = []
    failures = []
    while running or (waiting and not STOPPING.is_set()):
        while waiting and len(running) < (arguments.processes or 1) and not STOPPING.is_set():
            name = waiting.popleft()
            running.append(
                context.Process(
                    target=collect_in_own_process, args=(arguments, name), name=name, daemon=True
                )
            )
            running[-1].start()
        connection.wait([process.sentinel for process in running])
        ended = [process for process in running if process.exitcode is not None]
        for process in ended:
            running.remove(process)
            # Told to stop before it could be told so.
            stopped = STOPPING.is_set() and process.exitcode == -signal.SIGTERM
            if process.exitcode and not stopped:
                failures.append(f"{process.name} {_reason(process.exitcode)}")
                say(f"Collecting {failures[-1]}")
    if failures:
        fail(f"Not collected: {', '.join(failures)}. The other games are not affected.")


def _reason(exit_status: int) -> str:
    if exit_status > 0:
        return f"ended with exit status {exit_status}"
    name = signal.Signals(-exit_status).name
    return f"was killed by {name}, perhaps by the system for want of memory"


def collect_in_own_process(arguments: CollectArguments, name: str) -> None:
    """Collect a game in a process that was started for it."""
    # The first process alone answers the keyboard, and says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    run(lambda: collect_in_worker(arguments, name))


def collect_in_cluster(arguments: CollectArguments, names: tuple[str, ...]) -> None:
    """Collect several games at once on a Ray cluster."""
    try:
        from ray.util.multiprocessing import Pool
    except ImportError:
        raise MissingExtra("--ray needs Ray, the extra ray: pip install 'mgdt[ray]'") from None
    # Ray's workers are in other folders.
    arguments = replace(arguments, output=arguments.output.resolve())
    with Pool(arguments.processes, ray_address=arguments.ray) as pool:
        results = [pool.apply_async(collect_in_worker, (arguments, name)) for name in names]
        pool.close()
        pool.join()
    for result in results:
        result.get()  # raises what the game's collection raised


def collect_in_worker(arguments: CollectArguments, name: str) -> None:
    """Collect a game in a process that shares the cores with others."""
    threads = 1
    if arguments.processes is not None and arguments.ray is None:
        threads = max(1, (os.cpu_count() or 1) // arguments.processes)
    torch.set_num_threads(threads)

    def show(figures: dict[str, Any]) -> None:
        say(f"{name}: {figures['step']:,} of {arguments.steps:,} steps, {describe_play(figures)}")

    collect_game(arguments, name, arguments.threads or threads, show)


def collect_game(
    arguments: CollectArguments,
    name: str,
    threads: int,
    on_log: Callable[[dict[str, Any]], object],
) -> None:
    """Collect one game, and say what came of it."""
    output = arguments.output / name
    finished = collect(
        arguments.algo,
        (name,),
        arguments.steps,
        config_of(arguments),
        output,
        device=arguments.device,
        num_threads=threads,
        on_log=on_log,
        should_stop=STOPPING.is_set,
    )
    trace = output / f"{name}.npz"
    if not finished and LEARNERS[arguments.algo].can_resume:
        say(f"Stopped {name}; the same command resumes.")
    elif not finished:
        say(f"Stopped {name}; {output} holds what was played and learned. It cannot resume.")
    elif not arguments.store:
        say(f"Collected {name}; `mgdt-replay expand {trace}` makes a store of it.")
    else:
        if not (output / "store").exists():
            expand(Trace.load(trace), output / "store", num_threads=threads)
        say(f"Collected {name}; its store is {output / 'store'}.")


def stop(number: int, frame: Any) -> None:
    """Have collections stop after what they are at; at once the second time."""
    if STOPPING.is_set():
        raise KeyboardInterrupt
    STOPPING.set()
    if multiprocessing.parent_process() is None:
        say("Stopping after this update; once more to stop at once.")
    for process in multiprocessing.active_children():
        process.terminate()


def config_of(arguments: CollectArguments) -> PQNConfig | DQNLearnerConfig | PPOLearnerConfig:
    """Return how the chosen learner learns."""
    return getattr(arguments, arguments.algo)


if __name__ == "__main__":
    # Functions of a module that is called __main__ cannot be sent to Ray's workers.
    from mgdt_cli.collect import main as imported_main

    imported_main()

"""Make replay stores from traces: `mgdt-replay expand --games Pong --split medium`."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import Part, ReplayStore, Trace, expand
from mgdt_agents.replay.expansion import is_expanded
from mgdt_agents.replay.store import PROTOCOL
from mgdt_cli.console import ProgressBar, say
from mgdt_cli.replay_traces import TracesArguments, chosen_traces
from mgdt_envs.emulator import check_num_threads
from mgdt_envs.errors import InvalidArgument

SECONDS_BETWEEN_LOOKS = 0.5
"""At how far other processes are."""
_shared: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpandArguments(TracesArguments):
    """Regenerate replay stores from traces, through the emulator, bit for bit.

    What is there already is not made again. If one is killed, the same command begins it anew.
    """

    part: Annotated[Part, tyro.conf.arg(name="")] = field(default_factory=Part)
    obs_type: Annotated[
        Literal["protocol", "rgb", "gray-native", "ram"], tyro.conf.arg(name="as")
    ] = "protocol"
    """What frames show: screens as the protocol says (84x84, gray), which agents learn from; the
    console's picture in color or gray, 210x160; or the 128 bytes of its memory. All but the first
    take twice the time."""
    output: Path = Path("replay")
    """Folder in which each trace gets a store of its name, followed by -<split> and by what frames
    show, such as Pong-medium-rgb."""
    jobs: int = 0
    """Traces expanded at once, each in a process of its own; 0 takes as many as there are cores."""
    threads: int = 0
    """Emulator threads of each trace; 0 shares out the cores. The stores do not depend on it."""


class Job(NamedTuple):
    """A store to make."""

    trace: Trace
    part: Part
    obs_type: str
    output: Path

    @property
    def count_environments(self) -> int:
        """Environments that are played."""
        return self.part.count_environments(self.trace)

    @property
    def steps(self) -> int:
        """Steps that are played, of all environments."""
        return self.part.count_rows(self.trace) * self.count_environments


def expand_all(arguments: ExpandArguments) -> None:
    """Expand every trace to a store in the output folder.

    Raises:
        ReplayError: if a trace cannot be read or does not give the part, before anything is
            expanded; if some diverge, when all others are expanded.
        ValueError: if no trace is of the games, or has as many environments.
        FileExistsError: if the place of a store holds something else; nothing is expanded then.
    """
    check_num_threads(arguments.threads)
    if arguments.jobs < 0:
        raise InvalidArgument(
            f"Expected a number of jobs, or 0 for one a core, got {arguments.jobs}."
        )
    paths = chosen_traces(arguments)
    suffix = f"-{arguments.part.split}" if arguments.part.split else ""
    suffix += "" if arguments.obs_type == PROTOCOL else f"-{arguments.obs_type}"
    jobs = [
        Job(
            Trace.load(path), arguments.part, arguments.obs_type, arguments.output / (name + suffix)
        )
        for name, path in paths.items()
    ]
    todo = []
    for job in jobs:
        if is_expanded(job.trace, job.output, job.part, obs_type=job.obs_type):
            say(f"{ReplayStore(job.output)}: is there already")
        else:
            todo.append(job)
            job.part.episodes(job.trace)  # raises if there are none
    if todo:
        _expand(todo, arguments.jobs, arguments.threads)


def _expand(jobs: list[Job], at_once: int, threads: int) -> None:
    """Make stores, with one progress bar over all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    at_once = min(at_once or cores or 1, len(jobs))
    threads = threads or max(1, (cores or 1) // at_once)
    errors = []
    with ProgressBar() as progress:
        name = jobs[0].trace.game if len(jobs) == 1 else f"{len(jobs)} traces"
        task = progress.add_task(name, total=sum(job.steps for job in jobs))
        advance = partial(progress.advance, task)
        if at_once == 1:
            made = _in_turn(jobs, threads, advance)
        else:
            made = _in_processes(jobs, at_once, threads, advance)
        for number, (job, error) in enumerate(made, 1):
            progress.update(task, note=f"{number} of {len(jobs)} are made")
            if error is None:
                say(str(ReplayStore(job.output)))
            else:
                errors.append(error)
    if errors:
        raise ReplayError("\n".join(errors))


def _make(job: Job, threads: int, on_step: Callable[[], object]) -> str | None:
    """Make a store, and return what is wrong if it cannot be made."""
    try:
        expand(
            job.trace,
            job.output,
            job.part,
            obs_type=job.obs_type,
            num_threads=threads,
            on_step=on_step,
        )
    except ReplayError as error:
        return str(error)
    return None


Made = Iterator[tuple[Job, str | None]]
"""What was made, and what is wrong where it was not."""


def _in_turn(jobs: list[Job], threads: int, advance: Callable[[int], object]) -> Made:
    for job in jobs:
        yield job, _make(job, threads, partial(advance, job.count_environments))


def _in_processes(
    jobs: list[Job], at_once: int, threads: int, advance: Callable[[int], object]
) -> Made:
    """Make several stores at once, the longest first."""
    context = multiprocessing.get_context("spawn")
    steps, stopping = context.Value("q", 0), context.Event()
    shared = (steps, stopping, os.getpid())
    told = 0
    with ProcessPoolExecutor(at_once, context, _share, shared) as pool:
        try:
            running = {
                pool.submit(_make_in_process, job, threads): job
                for job in sorted(jobs, key=lambda job: -job.steps)
            }
            while running:
                ended, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                done = steps.value
                advance(done - told)
                told = done
                for future in ended:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise ReplayError(
                "A process that expanded a trace was killed, perhaps by the system for want of "
                "memory. The same command resumes; --jobs 1 takes the least memory."
            ) from None
        finally:
            stopping.set()  # if this is an end before all is made
            pool.shutdown(cancel_futures=True)


def _share(*shared: Any) -> None:
    """Begin a process: remember what it shares with the one that started it."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to stop


def _make_in_process(job: Job, threads: int) -> str | None:
    steps, stopping, parent = _shared

    def count() -> None:
        if stopping.is_set() or os.getppid() != parent:
            raise KeyboardInterrupt
        with steps.get_lock():
            steps.value += job.count_environments

    return _make(job, threads, count)

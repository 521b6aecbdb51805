"""The benchmark in several processes, each with one thread and agents of its own."""

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.queues import Queue
from typing import Any

import torch

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.benchmark import (
    Agents,
    BenchmarkConfig,
    Played,
    find_episodes,
    finished,
    hash_of_rules,
    runs_of,
)
from mgdt_agents.evaluation.episode_log import EpisodeLog, fingerprint
from mgdt_agents.evaluation.place import Emulators
from mgdt_agents.evaluation.results import Episode
from mgdt_agents.evaluation.rollout import FEWEST_ROWS, play
from mgdt_agents.registry import load_agent
from mgdt_envs.errors import MGDTError

SECONDS_BETWEEN_LOOKS = 1.0
"""At whether a worker has died."""

Task = tuple[str, int, str, str, list[tuple[str, int]]]
"""Name, run and path of an agent, the protocol's name, game and seed of each episode."""


def play_in_processes(
    agents: Agents,
    paths: Mapping[str, Sequence[str]],
    config: BenchmarkConfig,
    workers: int,
    log: EpisodeLog | None = None,
    on_episode: Callable[[Episode], object] = lambda episode: None,
    *,
    device: str = "auto",
    traced: bool = False,
) -> Iterator[Episode]:
    """Play every agent on every game in processes, and yield each episode as it ends.

    Args:
        agents: the agents by the name they get in the episodes.
        paths: what `load_agent` takes for each training run of each agent, by the agent's name.
        config: what is played.
        workers: number of processes.
        log: where episodes are kept as they end; those that are there come first, unplayed.
        on_episode: called with every episode.
        device: where the agents compute.
        traced: keep in the log what every episode can be played again from.

    Raises:
        RuntimeError: if a process dies.
    """
    agent_hashes: dict[tuple[str, int], str] = {}
    runs_waiting: list[Task] = []
    for name, run, agent in runs_of(agents):
        agent_hash = agent_hashes[name, run] = fingerprint(agent)
        for protocol in config.protocols:
            played_by = agent_hash, name, run
            found, waiting = find_episodes(config, log, *played_by, protocol, traced=traced)
            for episode in found:
                on_episode(episode)
                yield episode
            runs_waiting.append((name, run, paths[name][run], protocol, waiting))
    number = sum(len(waiting) for *_, waiting in runs_waiting)
    if not number:
        return
    # Shares of a game: small enough that all processes end at about the same time, but no smaller
    # than the batch that an agent is given anyway, unless some process would have none.
    share = max(1, min(max(number // (4 * workers), FEWEST_ROWS), number // workers))
    tasks: list[Task] = []
    for name, run, path, protocol, waiting in runs_waiting:
        for game in config.games:
            seeds = [entry for entry in waiting if entry[0] == game]
            tasks += [
                (name, run, path, protocol, seeds[first : first + share])
                for first in range(0, len(seeds), share)
            ]
    context = multiprocessing.get_context("spawn")
    to_do: Queue[Any] = context.Queue()
    done: Queue[Any] = context.Queue()
    for task in [*tasks, *[None] * workers]:
        to_do.put(task)
    processes: list[Any] = []
    try:
        with leaving_interrupts():
            for _ in range(workers):
                arguments = (to_do, done, config, device)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                processes.append(process)
        for episode, trace in _results(done, processes, number):
            if log is not None:
                agent_hash = agent_hashes[episode.agent, episode.run]
                rules_hash = hash_of_rules(config, episode.protocol)
                log.append(agent_hash, rules_hash, episode, trace if traced else None)
            on_episode(episode)
            yield episode
    finally:
        for process in processes:
            process.terminate()
            process.join()


@contextmanager
def leaving_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that start here, for good; this one tells the user, and ends them.

    It is blocked, not ignored: one that comes meanwhile reaches this process afterwards. Windows
    cannot do that.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It would start with the first process, and unblock what is blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _results(done: "Queue[Any]", processes: Sequence[Any], number: int) -> Iterator[Played]:
    """Yield so many episodes as the processes send them."""
    while number:
        try:
            sent = done.get(timeout=SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            if any(process.exitcode not in (None, 0) for process in processes):
                raise RuntimeError("A process of the benchmark died; see above.") from None
            continue
        if isinstance(sent, BaseException):
            raise sent
        number -= 1
        yield sent


def _work(to_do: "Queue[Any]", done: "Queue[Any]", config: BenchmarkConfig, device: str) -> None:
    """Play what is to do until there is nothing more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    agents: dict[str, Agent] = {}
    emulators = Emulators()
    try:
        while (task := to_do.get()) is not None:
            name, run, path, protocol, episodes = task
            if path not in agents:
                agents = {path: load_agent(path, device=device)}
            options = config.play_options(protocol)
            steps = play(agents[path], episodes, emulators=emulators, **options)
            for played in finished(steps, name, run, protocol):
                done.put(played)
    except MGDTError as error:
        done.put(error)
    except Exception:
        done.put(RuntimeError(f"In a process of the benchmark:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    """End this process when the benchmark's first one has died, as a kill has it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

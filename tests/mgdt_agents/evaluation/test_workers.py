"""The benchmark in processes: the same episodes as in one."""

import dataclasses
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest

from mgdt_agents import load_agent
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.evaluation import BenchmarkConfig, play_episodes
from mgdt_agents.evaluation.episode_log import EpisodeLog
from mgdt_agents.evaluation.workers import play_in_processes
from mgdt_envs import AtariProtocol

CONFIG = BenchmarkConfig(
    games=("Breakout", "Riverraid"), episodes=3, protocols={"a": AtariProtocol(max_frames=80)}
)
AGENTS, PATHS = {"random": load_agent("random")}, {"random": ["random"]}


def test_processes_play_the_same(tmp_path):
    expected = set(play_episodes(AGENTS, CONFIG))
    log, seen = EpisodeLog(tmp_path), []
    played = list(play_in_processes(AGENTS, PATHS, CONFIG, 2, log, seen.append, traced=True))
    assert set(played) == set(seen) == expected
    assert len(played) == len(expected) == len(log) == 6
    # What is in the log needs no process.
    assert set(play_in_processes(AGENTS, PATHS, CONFIG, 2, log, traced=True)) == expected
    log.close()


def test_ctrl_c_is_the_first_process_s_alone():
    episodes = play_in_processes(AGENTS, PATHS, CONFIG, 2)
    next(episodes)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        # As from its first moment, when no code of this package could answer yet.
        (blocked,) = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{worker.pid}/status").read_text())
        assert int(blocked, 16) & 1 << signal.SIGINT - 1
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(episodes)) == 5
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_error_of_a_process_reaches_the_caller(tmp_path):
    with pytest.raises(AgentLoadError, match="Unknown agent"):
        list(play_in_processes(AGENTS, {"random": ["no such agent"]}, CONFIG, 1))


def test_place_of_a_fault_reaches_the_caller():
    config = dataclasses.replace(CONFIG, max_steps="many")  # which no step can be compared with
    with pytest.raises(RuntimeError, match=r"(?s)process of the benchmark:.*rollout\.py.*TypeErr"):
        list(play_in_processes(AGENTS, PATHS, config, 1))

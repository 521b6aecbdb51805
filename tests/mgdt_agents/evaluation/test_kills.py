"""A benchmark that is killed: it resumes to the results of an undisturbed one."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from mgdt_agents import load_agent, make_agent
from mgdt_agents.evaluation import BenchmarkConfig, Results, run_benchmark
from mgdt_agents.evaluation.episode_log import EpisodeLog
from mgdt_agents.evaluation.results import AgentInfo, Episode
from mgdt_agents.evaluation.verify import verify
from mgdt_envs import AtariProtocol
from tests.killing import check_kills

CONFIG = BenchmarkConfig(
    games=("Breakout",),
    episodes=3,  # so that one waits for a place
    protocols={"short": AtariProtocol(max_frames=120), "shorter": AtariProtocol(max_frames=40)},
    batch_size=2,
)


def bench(agents, folder: Path) -> None:
    """Play, or resume, in a child of this process."""
    code = 1
    gc.freeze()  # emulators of the parent have threads that are not here
    try:
        torch.set_num_threads(1)  # nor are those of OpenMP
        folder.mkdir(exist_ok=True)
        log = EpisodeLog(folder)
        run_benchmark(agents, CONFIG, log, traced=True).save(folder / "results.json")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def episodes_of(folder: Path) -> list[tuple]:
    """Return what tells the episodes of the log apart."""
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    return [(line["weights"], line["rules"], line["game"], line["seed"]) for line in lines]


def test_killed_at_random_moments(tmp_path):
    agents = {"random": load_agent("random"), "dt": make_agent("dt", "tiny", device="cpu")}
    expected, folder = tmp_path / "undisturbed", tmp_path / "killed"
    start = time.monotonic()
    if (child := os.fork()) == 0:
        bench(agents, expected)
    assert os.waitpid(child, 0)[1] == 0
    seconds = time.monotonic() - start
    draw, kills = random.Random(), 0
    for _ in range(5):
        if (child := os.fork()) == 0:
            bench(agents, folder)
        time.sleep(draw.uniform(0, seconds / 3))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert kills
    if (child := os.fork()) == 0:
        bench(agents, folder)
    assert os.waitpid(child, 0)[1] == 0
    assert (folder / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert len(episodes_of(folder)) == len(set(episodes_of(folder))) == 12
    assert len(verify(folder).episodes) == 12


def test_killed_while_it_writes_nothing_is_lost(tmp_path):
    episodes = [
        Episode(agent="a", game="Pong", seed=seed, score=seed, steps=7) for seed in range(3)
    ]
    results = Results(
        agents={"a": AgentInfo(kind="random")},
        games=("Pong",),
        protocols={"default": AtariProtocol()},
        seeds=range(3),
        deterministic=False,
        versions={"ale-py": "1"},
        episodes=tuple(episodes),
    )

    def begin(folder):
        """Leave two episodes and a half, and other results."""
        folder.mkdir()
        log = EpisodeLog(folder)
        for episode in episodes:
            log.append("weights", "rules", episode, None)
        log.close()
        log.path.write_bytes(log.path.read_bytes()[:-5])
        (folder / "results.json").write_text("{}")

    def command(folder):
        log = EpisodeLog(folder)
        assert len(log) >= 2
        assert (folder / "results.json").read_text()[-2:] in ("{}", "}\n")
        if log.find("weights", "rules", episodes[2]) is None:
            log.append("weights", "rules", episodes[2], None)
        log.close()
        results.save(folder / "results.json")

    # The log is cut and opened; the results are written aside and put in their place.
    assert check_kills(command, tmp_path, begin=begin) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_command_killed_at_ten_random_moments(tmp_path, workers):
    options = ["--games", "Breakout,Pong", "--episodes", "8", "--max-steps", "300", "--trace"]
    command = [sys.executable, "-m", "mgdt_cli.bench", "--agents", "dt,random", *options]
    command += ["--no-report", "--workers", str(workers), "--output"]
    subprocess.run([*command, tmp_path / "undisturbed"], check=True, capture_output=True)
    draw, kills = random.Random(), 0
    log = tmp_path / "killed" / "episodes.jsonl"
    # By what was played, not by the clock, which other programs on the machine upset.
    for episodes in sorted(draw.sample(range(32), 10)):
        child = subprocess.Popen(
            [*command, tmp_path / "killed"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while child.poll() is None and episodes > 0:
            if log.exists() and log.read_bytes().count(b"\n") >= episodes:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        child.kill()
        # The pipes end when its processes have ended, too.
        child.communicate()
        kills += child.returncode == -signal.SIGKILL
    assert kills >= 5
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True)
    expected, found = (
        Results.load(tmp_path / name / "results.json").to_dict()
        for name in ("undisturbed", "killed")
    )
    for agent in (*expected["agents"].values(), *found["agents"].values()):
        assert agent.pop("decisions_per_second") > 0  # which is a time
    assert found == expected
    names = episodes_of(tmp_path / "killed")
    assert len(names) == len(set(names)) == 32
    assert len(verify(tmp_path / "killed").episodes) == 32

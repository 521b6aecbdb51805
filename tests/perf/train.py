"""The trainer's windows/s on stores, at size "small".

Against those of commit 973a457, against a loop of gradient steps on batches that are in memory, and
against d3rlpy's DiscreteCQL where that is installed.

Each side has a process of its own, for training changes what the process does with memory, and
computes with one thread. What counts is the processor's time, which other programs disturb less.
"""

import dataclasses
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.replay import Part, Trace, expand
from mgdt_agents.replay.trace import BUNDLED
from mgdt_agents.training import TrainingConfig, train
from mgdt_agents.training.loop import autocast
from mgdt_agents.training.memory import keep_freed_memory
from mgdt_agents.training.optimizers import make_optimizer
from mgdt_agents.training.windows import open_replay
from tests.perf import before, d3rlpy_training
from tests.perf.timing import Figure

GAMES = ("Breakout", "Pong", "SpaceInvaders")
LIMIT_STEPS = 20_000  # of each trace
BATCH_SIZE = 64
STEPS = 10  # gradient steps of a round
ROUNDS = 5
# Of a round that is compared with batches in memory: starting takes a tenth of a step.
STORE_STEPS = 30
WARM_UPS = 1
CHECKPOINT_BATCH = 16  # of 10m; larger ones take longer between two checkpoints
CHECKPOINT_INTERVAL = 500


class Case(NamedTuple):
    """What is trained at size "small"."""

    kind: str
    """Of the agent."""
    changes: dict[str, Any]
    """Of the preset's config."""
    bf16: bool


# At 973a457 the target network chose the action too, which takes one pass less.
AS_BEFORE: dict[str, tuple[str, dict[str, Any]]] = {
    "train.small": ("dt", {"return_definition": "to_go", "action_tokens": True}),
    "train.cql_small": ("cql", {"double_q": False, "conservative_weight": 1.0}),
    "train.cql_small_double_q": ("cql", {"conservative_weight": 1.0}),
}


def _make(case: Case, replay: list[Path]) -> tuple[NetworkAgent, TrainingConfig]:
    """Return the agent to train, and how."""
    agent_class = NETWORK_AGENTS[case.kind]
    network = dataclasses.replace(agent_class.presets["small"], **case.changes)
    config = TrainingConfig(
        replay=tuple(replay),
        steps=STEPS,
        batch_size=BATCH_SIZE,
        precision="bf16" if case.bf16 else "fp32",
    )
    return agent_class(network, device="cpu"), config


def _make_trainer(case: Case, replay: list[Path]) -> Callable[[int], object]:
    """Return a function that has the package's trainer train for so many gradient steps."""
    agent, config = _make(case, replay)
    return lambda steps: train(agent, dataclasses.replace(config, steps=steps))


def _make_bare_loop(case: Case, replay: list[Path]) -> Callable[[int], object]:
    """Return a function that trains on batches in memory, and does nothing else."""
    keep_freed_memory()  # as the trainer does
    agent, config = _make(case, replay)
    sampler = open_replay(agent, config)
    agent.begin_training(sampler)
    batches = [sampler.sample(BATCH_SIZE, step) for step in range(STORE_STEPS)]

    def run(steps: int) -> None:
        optimizer = make_optimizer(agent.model, config)
        agent.model.train()
        for batch in batches[:steps]:
            optimizer.zero_grad()
            with autocast(agent, config):
                loss, _ = agent.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(agent.model.parameters(), config.max_gradient_norm)
            optimizer.step()

    return run


def _make_before(case: Case, replay: list[Path]) -> Callable[[int], object]:
    """Return a function that trains as at 973a457, with double Q-learning where the case has it."""
    double_q = case.kind == "cql" and case.changes.get("double_q", True)
    stores = [str(path) for path in replay]
    return before.make_training(case.kind, stores, BATCH_SIZE, case.bf16, double_q)


def _make_d3rlpy(case: Case, replay: list[Path]) -> Callable[[int], object]:
    """Return a function that trains with d3rlpy."""
    agent, config = _make(case, replay)
    return d3rlpy_training.make_training(agent.config, replay, BATCH_SIZE, config.learning_rate)


Maker = Callable[[Case, list[Path]], Callable[[int], object]]


def _side(connection: Connection, make: Maker, case: Case, replay: list[Path]) -> None:
    """Train whenever a number of steps is received, and send back the seconds that it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = make(case, replay)
    while steps := connection.recv():
        start = time.process_time()
        run(steps)
        connection.send(time.process_time() - start)


def _compare(
    peer: Maker, case: Case, replay: list[Path], steps: int = STEPS
) -> tuple[float, float]:
    """Return windows/s of the trainer, and how many times as many as of `peer`."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for make in (_make_trainer, peer):
        here, there = context.Pipe()
        process = context.Process(target=_side, args=(there, make, case, replay), daemon=True)
        process.start()
        there.close()  # so that a process that fails is noticed
        connections.append(here)
    seconds = np.zeros((WARM_UPS + ROUNDS, 2))
    for number in range(len(seconds)):
        for side in (0, 1) if number % 2 else (1, 0):
            connections[side].send(steps)
            seconds[number, side] = connections[side].recv()
    for connection in connections:
        connection.send(0)
    ours, theirs = seconds[WARM_UPS:].T
    return steps * BATCH_SIZE / float(np.median(ours)), float(np.median(theirs / ours))


def _checkpoint_share(replay: list[Path], folder: Path) -> float:
    """Return the share of a training's time that a checkpoint every 500 steps takes, at 10m."""

    def seconds(name: str, steps: int, interval: int) -> float:
        agent = NETWORK_AGENTS["dt"]("10m", device="cpu")
        config = TrainingConfig(
            replay=tuple(replay),
            steps=steps,
            batch_size=CHECKPOINT_BATCH,
            checkpoint_interval=interval,
            precision="fp32",
        )
        start = time.process_time()
        train(agent, config, output=folder / name)
        return time.process_time() - start

    torch.set_num_threads(1)
    seconds("first", 1, 1)  # whatever is slow once
    start, alone, saving = seconds("start", 1, 9), seconds("alone", 7, 9), seconds("saving", 7, 1)
    # All of them have the checkpoint of the last step.
    step, checkpoint = (alone - start) / 6, (saving - alone) / 6
    return checkpoint / (CHECKPOINT_INTERVAL * step + checkpoint)


def measure() -> dict[str, Figure]:
    """Return the figures `train.*`."""
    figures = {}
    with TemporaryDirectory(prefix="mgdt-perf-") as name:
        replay = []
        for trace in map(Trace.load, sorted(BUNDLED.glob("*.npz"))):
            if trace.game in GAMES:
                replay.append(Path(name) / trace.game)
                expand(trace, replay[-1], Part(limit_steps=LIMIT_STEPS), num_threads=1)
        for figure, (kind, changes) in AS_BEFORE.items():
            for precision in ("fp32", "bf16"):
                case = Case(kind, changes, precision == "bf16")
                speed, ratio = _compare(_make_before, case, replay)
                print(f"{figure}_{precision}: {ratio:.2f}, {speed:.0f} windows/s", flush=True)
                figures[f"{figure}_{precision}"] = Figure(
                    ratio, "x", f"{kind} trained as at 973a457, batch {BATCH_SIZE}, one thread"
                )
        for kind, figure in (("dt", "train.small_store"), ("cql", "train.cql_small_store")):
            _, ratio = _compare(_make_bare_loop, Case(kind, {}, False), replay, STORE_STEPS)
            figures[figure] = Figure(
                ratio, "x", f"{kind}'s gradient steps on batches in memory, fp32, one thread"
            )
        if importlib.util.find_spec("d3rlpy"):
            _, ratio = _compare(_make_d3rlpy, Case("cql", {}, False), replay)
            figures["train.cql_small_vs_d3rlpy"] = Figure(
                ratio, "x", f"d3rlpy's DiscreteCQL, same network, batch {BATCH_SIZE}, fp32"
            )
        else:
            print(f"No comparison with d3rlpy, which is not here: {d3rlpy_training.HOW_TO_INSTALL}")
        share = _checkpoint_share(replay, Path(name))
        figures["train.checkpoint_share_10m"] = Figure(
            share, "share", f"one every {CHECKPOINT_INTERVAL} steps of {CHECKPOINT_BATCH}, fp32"
        )
    return figures

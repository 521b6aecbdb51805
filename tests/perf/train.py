"""The trainer's windows/s on stores, at size "small".

Against those of commit 973a457, and against a loop of gradient steps on batches that are in memory.

Each side has a process of its own, for training changes what the process does with memory, and
computes with one thread. What counts is the processor's time, which other programs disturb less.
"""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
from tests.perf import before
from tests.perf.timing import Figure

GAMES = ("Breakout", "Pong", "SpaceInvaders")
LIMIT_STEPS = 20_000  # of each trace
BATCH_SIZE = 64
STEPS = 10  # gradient steps of a round
ROUNDS = 5
# At 973a457 the target network chose the action too, which takes one pass less.
AS_BEFORE: dict[str, dict[str, Any]] = {
    "dt": {"return_definition": "to_go"},
    "cql": {"double_q": False, "conservative_weight": 1.0},
}
WARM_UPS = 1
CHECKPOINT_BATCH = 16  # of 10m; larger ones take longer between two checkpoints
CHECKPOINT_INTERVAL = 500


def _make(kind: str, replay: list[Path], bf16: bool) -> tuple[NetworkAgent, TrainingConfig]:
    """Return the agent to train, and how."""
    agent_class = NETWORK_AGENTS[kind]
    network = dataclasses.replace(agent_class.presets["small"], **AS_BEFORE[kind])
    config = TrainingConfig(
        replay=tuple(replay),
        steps=STEPS,
        batch_size=BATCH_SIZE,
        precision="bf16" if bf16 else "fp32",
    )
    return agent_class(network, device="cpu"), config


def _make_trainer(kind: str, replay: list[Path], bf16: bool) -> Callable[[int], object]:
    """Return a function that has the package's trainer train for so many gradient steps."""
    agent, config = _make(kind, replay, bf16)
    return lambda steps: train(agent, dataclasses.replace(config, steps=steps))


def _make_bare_loop(kind: str, replay: list[Path], bf16: bool) -> Callable[[int], object]:
    """Return a function that trains on batches in memory, and does nothing else."""
    keep_freed_memory()  # as the trainer does
    agent, config = _make(kind, replay, bf16)
    sampler = open_replay(agent, config)
    agent.begin_training(sampler)
    batches = [sampler.sample(BATCH_SIZE, step) for step in range(STEPS)]

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


def _make_before(kind: str, replay: list[Path], bf16: bool) -> Callable[[int], object]:
    """Return a function that trains as at 973a457."""
    return before.make_training(kind, [str(path) for path in replay], BATCH_SIZE, bf16)


Maker = Callable[[str, list[Path], bool], Callable[[int], object]]


def _side(connection: Connection, make: Maker, kind: str, replay: list[Path], bf16: bool) -> None:
    """Train whenever a number of steps is received, and send back the seconds that it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = make(kind, replay, bf16)
    while steps := connection.recv():
        start = time.process_time()
        run(steps)
        connection.send(time.process_time() - start)


def _compare(peer: Maker, kind: str, replay: list[Path], bf16: bool) -> tuple[float, float]:
    """Return windows/s of the trainer, and how many times as many as of `peer`."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for make in (_make_trainer, peer):
        here, there = context.Pipe()
        process = context.Process(target=_side, args=(there, make, kind, replay, bf16), daemon=True)
        process.start()
        there.close()  # so that a process that fails is noticed
        connections.append(here)
    seconds = np.zeros((WARM_UPS + ROUNDS, 2))
    for number in range(len(seconds)):
        for side in (0, 1) if number % 2 else (1, 0):
            connections[side].send(STEPS)
            seconds[number, side] = connections[side].recv()
    for connection in connections:
        connection.send(0)
    ours, theirs = seconds[WARM_UPS:].T
    return STEPS * BATCH_SIZE / float(np.median(ours)), float(np.median(theirs / ours))


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
        for kind, figure in (("dt", "train.small"), ("cql", "train.cql_small")):
            for precision in ("fp32", "bf16"):
                speed, ratio = _compare(_make_before, kind, replay, precision == "bf16")
                print(f"{figure}_{precision}: {ratio:.2f}, {speed:.0f} windows/s", flush=True)
                figures[f"{figure}_{precision}"] = Figure(
                    ratio, "x", f"{kind} trained as at 973a457, batch {BATCH_SIZE}, one thread"
                )
            _, ratio = _compare(_make_bare_loop, kind, replay, False)
            figures[f"{figure}_store"] = Figure(
                ratio, "x", f"{kind}'s gradient steps on batches in memory, fp32, one thread"
            )
        share = _checkpoint_share(replay, Path(name))
        figures["train.checkpoint_share_10m"] = Figure(
            share, "share", f"one every {CHECKPOINT_INTERVAL} steps of {CHECKPOINT_BATCH}, fp32"
        )
    return figures

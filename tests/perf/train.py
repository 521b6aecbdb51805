"""The trainer's windows/s on stores against those of commit 973a457, at size "small".

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

from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.replay import Trace, expand
from mgdt_agents.replay.trace import BUNDLED
from mgdt_agents.training import TrainingConfig, train
from tests.perf import before
from tests.perf.timing import Figure

GAMES = ("Breakout", "Pong", "SpaceInvaders")
LIMIT_STEPS = 20_000  # of each trace
BATCH_SIZE = 64
STEPS = 10  # gradient steps of a round
ROUNDS = 5
# At 973a457 the target network chose the action too, which takes one pass less.
AS_BEFORE: dict[str, dict[str, Any]] = {
    "dt": {},
    "cql": {"double_q": False, "conservative_weight": 1.0},
}
WARM_UPS = 1


def _train(kind: str, replay: list[Path], bf16: bool) -> Callable[[int], None]:
    """Return a function that has the package's trainer train for so many gradient steps."""
    agent_class = NETWORK_AGENTS[kind]
    network = dataclasses.replace(agent_class.presets["small"], **AS_BEFORE[kind])
    agent = agent_class(network, device="cpu")

    def run(steps: int) -> None:
        config = TrainingConfig(
            replay=tuple(replay),
            steps=steps,
            batch_size=BATCH_SIZE,
            precision="bf16" if bf16 else "fp32",
        )
        train(agent, config)

    return run


def _side(connection: Connection, ours: bool, kind: str, replay: list[Path], bf16: bool) -> None:
    """Train whenever a number of steps is received, and send back the seconds that it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if ours:
        run = _train(kind, replay, bf16)
    else:
        run = before.make_training(kind, [str(path) for path in replay], BATCH_SIZE, bf16)
    while steps := connection.recv():
        start = time.process_time()
        run(steps)
        connection.send(time.process_time() - start)


def _compare(kind: str, replay: list[Path], bf16: bool) -> tuple[float, float]:
    """Return windows/s of the trainer, and how many times as many as at 973a457."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for ours in (True, False):
        here, there = context.Pipe()
        process = context.Process(target=_side, args=(there, ours, kind, replay, bf16), daemon=True)
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
    ours, peer = seconds[WARM_UPS:].T
    return STEPS * BATCH_SIZE / float(np.median(ours)), float(np.median(peer / ours))


def measure() -> dict[str, Figure]:
    """Return the figures `train.*`."""
    figures = {}
    with TemporaryDirectory(prefix="mgdt-perf-") as name:
        replay = []
        for trace in map(Trace.load, sorted(BUNDLED.glob("*.npz"))):
            if trace.game in GAMES:
                replay.append(Path(name) / trace.game)
                expand(trace, replay[-1], limit_steps=LIMIT_STEPS, num_threads=1)
        for kind, figure in (("dt", "train.small"), ("cql", "train.cql_small")):
            for precision in ("fp32", "bf16"):
                speed, ratio = _compare(kind, replay, precision == "bf16")
                print(f"{figure}_{precision}: {ratio:.2f}, {speed:.0f} windows/s", flush=True)
                figures[f"{figure}_{precision}"] = Figure(
                    ratio, "x", f"{kind} trained as at 973a457, batch {BATCH_SIZE}, one thread"
                )
    return figures

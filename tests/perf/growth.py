"""How cost grows with what is asked for: `make perf PERF_ARGS=growth` draws docs/growth.png.

Environment steps/s against games and environments, a store's opening and memory against its steps,
training against the size of the network, ranks and threads, decisions/s against the batch.

Each point has a process of its own, of which the most memory at once is told. What counts is the
processor's time of one thread, but for training on several cores, which is timed by the clock and
wants them for itself.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import blosc2
import numpy as np
import torch
from matplotlib import figure as plots
from matplotlib import ticker

from mgdt_agents.decision_transformer.agent import DecisionTransformerAgent
from mgdt_agents.replay import ReplayStore, ReplayWriter, WindowSampler
from mgdt_agents.replay.store import STEP_COLUMNS
from mgdt_agents.training import TrainingConfig, train
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv, suite
from tests.perf.timing import Figure

PICTURE = Path("docs/growth.png")
ENVIRONMENTS = (1, 4, 16, 64)
GAMES = (1, 4, 16)
STORE_STEPS = (50_000, 500_000, 5_000_000, 50_000_000)
EPISODE_STEPS = 1_000
TRAINED = {"small": 64, "10m": 16, "40m": 4}
"""Batch size by size of network."""
CORES = (1, 2)
GLOBAL_BATCH = 64
BATCHES = {"small": (1, 4, 16, 64), "10m": (1, 4, 16)}
"""Of decisions, by size of network."""
PANELS = (
    ("environments", "steps/s"),
    ("games", "steps/s"),
    ("batch", "decisions/s"),
    ("parameters", "windows/s"),
    ("parameters", "MB"),
    ("cores", "windows/s"),
    ("store steps", "seconds to open"),
    ("store steps", "MB"),
)


class Cost(NamedTuple):
    """What a point takes."""

    seconds: float
    """For each step, window or decision, or for the whole."""
    megabytes: float
    """The most memory of its process at once."""


def _megabytes() -> float:
    # getrusage would tell the parent's peak where that is higher.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _in_a_process(measure: Callable[[], float]) -> Cost:
    """Return what `measure`, which returns seconds, takes in a new process of one thread."""
    with Pool(1, torch.set_num_threads, (1,), context=multiprocessing.get_context("spawn")) as pool:
        return Cost(pool.apply(measure), pool.apply(_megabytes))


def _median_seconds(run: Callable[[], object], rounds: int = 5) -> float:
    """Return the processor's time of a run."""
    run()
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def step_environments(num_envs: int, num_games: int) -> float:
    """Return the seconds of an agent step of one environment."""
    envs = MultiGameAtariVectorEnv(num_envs, suite("atari57")[:num_games], num_threads=1)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(18, size=(max(1, 256 // num_envs), num_envs))

    def play() -> None:
        for row in actions:
            envs.step(row)

    seconds = _median_seconds(play) / actions.size
    envs.close()
    return seconds


def write_store(folder: Path, steps: int) -> Path:
    """Write a store of black frames, which take no room, in episodes of `EPISODE_STEPS`."""
    protocol = AtariProtocol()
    path = folder / str(steps)
    frames = np.zeros((EPISODE_STEPS, protocol.screen_size, protocol.screen_size), np.uint8)
    with ReplayWriter(path, "Pong", protocol, {"kind": "made up"}) as writer:
        writer.add_episode(frames, frames[:, 0, 0], frames[:, 0, 0], truncated=False)
    file = path / "frames.b2nd"
    written = blosc2.open(str(file))
    likeness = {"chunks": written.chunks, "blocks": written.blocks, "cparams": written.cparams}
    file.unlink()
    blosc2.zeros((steps, *frames.shape[1:]), np.uint8, urlpath=str(file), **likeness)
    for name, kind in STEP_COLUMNS.items():
        np.save(path / f"{name}.npy", np.zeros(steps, kind))
    starts = np.arange(0, steps, EPISODE_STEPS)
    ends = np.zeros(steps, bool)
    ends[EPISODE_STEPS - 1 :: EPISODE_STEPS] = True
    np.save(path / "terminated.npy", ends)
    np.save(path / "episode_starts.npy", starts)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"steps": steps, "episodes": len(starts)}))
    return path


def open_store(path: Path) -> float:
    """Return the seconds of opening a store and drawing a first batch."""
    start = time.process_time()
    WindowSampler([ReplayStore(path)]).sample(GLOBAL_BATCH, 0)
    return time.process_time() - start


def train_network(size: str, path: Path) -> float:
    """Return the seconds of a window."""
    agent = DecisionTransformerAgent(size, device="cpu")
    batch_size, steps = TRAINED[size], 2
    config = TrainingConfig(replay=(path,), batch_size=batch_size, steps=steps, precision="fp32")
    run = partial(train, agent, config)
    return _median_seconds(run, rounds=3) / steps / batch_size


def train_on_cores(ranks: int, threads: int, path: Path, folder: Path) -> float:
    """Return the seconds, by the clock, of a window of `mgdt-train` on ranks of some threads."""
    output = folder / f"{ranks}-{threads}"
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    training = ["--agent", "dt", "--size", "small", "--replay", str(path), "--steps", "40"]
    training += ["--batch-size", str(GLOBAL_BATCH), "--device", "cpu"]
    training += ["--precision", "fp32", "--log-interval", "10", "--output", str(output)]
    command = [sys.executable, *launch, "-m", "mgdt_cli.train", *training]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    lines = (output / "metrics.jsonl").read_text().splitlines()[1:]
    return 1 / float(np.median([json.loads(line)["windows_per_second"] for line in lines]))


def decide(size: str, batch: int) -> float:
    """Return the seconds of a decision."""
    agent = DecisionTransformerAgent(size, device="cpu")
    shape = (batch, *agent.observation_space.shape)
    frames = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    return _median_seconds(lambda: agent.predict(frames)) / batch


def measure() -> dict[str, Figure]:
    """Return the figures `growth.*`, and draw them."""
    curves: dict[str, dict[str, dict[float, Cost]]] = {}

    def add(subject: str, curve: str, place: float, run: Callable[[], float]) -> None:
        curves.setdefault(subject, {}).setdefault(curve, {})[place] = _in_a_process(run)

    for count in ENVIRONMENTS:
        add("environments", "one game", count, partial(step_environments, count, 1))
    for games in GAMES:
        add("games", "16 environments", games, partial(step_environments, 16, games))
    for size, batches in BATCHES.items():
        for batch in batches:
            add("batch", size, batch, partial(decide, size, batch))
    with TemporaryDirectory(prefix="mgdt-perf-") as name:
        folder = Path(name)
        for steps in STORE_STEPS:
            store = write_store(folder, steps)
            add("store steps", "opened", steps, partial(open_store, store))
        store = folder / str(STORE_STEPS[0])
        for size in TRAINED:
            model = DecisionTransformerAgent(size, device="meta").model
            parameters = sum(parameter.numel() for parameter in model.parameters())
            add("parameters", "trained", parameters, partial(train_network, size, store))
        for cores in CORES:
            ranks = partial(train_on_cores, cores, 1, store, folder)
            add("cores", "ranks of one thread", cores, ranks)
            threads = partial(train_on_cores, 1, cores, store, folder)
            add("cores", "threads of one process", cores, threads)
    draw(curves)
    return {
        f"growth.{subject}.{curve}.{place:g}: {unit}".replace(" ", "_"): Figure(
            shown(costs, unit), unit, "one thread"
        )
        for subject, unit in PANELS
        for curve, points in curves[subject].items()
        for place, costs in points.items()
    }


def shown(cost: Cost, unit: str) -> float:
    """Return a cost in the unit of a panel."""
    if unit == "MB":
        return cost.megabytes
    return 1 / cost.seconds if unit.endswith("/s") else cost.seconds


def draw(curves: dict[str, dict[str, dict[float, Cost]]]) -> None:
    """Draw costs, by subject, curve and place, into `PICTURE`."""
    picture = plots.Figure(figsize=(12, 5.5), dpi=90, layout="constrained")
    for axes, (subject, unit) in zip(picture.subplots(2, 4).flat, PANELS, strict=True):
        for curve, points in curves[subject].items():
            axes.plot(
                list(points), [shown(cost, unit) for cost in points.values()], "o-", label=curve
            )
        axes.set(xlabel=subject, ylabel=unit, xscale="log", ylim=(0, None))
        axes.set_xticks(sorted({place for points in curves[subject].values() for place in points}))
        axes.xaxis.set_major_formatter(ticker.EngFormatter(places=0, sep=""))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    picture.savefig(PICTURE, metadata={"Software": None})

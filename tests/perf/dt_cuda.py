"""The Decision Transformer on a GPU: decisions a second, and how much of the chip training uses.

A decision is `predict` of a model in bf16. A gradient step is that of `mgdt-train`, but for the
decoding of windows: bf16 autocast, frames from the host's memory, LAMB. Operations are counted by
PyTorch as they are computed, fewer than the plain model's. Without a GPU nothing is measured.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.replay import WindowBatch
from mgdt_agents.training import LAMB
from tests.perf.timing import Figure

SIZES = ("10m", "40m", "200m")
DECISION_ROWS = (1, 64)
TRAINING_BATCHES = (256, 128, 64, 32, 16)
"""Of which the first that fits into memory is taken."""

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200 NVL": 835,
    "H200": 989,
    "GB200": 2500,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "L4 ": 121,
}
"""bf16 without sparsity, by a part of the device's name, of which the first fits; from NVIDIA's
data sheets, and half of the figure where they give that with sparsity alone."""


def _peak_tflops(device_name: str) -> float | None:
    """Return the peak of a whole chip, None for a part of one or for one not in the table."""
    if "MIG" in device_name:
        return None
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in f"{device_name} "), None)


def _seconds(work: Callable[[], object], rounds: int = 5, calls: int = 10) -> float:
    """Return what a call takes, the median of the rounds after a warm-up."""
    seconds = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / calls)
    return float(np.median(seconds[1:]))


def _decisions(size: str, device: str, chip: str) -> Iterator[tuple[str, Figure]]:
    """Yield decisions a second, one row at once and many."""
    agent = DecisionTransformerAgent(size, device=device)
    agent.model.bfloat16().eval()
    for rows in DECISION_ROWS:
        frames = np.random.default_rng(0).integers(256, size=(rows, 4, 84, 84), dtype=np.uint8)
        _, state = agent.predict(frames)
        starts = np.zeros(rows, bool)
        seconds = _seconds(partial(agent.predict, frames, state, starts))
        figure = Figure(rows / seconds, "decisions/s", f"{chip}, batch {rows}")
        yield f"dt.decide_bf16_{size}_cuda_batch{rows}", figure


def _batch(batch_size: int) -> WindowBatch:
    """Return made-up windows."""
    rng = np.random.default_rng(0)
    shape = (batch_size, 4)
    return WindowBatch(
        frames=rng.integers(256, size=(*shape, 84, 84), dtype=np.uint8),
        actions=rng.integers(18, size=shape),
        rewards=rng.integers(-1, 2, size=shape).astype(np.float32),
        returns_to_go=rng.integers(-20, 101, size=shape).astype(np.float32),
        terminated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
        games=np.zeros(batch_size, np.int64),
        episode_ranks=rng.random(batch_size, np.float32),
    )


def _training(size: str, batch_size: int, device: str, chip: str) -> Iterator[tuple[str, Figure]]:
    """Yield windows and operations a second, and the share of the peak, eager and compiled."""
    agent = DecisionTransformerAgent(size, device=device)
    agent.model.train()
    optimizer = LAMB(agent.model.parameters(), lr=1e-4)
    batch = _batch(batch_size)

    def step() -> None:
        with torch.autocast(agent.device.type, torch.bfloat16):
            loss, _ = agent.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.model.parameters(), 1.0)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    teraflops = counter.get_total_flops() / 1e12
    peak = _peak_tflops(chip)
    for ending in ("", "_compiled"):
        if ending:
            agent.model.compile()
        try:
            rate = 1 / _seconds(step)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not ending:
                raise
            # There is no compiler here, for one.
            print(f"dt.train_*_{size}_cuda_compiled could not be measured: {error}", flush=True)
            return
        where = f"{chip}, batch {batch_size}"
        name = f"{size}_cuda{ending}"
        yield f"dt.train_windows_{name}", Figure(batch_size * rate, "windows/s", where)
        yield f"dt.train_tflops_{name}", Figure(teraflops * rate, "TFLOP/s", where)
        if peak is not None:
            share = Figure(100 * teraflops * rate / peak, "%", f"{peak} TFLOP/s of {where}")
            yield f"dt.train_mfu_{name}", share


def _training_that_fits(size: str, device: str, chip: str) -> dict[str, Figure]:
    """Return the figures of `_training` at the largest batch that the memory holds."""
    for batch_size in TRAINING_BATCHES:
        try:
            return dict(_training(size, batch_size, device, chip))
        except torch.OutOfMemoryError:
            print(f"{size}: batch {batch_size} does not fit into the memory of {chip}", flush=True)
    return {}


def measure() -> dict[str, Figure]:
    """Return the figures `dt.*_cuda*`, none without a GPU."""
    if not torch.cuda.is_available():
        return {}
    chip = torch.cuda.get_device_name()
    figures: dict[str, Figure] = {}
    for size in SIZES:
        figures |= dict(_decisions(size, "cuda", chip))
        figures |= _training_that_fits(size, "cuda", chip)
    return figures

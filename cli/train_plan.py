"""`mgdt-train --dry-run`: what a training would take."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.config_checks import check_interval
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.training import TrainingConfig, parallel
from mgdt_agents.training.plan import (
    Cost,
    cost_of,
    costs_of_stages,
    seconds_of_steps,
    stages_of,
)
from mgdt_agents.training.windows import open_replay
from mgdt_cli.console import print_table

PUBLISHED = {"10m": "DT-10M", "40m": "DT-40M", "200m": "DT-200M"}
PUBLISHED_STEPS, PUBLISHED_BATCH = 10_000_000, 2048  # Lee et al. 2022, section 4.1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanArguments:
    """GPUs that --dry-run tells the time of."""

    gpus: int = 8
    """How many."""
    peak: float = 989.0
    """TFLOP/s of one in bf16; 989 is NVIDIA's figure for an H100 SXM, without sparsity."""
    utilization: float = 0.3
    """Share of the peak that training reaches; what it is on a GPU, `make perf` measures."""

    def __post_init__(self) -> None:
        check_interval(self, "[1, inf)", "gpus")
        check_interval(self, "(0, inf)", "peak")
        check_interval(self, "(0, 1]", "utilization")


def print_plan(agent: NetworkAgent, config: TrainingConfig, gpus: PlanArguments) -> None:
    """Print what training `agent` takes, beside the published runs.

    Processes that `torchrun` started measure together, and the first one prints.
    """
    sampler = open_replay(agent, config)
    lengths = list(stages_of(agent, config).values())
    step = np.average(seconds_of_steps(agent, config, sampler), weights=lengths)
    if parallel.rank() != 0:
        return
    costs = list(costs_of_stages(agent, config).values())
    cost = dataclasses.replace(
        costs[0],
        flop=round(np.average([cost.flop for cost in costs], weights=lengths)),
        window_bytes=max(cost.window_bytes for cost in costs),
    )
    speed = cost.flop * config.batch_size / step  # FLOP/s of this machine
    part = config.batch_size // config.accumulate // parallel.world_size()
    epochs = config.steps * config.batch_size / sampler.num_windows
    print(
        f"Windows in the data: {sampler.num_windows:,}; {config.steps:,} steps of "
        f"{config.batch_size:,} draw each {epochs:,.1f} times.\n"
        f"Memory: {_bytes(cost.state_bytes)} for weights, gradients and optimizer, "
        f"{_bytes(cost.window_bytes * part)} for {part:,} windows at once.\n"
        f"This machine ({agent.device}): {step:.3g} s a step, {config.batch_size / step:,.0f} "
        f"windows/s, {speed / 1e12:.3g} TFLOP/s; measured now.\n"
        f"{gpus.gpus} GPUs: {gpus.utilization:.0%} of {gpus.peak:,.0f} TFLOP/s each; assumed."
    )
    table = Table(box=None)
    for name in ("Run", "Steps", "Batch", "Weights", "FLOP/step", "State"):
        table.add_column(name, justify="left" if name == "Run" else "right")
    table.add_column("Here", justify="right")
    table.add_column(f"{gpus.gpus} GPUs", justify="right")
    table.add_row("this", *_cells(cost, config.steps, config.batch_size, speed, gpus))
    transformer = NETWORK_AGENTS["dt"]
    for size, name in PUBLISHED.items():
        published = cost_of(transformer, transformer.presets[size], config)
        table.add_row(name, *_cells(published, PUBLISHED_STEPS, PUBLISHED_BATCH, speed, gpus))
    print_table(table)


def _cells(cost: Cost, steps: int, batch: int, speed: float, gpus: PlanArguments) -> list[str]:
    flop = cost.flop * batch
    on_gpus = gpus.gpus * gpus.peak * 1e12 * gpus.utilization
    return [
        f"{steps / 1e6:g}M" if steps >= 1_000_000 else f"{steps:,}",
        f"{batch:,}",
        f"{cost.parameters / 1e6:,.1f}M",
        f"{flop:.2g}",
        _bytes(cost.state_bytes),
        _duration(flop * steps / speed),
        _duration(flop * steps / on_gpus),
    ]


def _bytes(number: float) -> str:
    return f"{number / 2**20:,.0f} MiB" if number < 2**30 else f"{number / 2**30:,.1f} GiB"


def _duration(seconds: float) -> str:
    for name, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:,.0f} {name}" if number >= 10 else f"{number:.1f} {name}"
    return f"{seconds:.0f} s"

"""What a training takes, before it is begun: parameters, operations, memory, data, time."""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.linear import linear
from mgdt_agents.replay import WindowBatch, WindowSampler
from mgdt_agents.training.config import TrainingConfig
from mgdt_agents.training.loop import gradient_step, prepare
from mgdt_agents.training.windows import Parts, parts_of

STATE_BYTES = 16
"""Of a parameter: weight, gradient, and the optimizer's two averages, fp32 each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: of the trained network.
        flop: floating-point operations of a gradient step for one window, forward and backward;
            a multiplication and an addition are two.
        state_bytes: memory of weights, gradients and optimizer.
        window_bytes: memory of what the backward pass of one window needs.
    """

    parameters: int
    flop: int
    state_bytes: int
    window_bytes: int


def stages_of(agent: NetworkAgent, config: TrainingConfig) -> dict[int, int]:
    """Return how many gradient steps each stage of a training takes, by the step it begins at."""
    bounds = [min(step, config.steps) for step in (*agent.stages, config.steps)]
    return {first: last - first for first, last in pairwise(bounds) if first < last}


def cost_of(
    agent_class: type[NetworkAgent],
    network: Any,
    config: TrainingConfig,
    step: int = 0,
    **options: Any,
) -> Cost:
    """Return what a network costs after `step` gradient steps, without memory for it.

    Args:
        agent_class: of the agent.
        network: its config.
        config: how it is trained.
        step: gradient steps done; on them depends the stage of the training.
        options: of the agent on which the network depends: its games, its protocol.
    """
    with torch.device("meta"):
        agent = agent_class(network, device="meta", **options)
    agent.model.train()
    agent.after_step(step)
    batch = empty_batch(agent)
    saved: dict[int, int] = {}
    weights = {
        parameter.untyped_storage()._cdata
        for module in agent.training_modules().values()
        for parameter in module.parameters()
    }

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Views of weights are kept, too, and do not grow with the batch.
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = agent.loss(batch)
        loss.backward()
    parameters = sum(parameter.numel() for parameter in agent.model.parameters())
    others = sum(
        parameter.numel()
        for name, module in agent.training_modules().items()
        for parameter in module.parameters()
        if name != "model"
    )
    if config.average_decay:
        others += parameters
    return Cost(
        parameters=parameters,
        flop=counter.get_total_flops(),
        state_bytes=STATE_BYTES * parameters + 4 * others,
        window_bytes=sum(saved.values()),
    )


def costs_of_stages(agent: NetworkAgent, config: TrainingConfig) -> dict[int, Cost]:
    """Return what each stage of a training costs, by the step it begins at.

    Args:
        agent: what is trained; it has the games of the replay already.
        config: how.
    """
    options = {"games": agent.games, "protocol": agent.protocol}
    return {
        first: cost_of(type(agent), agent.config, config, first, **options)
        for first in stages_of(agent, config)
    }


def empty_batch(agent: NetworkAgent) -> WindowBatch:
    """Return a batch of one window of zeros."""
    side = agent.protocol.screen_size
    shape = 1, agent.windows["steps"] + agent.windows.get("future", 0)
    return WindowBatch(
        frames=np.zeros((*shape, side, side), np.uint8),
        actions=np.zeros(shape, np.int64),
        rewards=np.zeros(shape, np.float32),
        returns_to_go=np.zeros(shape, np.float32),
        terminated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
        games=np.zeros(1, np.int64),
        episode_ranks=np.zeros(1, np.float32),
    )


def seconds_of_steps(
    agent: NetworkAgent, config: TrainingConfig, sampler: WindowSampler
) -> list[float]:
    """Return how many seconds a gradient step of each stage takes here: the median of three.

    One more is to warm up. The agent's weights are another's afterwards, its games the replay's.
    """
    parts = Parts(sampler, config.batch_size, config.accumulate)
    agent.begin_training(sampler)
    state = prepare(agent, config)
    agent.model.train()
    medians = []
    for first in stages_of(agent, config):
        agent.after_step(first)
        steps, times = range(first, first + 4), []
        batches = parts_of(parts, steps, workers=0)
        for step in steps:
            started = time.perf_counter()
            gradient_step(state, config, step, parts, batches)
            if agent.device.type == "cuda":
                torch.cuda.synchronize(agent.device)
            times.append(time.perf_counter() - started)
        medians.append(float(np.median(times[1:])))
    return medians


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that a large product of matrices reaches here: the fastest of five."""
    matrix = torch.ones(1024, 1024, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        linear(matrix, matrix)  # by the way that networks take
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * len(matrix) ** 3 / min(seconds[1:])

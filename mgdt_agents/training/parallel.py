"""Several processes that train one agent, as `torchrun` starts them; nothing else knows of them.

Each process computes its share of every batch. By default each has all weights, and gradients are
averaged (DistributedDataParallel); with FSDP2, weights and optimizer state are shared out.
"""

import math
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate import DDP, replicate
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.devices import resolve_device
from mgdt_envs.errors import InvalidArgument

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other; the first may be playing."""

SECONDS_BETWEEN_QUESTIONS = 1.0
"""Whether to stop: an answer takes a round trip between all processes. `torchrun` kills them 30
seconds after it has told them to stop."""
MAX_STEPS_BETWEEN_QUESTIONS = 10
"""Of gradient steps, for a later one may take longer."""


def join(device: str) -> str:
    """Meet the other processes that `torchrun` started, if it did.

    Args:
        device: "auto", or what the user asked for.

    Returns:
        The device of this process.

    Raises:
        ValueError: for a device that is not there.
    """
    if "WORLD_SIZE" not in os.environ:
        return device
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    found = resolve_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=PATIENCE)
    return str(found)


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; 0 writes files and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all processes to come here."""
    if dist.is_initialized():
        dist.barrier()


def gather(value: Any) -> list[Any]:
    """Return the value of each process, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def means(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the means of the processes' figures."""
    rows = gather(dict(figures))
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in figures}


class StopQuestion:
    """Whether any process shall stop; with more than one, they ask at some steps only.

    All ask at the same steps, for they know how long the slowest took for the last ones.
    """

    def __init__(self) -> None:
        self._steps = self._left = 1  # between two questions, and up to the next
        self._asked = time.monotonic()

    def any_says(self, flag: bool) -> bool:
        """Return whether any process says so, after a step."""
        if world_size() == 1:
            return flag
        self._left -= 1
        if self._left:
            return False
        answers = gather((flag, time.monotonic() - self._asked))
        step_seconds = max(seconds for _, seconds in answers) / self._steps
        steps = SECONDS_BETWEEN_QUESTIONS / max(step_seconds, 1e-9)
        self._steps = self._left = round(min(max(steps, 1), MAX_STEPS_BETWEEN_QUESTIONS))
        self._asked = time.monotonic()
        return any(flag for flag, _ in answers)


def check_same(what: Mapping[str, Any]) -> None:
    """Make sure that all processes do the same.

    Raises:
        ValueError: naming what differs, in every process.
    """
    values = gather(what)
    if differing := [name for name in what if any(v[name] != values[0][name] for v in values)]:
        name = differing[0]
        raise InvalidArgument(
            f"Expected the same training in all processes, and {', '.join(differing)} differ: "
            f"process 0 has {values[0][name]}, others "
            f"{[v[name] for v in values if v[name] != values[0][name]]}. Give all of them the "
            "same command, and the same replay."
        )


def spread(module: nn.Module, *, fsdp: bool, trained: bool, in_stages: bool = False) -> None:
    """Spread a network over the processes, in place; with one process there is nothing to do.

    Args:
        module: the network; its class and its methods stay what they are.
        fsdp: share out its weights instead of copying them.
        trained: it has gradients to average.
        in_stages: a step may give a part of its weights no gradient.
    """
    if world_size() == 1:
        return
    if fsdp:
        for parameter in module.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 takes no other
        for block in module.modules():
            # Each block of a network is gathered when it is its turn.
            if isinstance(block, nn.ModuleList):
                for layer in block:
                    fully_shard(layer)
        fully_shard(module)
    else:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)
        if trained:
            replicate(module, find_unused_parameters=in_stages)


def average_gradients(module: nn.Module, on: bool) -> None:
    """Average gradients in the next backward pass, or only add them up in each process."""
    if isinstance(module, DDP | FSDPModule):
        module.set_requires_gradient_sync(on)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in one piece, if it was shared out."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_agent(agent: NetworkAgent, model: nn.Module) -> NetworkAgent:
    """Return an agent with the weights of `model` that this process can play and save alone.

    It is `agent` itself if its weights are here and are those of `model`.
    """
    shared_out = any(isinstance(p, DTensor) for p in model.parameters())
    if model is agent.model and not shared_out:
        return agent
    options = StateDictOptions(full_state_dict=True, cpu_offload=shared_out)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    if shared_out and rank() != 0:
        return agent  # the weights are gathered in process 0 alone
    return agent.changed(weights=weights)

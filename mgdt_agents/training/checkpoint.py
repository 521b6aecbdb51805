"""What training needs to resume, on disk: a folder for each checkpoint."""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from mgdt_agents.agent import NetworkAgent


def newest(folder: Path) -> int:
    """Return the gradient steps of the newest checkpoint in `folder`; 0 if there is none."""
    return max((step_of(path) for path in folder.glob("checkpoint-*")), default=0)


def step_of(checkpoint: Path) -> int:
    """Return the gradient steps that a checkpoint was made after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def save(
    folder: Path, step: int, agent: NetworkAgent, optimizer: torch.optim.Optimizer, log: Any
) -> None:
    """Write `checkpoint-<step>`, which gets its name when it is whole, and remove older ones.

    Args:
        folder: of the run.
        step: gradient steps done.
        agent: its networks are saved.
        optimizer: of its model.
        log: figures that are not in the log yet.
    """
    partial = folder / "checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    state = _state(agent, optimizer) | {"log": json.dumps(log)}
    with _single_process():
        dcp.save(state, checkpoint_id=partial, no_dist=True)
    partial.rename(folder / f"checkpoint-{step}")
    for older in folder.glob("checkpoint-*"):
        if step_of(older) < step:
            shutil.rmtree(older)


def load(folder: Path, step: int, agent: NetworkAgent, optimizer: torch.optim.Optimizer) -> Any:
    """Restore what `save` wrote for `step`, and return the figures that are not in the log yet."""
    state = _state(agent, optimizer) | {"log": ""}
    with _single_process():
        dcp.load(state, checkpoint_id=folder / f"checkpoint-{step}", no_dist=True)
    for name, module in agent.training_modules().items():
        module.load_state_dict(state[name])
    set_optimizer_state_dict(agent.model, optimizer, state["optimizer"])
    return json.loads(state["log"])


@contextmanager
def _single_process() -> Iterator[None]:
    """Keep torch from warning that it saves and loads without other processes: so it shall."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _state(agent: NetworkAgent, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    modules = {name: module.state_dict() for name, module in agent.training_modules().items()}
    return {**modules, "optimizer": get_optimizer_state_dict(agent.model, optimizer)}

"""What training needs to resume, on disk: a folder for each checkpoint."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.errors import TrainingError
from mgdt_agents.training import parallel
from mgdt_agents.training.metrics import Figures
from mgdt_agents.training.optimizers import complete_state


class TrainingState:
    """What a gradient step changes.

    Args:
        agent: what is trained.
        optimizer: of its model.
        average: the moving average of the model's weights, if one is kept.

    Attributes:
        figures: of the steps since the last line of the log.
        best: the lowest held-out loss so far.
        seen: training windows that the agent had seen before; None if that is not known.
    """

    def __init__(
        self, agent: NetworkAgent, optimizer: torch.optim.Optimizer, average: nn.Module | None
    ) -> None:
        self.agent, self.optimizer, self.average = agent, optimizer, average
        self.figures = Figures()
        self.best = math.inf
        self.seen = agent.trained_windows

    @property
    def played(self) -> nn.Module:
        """The network that is saved, measured and played."""
        return self.agent.model if self.average is None else self.average

    def networks(self) -> dict[str, nn.Module]:
        """Return all networks by name."""
        average = {} if self.average is None else {"average": self.average}
        return {**self.agent.training_modules(), **average}

    def to_save(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        networks = {name: network.state_dict() for name, network in self.networks().items()}
        complete_state(self.optimizer)
        optimizer = get_optimizer_state_dict(self.agent.model, self.optimizer)
        columns = parallel.gather(self.figures.values())
        figures = {
            name: [
                sum(values) / len(values)
                for values in zip(*(c[name] for c in columns), strict=True)
            ]
            for name in columns[0]
        }
        log = json.dumps({"figures": figures, "best": self.best, "seen": self.seen})
        return {**networks, "optimizer": optimizer, "log": log}

    def take(self, saved: dict[str, Any]) -> None:
        """Restore what `to_save` returned."""
        for name, network in self.networks().items():
            network.load_state_dict(saved[name])
        set_optimizer_state_dict(self.agent.model, self.optimizer, saved["optimizer"])
        log = json.loads(saved["log"])
        self.figures, self.best = Figures(log["figures"]), log["best"]
        self.seen = log.get("seen", self.seen)


class Checkpoints:
    """The checkpoints of a run, `checkpoint-<step>`, each of which gets its name when it is whole.

    Args:
        folder: of the run.
        keep: number of checkpoints to keep.
        in_background: write while training goes on; the state is copied first. It pays where
            the processor that writes is not the one that trains.
    """

    def __init__(self, folder: Path, keep: int, in_background: bool) -> None:
        self.folder, self.keep, self.in_background = folder, keep, in_background
        self.partial = folder / "checkpoint.partial"
        self._writing: tuple[int, Future[Any]] | None = None

    @property
    def newest(self) -> int:
        """The gradient steps of the newest checkpoint; 0 if there is none."""
        return max(self._steps(), default=0)

    def save(self, state: TrainingState, step: int) -> None:
        """Save the state after `step` gradient steps, and remove what is older than the last K.

        Raises:
            TrainingError: if it cannot be written; the checkpoints that are there stay.
        """
        self.finish()
        if parallel.rank() == 0:
            shutil.rmtree(self.partial, ignore_errors=True)
        parallel.barrier()
        content = state.to_save()
        with self._naming(), _single_process():
            if self.in_background:
                future = dcp.async_save(content, checkpoint_id=self.partial, no_dist=_is_alone())
                self._writing = step, future  # type: ignore[assignment]
                return
            dcp.save(content, checkpoint_id=self.partial, no_dist=_is_alone())
        self._name(step)

    def finish(self) -> None:
        """Wait for a checkpoint that is being written."""
        if self._writing is None:
            return
        step, future = self._writing
        self._writing = None
        with self._naming():
            future.result()
        self._name(step)

    def load(self, state: TrainingState, step: int) -> None:
        """Restore what was saved after `step` gradient steps, by any number of processes.

        Raises:
            TrainingError: if the checkpoint is damaged or of other shapes.
        """
        path = self.folder / f"checkpoint-{step}"
        content = state.to_save()
        try:
            with _single_process(), _without_tracebacks():
                dcp.load(content, checkpoint_id=path, no_dist=_is_alone())
            state.take(content)
        except (Exception, CheckpointException) as error:  # torch raises several kinds
            has_older = min(self._steps()) < step
            way_on = "Remove it to resume from an older one, or begin" if has_older else "Begin"
            raise TrainingError(
                f"Cannot resume from {path}, which is damaged or of another network: "
                f"{_cause(error)!r}. {way_on} another run."
            ) from error

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turn a failure to write into an error that says what to do, and leave no part."""
        try:
            yield
        except (OSError, RuntimeError, CheckpointException) as error:
            shutil.rmtree(self.partial, ignore_errors=True)
            whole = (
                "The last checkpoint is whole; the same command resumes from it when there is space"
                if self.newest
                else "It would have been the first; there is none to resume from"
            )
            raise TrainingError(
                f"Cannot write a checkpoint to {self.folder}, perhaps for want of space: "
                f"{_cause(error)}. {whole}."
            ) from error

    def _name(self, step: int) -> None:
        if parallel.rank() == 0:
            self.partial.rename(self.folder / f"checkpoint-{step}")
            for older in sorted(self._steps())[: -self.keep]:
                shutil.rmtree(self.folder / f"checkpoint-{older}")
        parallel.barrier()

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("checkpoint-") for path in self.folder.glob("checkpoint-*")]
        return [int(name) for name in names if name.isdigit()]


def _is_alone() -> bool:
    return parallel.world_size() == 1


def _cause(error: BaseException) -> BaseException:
    """Return what went wrong in the first process where something did."""
    failures = getattr(error, "failures", None)
    return next(iter(failures.values()))[0] if failures else error


@contextmanager
def _single_process() -> Iterator[None]:
    """Keep torch from warning that it saves and loads without other processes: so it shall."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Keep torch from printing what it tries with a damaged checkpoint before it gives up."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it speaks as the root
    try:
        yield
    finally:
        logging.disable(before)

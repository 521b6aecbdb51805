"""Play and learning in a folder: the loop, the log, checkpoints, and the agent's card."""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgdt_agents.errors import ReplayError, TrainingError
from mgdt_agents.markdown import markdown_table
from mgdt_agents.replay import files
from mgdt_agents.training.metrics import Log
from mgdt_envs import AtariProtocol

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_INTERVAL = 120.0  # seconds
LOG_INTERVAL = 10_000  # agent steps


class OnlineRun(ABC):
    """What plays and learns, and the folder in which what it learned is kept.

    Args:
        output: the folder.
        steps: agent steps of the whole run.
    """

    def __init__(self, output: Path, steps: int) -> None:
        self.output, self.steps = output, steps
        # Of the log's next line: when the last one was written, and what is known since.
        self._steps_logged = 0
        self._figures: list[dict[str, float]] = []

    @property
    @abstractmethod
    def steps_played(self) -> int:
        """Agent steps so far."""

    @abstractmethod
    def advance(self) -> dict[str, float]:
        """Play and learn for a moment, after which the run may be saved; return figures to log."""

    @abstractmethod
    def play_figures(self) -> dict[str, float | None]:
        """Return the number of episodes that have ended and the mean of the last returns."""

    @abstractmethod
    def save(self) -> None:
        """Write the agent, and what a run needs to resume."""

    def run(
        self, on_log: Callable[[dict[str, Any]], object], should_stop: Callable[[], bool]
    ) -> bool:
        """Play and learn to the end, or until told to stop.

        Args:
            on_log: called with the figures of about every 10,000 steps.
            should_stop: asked at each moment; where true, the run is saved.

        Returns:
            Whether all steps are played.

        Raises:
            TrainingError: if what it learns is no number any more; what was saved before stays.
        """
        saved = logged = time.monotonic()
        timed = self.steps_played
        with closing(Log(self.output, self.steps_played)) as log:
            while self.steps_played < self.steps and not should_stop():
                figures = self.advance()
                self.check_finite(figures)
                self._figures.append(figures)
                now = time.monotonic()
                steps = self.steps_played - self._steps_logged
                if steps >= LOG_INTERVAL or self.steps_played >= self.steps:
                    line = {
                        "step": self.steps_played,
                        **self.play_figures(),
                        **_means(self._figures),
                        "steps_per_second": round((self.steps_played - timed) / (now - logged)),
                    }
                    log.write(line)
                    on_log(line)
                    logged, timed = now, self.steps_played
                    self._steps_logged, self._figures = self.steps_played, []
                if now - saved >= CHECKPOINT_INTERVAL:
                    self.save()
                    saved = now
        self.save()
        return self.steps_played >= self.steps

    def check_finite(self, learned: Mapping[str, float | torch.Tensor]) -> None:
        """Check figures of learning, or weights that are about to be saved.

        Raises:
            TrainingError: naming the first that is not finite.
        """
        for name, value in learned.items():
            if not torch.as_tensor(value).isfinite().all():
                kept = (
                    "What was saved before is kept. " if (self.output / CHECKPOINT).exists() else ""
                )
                raise TrainingError(
                    f"{name} is not finite after {self.steps_played:,} agent steps. {kept}A lower "
                    "learning rate or a smaller max_gradient_norm may help, in another --output."
                )

    def save_checkpoint(self, learner: dict[str, Any]) -> None:
        """Write the checkpoint of the run.

        Args:
            learner: what learns, as tensors and plain types.

        Raises:
            TrainingError: if it cannot be written; the one that was there stays.
        """
        figures = [{name: float(it) for name, it in each.items()} for each in self._figures]
        state = {
            "steps_played": self.steps_played,
            "learner": learner,
            "log": {"steps": self._steps_logged, "figures": figures},
        }
        path = self.output / CHECKPOINT
        try:
            with files.written(path) as new:
                torch.save(state, new)
        except ReplayError as error:
            whole = "the last one is whole" if path.exists() else "it would have been the first"
            raise TrainingError(
                f"{error}. Make room, and give the same command again; {whole}."
            ) from error

    def resume_log(self, state: dict[str, Any]) -> None:
        """Take up the log where the checkpoint `state` left it."""
        log = state.get("log", {"steps": state["steps_played"], "figures": []})
        self._steps_logged, self._figures = log["steps"], log["figures"]


def load_checkpoint(output: Path) -> dict[str, Any] | None:
    """Return the checkpoint of a run; None if there is none.

    Raises:
        TrainingError: if it is damaged.
    """
    if not (output / CHECKPOINT).exists():
        return None
    try:
        state = torch.load(output / CHECKPOINT, "cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds
        raise unusable_checkpoint(output, error) from error
    fields = state if isinstance(state, dict) else {}
    for name, kind in (("steps_played", int), ("learner", dict)):
        if not isinstance(fields.get(name), kind):
            raise unusable_checkpoint(output, f"it has no {name}")
    return state


def unusable_checkpoint(output: Path, error: Exception | str) -> TrainingError:
    """Return the error that says why a run cannot resume from its checkpoint."""
    return TrainingError(
        f"Cannot resume from {output / CHECKPOINT}, which is damaged or of another network: "
        f"{error}. Choose another --output."
    )


def card(
    name: str,
    games: Sequence[str],
    steps: int,
    config: Any,
    protocol: AtariProtocol,
    note: str = "",
) -> str:
    """Return the text of `card.md`: what was learned, by what play."""
    together = f", {len(games)} games with one set of weights" if len(games) > 1 else ""
    parts = [
        f"# {name}",
        f"Learned by playing {', '.join(games)}{together}: {steps:,} agent steps in all when it is "
        "done; `metrics.jsonl` says how far it came. Not benchmarked; `mgdt-bench` does that.",
        *([note] if note else []),
        f"Protocol: {protocol.sheet()}.",
        markdown_table(["Setting", "Value"], dataclasses.asdict(config).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the moments that have it."""
    names = dict.fromkeys(name for each in figures for name in each)
    return {
        name: float(np.mean([each[name] for each in figures if name in each])) for name in names
    }

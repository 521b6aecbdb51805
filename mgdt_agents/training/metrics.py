"""The log of a run that can resume: `metrics.jsonl`, and TensorBoard's files beside it."""

import importlib.util
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

import torch
from torch import Tensor

from mgdt_agents.replay import files
from mgdt_envs.errors import InvalidArgument

T = TypeVar("T")
Curve = tuple[list[int], list[float]]
"""Steps, and a figure at each."""
LOG = "metrics.jsonl"


def open_log(path: Path, step: int) -> TextIO:
    """Open `path` to append to, less the lines after `step`, which are about to be repeated.

    Raises:
        ValueError: if the log is damaged.
    """
    size = 0
    if path.exists():
        for number, text in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            # A killed run may have left half a line.
            if not text.endswith(b"\n") or _parsed(text, path, number)["step"] > step:
                break
            size += len(text)
    file = path.open("a")
    file.truncate(size)
    return file


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return each figure's curve in the log of a run; none if it has no log.

    Raises:
        ValueError: if the log is damaged.
    """
    path = folder / LOG
    curves: dict[str, Curve] = {}
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, text in enumerate(lines, 1):
        if not text.endswith(b"\n"):
            break  # it is being written
        line = _parsed(text, path, number)
        step = line.pop("step")
        for name, value in line.items():
            if value is not None:  # no mean return yet
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def has_scores(folder: Path | None, step: int) -> bool:
    """Return whether the log of a run has the scores of play after `step` gradient steps."""
    curves = {} if folder is None else read_curves(folder)
    return any(name.startswith("score/") and step in steps for name, (steps, _) in curves.items())


def _parsed(text: bytes, path: Path, number: int) -> dict[str, Any]:
    """Return the figures in line `number` of the log `path`.

    Raises:
        ValueError: if there are none.
    """
    try:
        line = json.loads(text)
        if isinstance(line, dict) and all(
            isinstance(value, int | float | None) for value in (line["step"], *line.values())
        ):
            return line
    except (KeyError, ValueError):
        pass
    raise InvalidArgument(
        f"Expected figures of a step in line {number} of {path}, got "
        f"{text[:60].decode(errors='replace')!r}. Without that line the others can be read."
    )


class Log:
    """Lines of figures, in `metrics.jsonl` and, where it is installed, for TensorBoard.

    Args:
        folder: of the run; None keeps no log.
        step: gradient steps done; lines after it are about to be repeated.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._file = self._board = None
        if folder is None:
            return
        self._path = folder / LOG
        self._file = open_log(self._path, step)
        if importlib.util.find_spec("tensorboard"):
            # Imported only when there is one: it takes seconds.
            from torch.utils.tensorboard import SummaryWriter

            with files.naming(self._path):
                self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line, which has a "step".

        Raises:
            ReplayError: if it cannot be written.
        """
        if self._file is None:
            return
        with files.naming(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if self._board:
                for name, value in line.items():
                    if name != "step" and value is not None:
                        self._board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._file is None:
            return
        with files.naming(self._path):
            self._file.close()
            if self._board:
                self._board.close()


class Stopwatch:
    """How fast training is, and what it waits for.

    Args:
        windows: of a step.
        device: whose memory is told.
    """

    def __init__(self, windows: int, device: torch.device) -> None:
        self._windows, self._device = windows, device
        self._started, self._waited, self._steps = time.monotonic(), 0.0, 0

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield what `batches` yields, and measure how long it takes."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - started
            if batch is None:
                return
            yield batch

    def count_step(self) -> None:
        """Count a gradient step."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of what is no training, such as measuring and saving."""
        began = time.monotonic()
        yield
        self._started += time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Return the figures since the last time, and start anew."""
        elapsed = time.monotonic() - self._started
        figures = {
            "windows_per_second": round(self._steps * self._windows / elapsed, 1),
            "data_wait": round(self._waited / elapsed, 4),  # share of the time
            "memory": peak_memory(self._device),
        }
        self._started, self._waited, self._steps = time.monotonic(), 0.0, 0
        return figures


def peak_memory(device: torch.device) -> int:
    """Return the most bytes so far of a GPU, or of the process; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB, in bytes on macOS alone


class Figures:
    """Figures of the steps since the last line of the log.

    They stay on the device until they are asked for, so that a GPU need not wait at each step.

    Args:
        values: by name, of the steps that a checkpoint was made after.
    """

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        self._known = dict(values or {})
        self._new: list[dict[str, Tensor]] = []

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Take the scalars of a step."""
        self._new.append({name: figure.detach() for name, figure in figures.items()})

    def values(self) -> dict[str, list[float]]:
        """Return the figures by name, of the steps that have them."""
        if self._new:
            pairs = [pair for row in self._new for pair in row.items()]
            numbers = torch.stack([figure.float() for _, figure in pairs]).tolist()
            for (name, _), number in zip(pairs, numbers, strict=True):
                self._known.setdefault(name, []).append(number)
            self._new = []
        return self._known

    def take_means(self) -> dict[str, float]:
        """Return the mean of each figure, and forget what was taken."""
        means = {name: math.fsum(column) / len(column) for name, column in self.values().items()}
        self._known = {}
        return means

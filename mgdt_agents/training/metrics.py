"""The log of a run that can resume: `metrics.jsonl`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor


def open_log(path: Path, step: int) -> TextIO:
    """Open `path` to append to, less the lines after `step`, which are about to be repeated."""
    size = 0
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            # A killed run may have left half a line.
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            size += len(line)
    file = path.open("a")
    file.truncate(size)
    return file


class Figures:
    """Figures of the steps since the last line of the log.

    They stay on the device until they are asked for, so that a GPU need not wait at each step.

    Args:
        values: by name, of the steps that a checkpoint was made after.
    """

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        """Begin with `values`."""
        self._known = dict(values or {})
        self._new: list[dict[str, Tensor]] = []

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Take the scalars of a step."""
        self._new.append({name: figure.detach() for name, figure in figures.items()})

    def values(self) -> dict[str, list[float]]:
        """Return the figures of all steps by name."""
        if self._new:
            rows = [torch.stack([row[name].float() for row in self._new]) for name in self._new[0]]
            columns = torch.stack(rows).tolist()
            for name, column in zip(self._new[0], columns, strict=True):
                self._known[name] = [*self._known.get(name, []), *column]
            self._new = []
        return self._known

    def take_means(self) -> dict[str, float]:
        """Return the mean of each figure, and forget what was taken."""
        means = {name: math.fsum(column) / len(column) for name, column in self.values().items()}
        self._known = {}
        return means

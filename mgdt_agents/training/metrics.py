"""The log of a run that can go on: `metrics.jsonl`."""

import json
from pathlib import Path
from typing import TextIO


def open_log(path: Path, step: int) -> TextIO:
    """Open `path` to append to, less the lines after `step`, which are about to be repeated."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # A killed run may have left half a line.
    whole = [line for line in lines if line.endswith("\n")]
    path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
    return path.open("a")

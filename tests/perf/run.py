"""Measure speed and size as ratios to a peer: `make perf`.

Prints a table, and writes `perf.json`: {"name": {"value": ..., "unit": ..., "peer": ...}}.
Figures of subjects that are not measured this time stay in the file.
"""

import importlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

SUBJECTS = (
    "env",
    "replay",
    "collect",
    "impala",
    "bench",
    "wall",
    "train",
    "dt",
    "dt_cuda",
    "growth",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What to measure."""

    subjects: Annotated[tuple[str, ...], tyro.conf.Positional] = SUBJECTS
    """Modules of this folder."""
    output: Path = Path("perf.json")
    """File to write."""


def main() -> None:
    """Measure the subjects one after the other."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if unknown := sorted(set(arguments.subjects) - set(SUBJECTS)):
        raise SystemExit(f"Unknown subjects {unknown}; there are {', '.join(SUBJECTS)}.")
    console = Console()
    figures = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    table = Table("figure", "value", "unit", "against")
    for subject in arguments.subjects:
        with console.status(f"Measuring {subject}"):
            measured = importlib.import_module(f"tests.perf.{subject}").measure()
        for name, figure in measured.items():
            table.add_row(name, f"{figure.value:.3g}", figure.unit, figure.peer)
            figures[name] = figure._asdict()
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(table)
    console.print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

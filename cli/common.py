"""What the commands share: arguments, errors, progress."""

import re
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mgdt_envs.errors import InvalidArgument, MGDTError

# Everything but results goes to stderr, so that stdout can be piped.
stderr = Console(stderr=True)

Names = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME[,NAME...]",
        instance_from_str=lambda args: tuple(
            name for arg in args for name in arg.split(",") if name
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)] if value else [],
    ),
]
"""Names, separated by commas or by spaces."""


def parse_steps(text: str) -> int:
    """Return the number that `text` says, such as 1500000, 1.5m or 200k.

    Raises:
        ValueError: if it says none, or one below 1.
    """
    match = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?)([km]?)", text.strip().lower())
    number = match and round(float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]])
    if not number:
        raise InvalidArgument(
            f"Expected a number of steps such as 500000, 500k or 1.5m, got {text!r}"
        )
    return number


Steps = Annotated[
    int,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STEPS",
        instance_from_str=lambda args: parse_steps(args[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A number of steps; 200k and 1.5m are understood."""


def progress_bar() -> Progress:
    """Return a progress bar on stderr whose tasks have a field `note`."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=stderr,
    )


def say(message: str) -> None:
    """Print a line on stderr as it is: unstyled and unwrapped, so that paths can be copied."""
    stderr.print(message, markup=False, highlight=False, soft_wrap=True)


def run(command: Callable[[], None]) -> None:
    """Run a command; the user's mistakes end it with their message instead of a traceback."""
    try:
        command()
    except MGDTError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted")


def fail(message: str) -> NoReturn:
    """End the process with a message on stderr and exit status 2."""
    stderr.print(Text.assemble(("error:", "bold red"), f" {message}"), soft_wrap=True)
    sys.exit(2)

"""What the commands share: arguments, help, errors, progress."""

import dataclasses
import errno
import io
import platform
import re
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args

import tyro
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from mgdt_agents.acting_settings import split_settings
from mgdt_envs.errors import InvalidArgument, MGDTError, OutputExists, importing

T = TypeVar("T")

# Everything but results goes to stderr, so that stdout can be piped.
stderr = Console(stderr=True, emoji=False)

# Errors of the operating system that only the user can mend. Any other, such as a missing file
# that no argument named, is a fault of the code and keeps its traceback.
USERS_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
MAX_WIDTH = 1000
"""Columns of a table that no terminal shows."""
SECONDS_BETWEEN_LINES = 30
"""Of progress where stderr is not a terminal."""


def parse_number(text: str) -> int:
    """Return the whole number that `text` says, such as 1500000, 1_500_000, 1.5m or 200k.

    Raises:
        ValueError: if it says none.
    """
    match = re.fullmatch(r"(-?\d+(?:_\d+)*(?:\.\d+)?)([km]?)", text.strip().lower())
    number = match and Fraction(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]]
    if number is None or number.denominator != 1:
        raise InvalidArgument(f"Expected a whole number such as 8000, 10k or 1.5m, got {text!r}")
    return int(number)


def parse_steps(text: str) -> int:
    """Return the number of steps that `text` says, such as 1500000, 1.5m or 200k.

    Raises:
        ValueError: if it says none, or one below 1.
    """
    try:
        number = parse_number(text)
    except InvalidArgument:
        number = 0
    if number < 1:
        raise InvalidArgument(
            f"Expected a number of steps such as 500000, 500k or 1.5m, got {text!r}"
        )
    return number


def _write_number(number: int) -> str:
    for unit, size in ("m", 1_000_000), ("k", 1_000):
        if number >= 10_000 and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def _number(metavar: str, parse: Callable[[str], int]) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda args: parse(args[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [_write_number(value)],
    )


def _several(metavar: str, kind: type = str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{metavar}[,{metavar}...]",
        instance_from_str=lambda args: tuple(
            kind(name) for arg in args for name in _split_at_commas(arg)
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))] if value else [],
    )


def _split_at_commas(text: str) -> list[str]:
    """Return the parts of `text`, unless it is the name of a file that has commas."""
    if "," in text and Path(split_settings(text)[0]).exists():
        return [text]
    return [name for part in text.split(",") if (name := part.strip())]


Names = Annotated[tuple[str, ...], _several("NAME")]
"""Names, separated by commas or by spaces."""

Games = Annotated[tuple[str, ...], _several("GAME")]
"""Games or suites, separated by commas or by spaces."""

Paths = Annotated[tuple[Path, ...], _several("PATH", Path)]
"""Paths, separated by commas or by spaces."""

Steps = Annotated[int, _number("STEPS", parse_steps)]
"""A number of steps; 200k and 1.5m are understood."""

# The same forms for configurations of other packages, whose fields have plain types.
_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _plain_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if info.type is int:
        return _number("INT", parse_number)
    if info.type_origin is tuple and get_args(info.type) in ((str, ...), (Path, ...)):
        kind = get_args(info.type)[0]
        return _several("PATH" if kind is Path else "NAME", kind)
    return None


@_REGISTRY.primitive_rule
def _optional_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read `X | None` as X: an option is left out rather than set to None."""
    kinds = get_args(info.type)
    if info.type_origin not in (Union, types.UnionType) or len(kinds) != 2:
        return None
    if kinds[1] is not type(None):
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [] if value is None else spec.str_from_instance(value),
    )


_is_asking_others = False


@_REGISTRY.struct_rule
def _struct_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Leave defaults that say nothing out of the help; else tyro's own rules hold."""
    global _is_asking_others
    if _is_asking_others:
        return None
    _is_asking_others = True
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _is_asking_others = False
    if not isinstance(spec, StructConstructorSpec):
        return None
    hint = tyro.conf.arg(help_behavior_hint=_say_default)
    return dataclasses.replace(
        spec,
        fields=tuple(
            dataclasses.replace(field, type=Annotated[field.type, hint])  # type: ignore[arg-type]
            for field in spec.fields
        ),
    )


def _say_default(default: str) -> str:
    return "" if default in ("", "None", "False") else f"(default: {default})"


def parse(kind: Any, description: str | None) -> Any:
    """Return the arguments of the command line as `kind`, a dataclass or a union of them.

    `--help` prints `description` and ends the process, `--version` the versions.
    """
    name = Path(sys.argv[0]).stem
    prog = name if name.startswith("mgdt-") else f"mgdt-{name}"
    if sys.argv[1:] == ["--version"]:
        libraries = [f"{library} {version(library)}" for library in ("ale-py", "torch")]
        python = platform.python_version()
        print(f"{prog} {version('mgdt')} (Python {python}, {', '.join(libraries)})")
        sys.exit()
    return tyro.cli(
        kind,
        prog=prog,
        description=description,
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=_REGISTRY,
    )


@contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM by `handler`, as long as the block runs."""
    before = [
        (number, signal.signal(number, handler)) for number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        yield
    finally:
        for number, other in before:
            signal.signal(number, other)


def check_plot(path: Path) -> None:
    """Raise before anything is read if the picture cannot be drawn."""
    if path.exists():
        raise OutputExists(f"{path} exists; choose another --plot or remove it first.")
    if path.suffix != ".png":
        raise InvalidArgument(f"Expected --plot to name a .png file, got {path}.")
    with importing("--plot needs matplotlib", "plot"):
        import matplotlib  # noqa: F401


def draw_panels(path: Path, names: Sequence[str], draw: Callable[[Any, str], None]) -> None:
    """Draw a picture of a panel for each name, one below the other.

    Args:
        path: the picture; see `check_plot`.
        names: of the panels.
        draw: called with matplotlib's axes of a panel and its name.
    """
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(7, 3 * len(names)), layout="constrained")
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(len(names), 1, number)
        draw(axes, name)
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


class ProgressBar(Progress):
    """Progress on stderr, whose tasks have a field `note`; a line now and then if no terminal."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            # The only one that gives way on a narrow terminal.
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=stderr,
            disable=not stderr.is_terminal,
            expand=True,
            speed_estimate_period=300,
        )
        self._last_lines: dict[TaskID, float] = {}

    def add_task(self, description: str, *args: Any, **options: Any) -> TaskID:
        """Add a task; its `note` is shown behind its bar."""
        options.setdefault("note", "")
        task_id = super().add_task(description, *args, **options)
        self._last_lines[task_id] = time.monotonic()
        return task_id

    def update(
        self,
        task_id: TaskID,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        **options: Any,
    ) -> None:
        """Say how far a task is; never further than its total, which steps of many may pass."""
        task = self.tasks[task_id]
        was_finished = task.finished
        if advance is not None:
            completed = task.completed + advance
        limit = task.total if total is None else total
        if completed is not None and limit is not None:
            completed = min(completed, limit)
        super().update(task_id, total=total, completed=completed, **options)
        if self.disable and completed is not None:
            now = time.monotonic()
            ends = task.finished and not was_finished
            if ends or now - self._last_lines[task_id] >= SECONDS_BETWEEN_LINES:
                self._last_lines[task_id] = now
                say(_line(task))

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Say that a task came further."""
        self.update(task_id, advance=advance)


def _line(task: Task) -> str:
    total = "" if task.total is None else f" of {task.total:,.0f}"
    parts = [f"{task.completed:,.0f}{total}"]
    if task.finished:
        parts.append(f"{_duration(task.finished_time)} in all")
    elif task.time_remaining is not None:
        parts.append(f"{_duration(task.time_remaining)} left")
    parts += [task.fields["note"]] if task.fields["note"] else []
    return f"{task.description}: {', '.join(parts)}"


def _duration(seconds: float | None) -> str:
    minutes, seconds = divmod(round(seconds or 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def describe_play(figures: Mapping[str, Any]) -> str:
    """Return a line of the log of an agent that plays and learns as a note."""
    notes = [f"{figures['steps_per_second']:,} steps/s"]
    for name, mean in figures.items():
        kind, _, game = name.partition("/")
        if kind == "mean_return" and mean is not None:
            notes.append(f"{game or 'mean return'} {mean:,.1f}")
    return ", ".join(notes)


def say(message: str) -> None:
    """Print a line on stderr as it is: unstyled and unwrapped, so that paths can be copied."""
    stderr.print(message, markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table on stdout, with names as they are: what looks like rich's markup is none.

    A terminal gets what it has room for, a pipe all of it.
    """
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        wide = console.options.update(max_width=MAX_WIDTH)
        console.width = max(console.width, Measurement.get(console, wide, table).maximum)
    console.print(table)


def run(command: Callable[[], None]) -> None:
    """Run a command, and end the process as a command ends.

    What a user can mend (`MGDTError`, `USERS_ERRORS`) ends it with a message and status 2, Ctrl-C
    with status 130. A reader of stdout that leaves early, such as `head`, ends it without a word,
    with status 1. Every other error is a fault of the code and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and "utf" not in sys.stdout.encoding.lower():
        sys.stdout.reconfigure(errors="replace")  # "×" in ASCII
    try:
        command()
        sys.stdout.flush()
    except MGDTError as error:
        fail(str(error))
    except BrokenPipeError:
        if not _has_lost_its_reader(sys.stdout):
            raise
        # What is still in the buffer must not be written when Python ends.
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        if error.errno not in USERS_ERRORS:
            raise
        where = "" if error.filename is None else f": {error.filename}"
        fail(f"{error.strerror}{where}")
    except KeyboardInterrupt:
        fail("interrupted", status=130)


def _has_lost_its_reader(stream: Any) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # 0 waits for errors alone
    except (AttributeError, OSError):
        return False  # not a file
    return bool(poll.poll(0))


def fail(message: str, *, status: int = 2) -> NoReturn:
    """End the process with a message on stderr and an exit status."""
    stderr.print(Text.assemble(("error:", "bold red"), f" {message}"), soft_wrap=True)
    sys.exit(status)

"""What the commands print: progress, tables, pictures, errors."""

import errno
import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

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

from mgdt_envs.errors import InvalidArgument, MGDTError, OutputExists, importing

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
HANGUP = getattr(signal, "SIGHUP", None)
"""Of a terminal that was closed; Windows has none."""
MAX_WIDTH = 1000
"""Columns of a table that no terminal shows."""
SECONDS_BETWEEN_LINES = 30
"""Of progress where stderr is not a terminal."""


@contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Answer Ctrl-C, SIGTERM and a closed terminal by `handler`, as long as the block runs.

    What a closed terminal sends, often twice, is answered once, and never as the second signal;
    under nohup, it is not answered at all.
    """
    answered: list[int] = []
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def answer(number: int, frame: Any) -> None:
        for terminal in terminals:
            if not os.isatty(terminal):  # any more; printing there would be an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        if number == HANGUP and answered:
            return
        answered.append(number)
        handler(number, frame)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
        numbers.append(HANGUP)
    before = [(number, signal.signal(number, answer)) for number in numbers]
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

    figure = Figure(figsize=(10, 3 * len(names)), layout="constrained")
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(len(names), 1, number)
        draw(axes, name)
        # Beside the panel: names of runs are long, and would hide curves.
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
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

"""What the commands share: arguments, help, errors, progress."""

import errno
import io
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tyro
from rich.console import Console

from mgdt_cli import common
from mgdt_cli.common import Games, Paths, ProgressBar, Steps, parse, parse_number, parse_steps
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Fields of plain types, as configurations outside the commands have them."""

    interval: int = 10_000
    """Steps between two lines."""
    replay: tuple[str, ...] = ()
    """Folders."""
    workers: int | None = None
    """Processes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of each form."""

    stores: tyro.conf.Positional[Paths] = ()
    """Stores."""
    games: Games = ()
    """Games."""
    limit_steps: Steps | None = None
    """Steps at most."""
    output: Path | None = None
    """Folder."""
    store: bool = False
    """Write it."""
    plain: Plain = field(default_factory=Plain)


@pytest.fixture
def read(monkeypatch):
    def read(*arguments):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mgdt-it", *arguments])
        return parse(Arguments, "What it does.\n\nExamples:\n    mgdt-it a b\n    mgdt-it c")

    return read


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500000", 500_000), ("1_000", 1000), ("200k", 200_000), ("1.5M", 1_500_000), (" 2m ", 2e6)],
)
def test_parse_steps(text, steps):
    assert parse_steps(text) == steps
    assert parse_number("-" + text.strip()) == -steps


@pytest.mark.parametrize("text", ["", "0", "-5", "0.1", "2.5", "1.5g", "many", "1__0", "m"])
def test_no_number_of_steps(text):
    with pytest.raises(ValueError, match=r"such as 500000, 500k or 1.5m, got"):
        parse_steps(text)


def test_one_form_of_arguments(read, tmp_path):
    assert read() == Arguments()
    comma = read("a,b", "--games", "Pong,Boxing", "--plain.replay", "a,b", "--limit-steps", "2k")
    space = read("a", "b", "--games", "Pong", "Boxing", "--plain.replay", "a", "b")
    assert comma.stores == space.stores == (Path("a"), Path("b"))
    assert comma.games == space.games == ("Pong", "Boxing")
    assert comma.plain.replay == space.plain.replay == ("a", "b")
    assert comma.limit_steps == 2000
    assert read("--plain.interval", "1.5k", "--plain.workers", "3").plain == Plain(
        interval=1500, workers=3
    )
    (tmp_path / "a,b").mkdir()
    assert read(str(tmp_path / "a,b")).stores == (tmp_path / "a,b",)


def test_help(read, capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: mgdt-it ")
    assert "\nExamples:\n    mgdt-it a b\n    mgdt-it c\n" in text
    for empty in ("None", "False", "default: )", "[[", "/somewhere", "--no-store"):
        assert empty not in text
    assert "--limit-steps STEPS" in text
    assert "--plain.replay NAME[,NAME...]" in text
    assert "(default: 10k)" in text


@pytest.mark.parametrize(
    "arguments", [("--limit-steps", "abc"), ("--plain.interval", "abc"), ("--plain.workers", "abc")]
)
def test_wrong_number(read, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        read(*arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert f"parsing {arguments[0]}: Expected a" in printed
    assert "got 'abc'" in " ".join(printed.replace("│", "").split())
    for internal in ("lambda", "NoneType", "invalid literal"):
        assert internal not in printed


@pytest.mark.parametrize("command", ["bench", "collect", "replay", "train"])
def test_help_and_version_of_command(command, monkeypatch, capsys):
    main = __import__(f"mgdt_cli.{command}", fromlist=["main"]).main
    monkeypatch.setattr(sys, "argv", [f"/bin/mgdt-{command}", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert text.count(f"\n    mgdt-{command} ") >= 3  # examples
    assert "None" not in text
    assert "default: )" not in text
    monkeypatch.setattr(sys, "argv", [f"/bin/mgdt-{command}", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    assert capsys.readouterr().out.startswith(f"mgdt-{command} 0.")


def raising(error):
    def command():
        raise error

    return command


def test_errors_of_the_user(capsys):
    common.run(lambda: None)
    for error, message, status in (
        (InvalidArgument("Expected [a] b."), "error: Expected [a] b.\n", 2),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "error: No space left on device\n", 2),
        (PermissionError(13, "Permission denied", "/x"), "error: Permission denied: /x\n", 2),
        (KeyboardInterrupt(), "error: interrupted\n", 130),
    ):
        with pytest.raises(SystemExit) as caught:
            common.run(raising(error))
        assert caught.value.code == status
        assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("could not broadcast"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        OSError("of a library"),
        BrokenPipeError(errno.EPIPE, "of a worker"),
    ],
)
def test_faults_of_the_code_keep_their_traceback(error):
    with pytest.raises(type(error)):
        common.run(raising(error))


def test_output_that_is_not_writable(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        common.run(lambda: (tmp_path / "file" / "run").mkdir(parents=True))
    assert capsys.readouterr().err == f"error: Not a directory: {tmp_path / 'file' / 'run'}\n"


def python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", f"from mgdt_cli.common import *\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("write", ["print(line)", "Console().print(line)"])
def test_reader_that_leaves_early(write):
    code = (
        "def command():\n"
        "    for number in range(100_000):\n"
        "        line = str(number) * 9\n"
        f"        {write}\n"
        "run(command)"
    )
    with python(code) as process:
        assert process.stdout.readline() == b"000000000\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_stdout_without_unicode():
    with python("run(lambda: print('84×84'))", PYTHONIOENCODING="ascii") as process:
        assert process.stdout.read() == b"84?84\n"
        assert process.stderr.read() == b""


@pytest.fixture
def console(monkeypatch):
    def console(**options):
        replaced = Console(file=io.StringIO(), **options)
        monkeypatch.setattr(common, "stderr", replaced)
        return replaced.file

    return console


def test_bar_on_a_narrow_terminal(console):
    file = console(width=80, force_terminal=True, color_system=None)
    with ProgressBar() as progress:
        task = progress.add_task("KungFuMaster", total=2_000_000)
        note = "12,345 steps/s, mean return 12345.6"
        progress.update(task, completed=1_000_000, note=note)
        progress.refresh()
        last = file.getvalue().splitlines()[-1]
        assert "KungFuMaster ━" in last
        assert "1000000/2000000" in last
        assert ":" in last.split("2000000")[1]  # the time left
        assert len(last) <= 80 + len("\r\x1b[2K")


def test_no_count_beyond_the_total(console):
    console(force_terminal=True)
    with ProgressBar() as progress:
        task = progress.add_task("Pong", total=8000)
        progress.update(task, completed=8192)
        assert progress.tasks[task].completed == 8000
        task = progress.add_task("Pong", total=8000)
        progress.advance(task, 9000)
        assert progress.tasks[task].completed == 8000


def test_lines_without_a_terminal(console, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    file = console()
    with ProgressBar() as progress:
        task = progress.add_task("Pong", total=100_000)
        for number in range(1, 101):
            now[0] += 1
            progress.update(task, completed=1000 * number, note="9 steps/s")
        progress.update(task, completed=101_000)
    first, second, third, last = file.getvalue().splitlines()
    assert first.startswith("Pong: 30,000 of 100,000, ")
    assert first.endswith("9 steps/s")
    assert second.startswith("Pong: 60,000")
    assert third.startswith("Pong: 90,000")
    assert last.startswith("Pong: 100,000 of 100,000, 0:00:0")

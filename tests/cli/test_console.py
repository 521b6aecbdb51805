"""What the commands print: errors, progress, and to whom."""

import errno
import io
import os
import pty
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from mgdt_cli import console as module
from mgdt_cli.console import ProgressBar, handling_signals, run
from mgdt_envs.errors import InvalidArgument


def raising(error):
    def command():
        raise error

    return command


def test_errors_of_the_user(capsys):
    run(lambda: None)
    for error, message, status in (
        (InvalidArgument("Expected [a] b."), "error: Expected [a] b.\n", 2),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "error: No space left on device\n", 2),
        (PermissionError(13, "Permission denied", "/x"), "error: Permission denied: /x\n", 2),
        (KeyboardInterrupt(), "error: interrupted\n", 130),
    ):
        with pytest.raises(SystemExit) as caught:
            run(raising(error))
        assert caught.value.code == status
        assert capsys.readouterr().err == message


def test_a_closed_terminal_is_answered_once_and_not_under_nohup():
    answered = []
    with handling_signals(lambda number, frame: answered.append(number)):
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
    assert answered == [signal.SIGHUP, signal.SIGTERM]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with handling_signals(lambda number, frame: answered.append(number)):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(answered) == 2


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_nothing_is_printed_on_a_closed_terminal(number):
    here, there = os.pipe()
    script = (
        "import os\n"
        "from mgdt_cli.console import ProgressBar, handling_signals, say\n"
        "answered, answers = os.pipe()\n"
        "def stop(number, frame):\n"
        "    say('Stopping')\n"
        "    os.write(answers, b'.')\n"
        "with handling_signals(stop), ProgressBar() as progress:\n"
        "    progress.add_task('a', total=2)\n"
        f"    os.write({there}, b'begun')\n"
        "    os.read(answered, 1)\n"
        "say('Stopped')\n"
    )
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=terminal, stderr=terminal, pass_fds=[there]
    )
    os.close(terminal)
    assert os.read(here, 5) == b"begun"
    os.close(master)
    process.send_signal(number)
    assert process.wait() == 0
    os.close(here)
    os.close(there)


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
        run(raising(error))


def test_output_that_is_not_writable(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        run(lambda: (tmp_path / "file" / "run").mkdir(parents=True))
    assert capsys.readouterr().err == f"error: Not a directory: {tmp_path / 'file' / 'run'}\n"


def python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", f"from mgdt_cli.console import *\n{code}"],
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
        monkeypatch.setattr(module, "stderr", replaced)
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
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
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

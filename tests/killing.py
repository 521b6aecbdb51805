"""Kill a command before every operation on files, and find what it leaves for the next run."""

import gc
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Audit events of Python that change files or folders; `open` counts if it may write.
EVENTS = {
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def kill_before_operation(number: int, folder: Path) -> None:
    """End this process, as a kill does, before its operation `number` on files below `folder`."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in EVENTS and not (event == "open" and arguments[2] & WRITING):
            return
        path = "" if isinstance(arguments[0], int) else os.fsdecode(arguments[0])
        # Names without a folder are below an open one, as shutil.rmtree removes them.
        if not path or (os.path.isabs(path) and not path.startswith(str(folder))):
            return
        if seen == number:
            os._exit(137)
        seen += 1

    sys.addaudithook(hook)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that is below a folder: files' bytes, None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def check_kills(
    command: Callable[[Path], object],
    folder: Path,
    *,
    begin: Callable[[Path], object] = lambda output: None,
    every: int = 1,
    moments: int = 0,
) -> int:
    """Kill `command` in many places, run it again each time, and compare what it made.

    It runs in children of this process, which should not have begun threads.

    Args:
        command: writes below the folder that it is given.
        folder: an empty folder to work in; the command gets one in it, each time of one name.
        begin: puts into that folder what is there before the command runs for the first time.
        every: kill before every operation on files whose number is a multiple of that.
        moments: kill at so many random moments, too.

    Returns:
        How often it was killed.

    Raises:
        AssertionError: if the second run fails, or ends in other bytes than an undisturbed one.
    """
    output = folder / "output"

    def clear() -> None:
        if output.exists():
            shutil.rmtree(output)
        begin(output)

    def run(prepare: Callable[[], object] = lambda: None) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        gc.freeze()  # emulators of this process have threads that are not in the child
        try:
            prepare()
            command(output)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def finish(what: str) -> None:
        assert wait(run()) == 0, f"the command failed after a kill {what}"
        found = contents(folder)
        differing = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
        assert found == expected, f"after a kill {what}, other files: {sorted(differing)}"
        clear()

    gc.collect()
    clear()
    start = time.monotonic()
    assert wait(run()) == 0, "the undisturbed command failed"
    seconds = time.monotonic() - start
    expected = contents(folder)
    clear()
    number = kills = 0
    while (code := wait(run(partial(kill_before_operation, number, folder)))) != 0:
        assert code == 137, f"the command failed before operation {number}"
        finish(f"before operation {number}")
        number, kills = number + every, kills + 1
    assert contents(folder) == expected
    clear()
    for _ in range(moments):
        child = run()
        time.sleep(random.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        kills += wait(child) == -signal.SIGKILL
        finish("at a random moment")
    return kills

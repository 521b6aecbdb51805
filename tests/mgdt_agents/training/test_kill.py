"""A run that is killed, checkpoint writing included, repeats the losses of an undisturbed one."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from mgdt_cli import train

MEASURED = {"windows_per_second", "data_wait", "memory"}


def command(store, output, steps):
    return [
        *(sys.executable, "-m", "mgdt_cli.train", "--agent", "cql", "--size", "tiny"),
        *("--replay", store, "--steps", steps, "--batch-size", 8, "--device", "cpu"),
        *("--log-interval", 1, "--checkpoint-interval", 3, "--output", output),
        *("--average-decay", 0.9, "--heldout-fraction", 0.3, "--heldout-interval", 5),
        *("--heldout-windows", 8),
    ]


def log_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in MEASURED} for line in lines]


def start(arguments):
    return subprocess.Popen(
        list(map(str, arguments)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def finish(process):
    _, printed = process.communicate()
    assert process.returncode == 0, printed


KILLED_WHILE_WRITING = """
import os, signal
from mgdt_agents.training import checkpoint
from mgdt_cli import train

save = checkpoint.dcp.save

def die_in_the_second(content, checkpoint_id, **options):
    save(content, checkpoint_id=checkpoint_id, **options)
    if (checkpoint_id.parent / "checkpoint-3").exists():
        # What a process that dies while it writes leaves.
        for path in checkpoint_id.glob("*.distcp"):
            path.write_bytes(path.read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.dcp.save = die_in_the_second
train.main()
"""


def test_run_killed_while_it_writes_a_checkpoint_has_the_same_losses(
    readable_store, tmp_path, monkeypatch
):
    arguments = [str(part) for part in command(readable_store, tmp_path / "killed", 8)]
    process = start([sys.executable, "-c", KILLED_WHILE_WRITING, *arguments[3:]])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint*")) == [
        "checkpoint-3",
        "checkpoint.partial",
    ]
    for name in ("killed", "straight"):
        arguments = map(str, command(readable_store, tmp_path / name, 8)[3:])
        monkeypatch.setattr(sys, "argv", ["mgdt-train", *arguments])
        train.main()
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "straight")
    assert not (tmp_path / "killed" / "checkpoint.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_killed_run_has_the_losses_of_an_undisturbed_one(readable_store, tmp_path, kills):
    steps = 30 * kills
    finish(start(command(readable_store, tmp_path / "straight", steps)))
    arguments = command(readable_store, tmp_path / "killed", steps)
    draws = random.Random(0)
    moments = []
    for _ in range(kills):
        process = start(arguments)
        log = tmp_path / "killed" / "metrics.jsonl"
        size = log.stat().st_size if log.exists() else 0
        # From the first new line on, some seconds of start-up lie behind.
        while process.poll() is None and (log.stat().st_size if log.exists() else 0) <= size:
            time.sleep(0.002)
        time.sleep(draws.uniform(0, 0.4))
        process.kill()
        process.communicate()
        lines = log.read_text().splitlines() if log.exists() else []
        writing = (tmp_path / "killed" / "checkpoint.partial").exists()
        moments.append((len(lines), writing))
    finish(start(arguments))
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "straight")
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "straight" / "model.safetensors"
    ).read_bytes()
    assert any(writing for _, writing in moments), moments

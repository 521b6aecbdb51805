"""A run that is killed, checkpoint writing included, repeats the losses of an undisturbed one."""

import json
import random
import subprocess
import sys
import time

import pytest

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

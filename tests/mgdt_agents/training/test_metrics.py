"""The log of a run, read again."""

import runpy
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from mgdt_agents.errors import ReplayError
from mgdt_agents.training import metrics
from mgdt_agents.training.metrics import Log, Stopwatch, read_curves
from mgdt_envs.errors import InvalidArgument


def test_curves_of_a_log(tmp_path):
    assert read_curves(tmp_path) == {}
    log = Log(tmp_path, 0)
    lines = [{"step": 1, "loss": 2.0, "mean_return": None}, {"step": 2, "loss": 1.0}]
    for line in [*lines, {"step": 2, "heldout_loss": 3.0}]:
        log.write(line)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # it is being written
    assert read_curves(tmp_path) == {"loss": ([1, 2], [2.0, 1.0]), "heldout_loss": ([2], [3.0])}


@pytest.mark.parametrize(
    "damaged", ["{", "7", '{"loss": 1.0}', '{"step": 2, "loss": "low"}', "\xe9"]
)
def test_damaged_log(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 2.0}}\n{damaged}\n', encoding="latin-1")
    with pytest.raises(InvalidArgument, match=f"line 2 of {path}"):
        read_curves(tmp_path)
    with pytest.raises(InvalidArgument, match=f"line 2 of {path}"):
        Log(tmp_path, 5)


def test_full_disk_is_named(tmp_path):
    log = Log(tmp_path, 0)
    log._file = open("/dev/full", "w")  # noqa: SIM115
    for write in (lambda: log.write({"step": 1}), log.close):
        with pytest.raises(
            ReplayError, match=r"Cannot write .*metrics\.jsonl, perhaps for want of"
        ):
            write()


def test_what_is_no_training_is_no_time_of_it(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Stopwatch(4, torch.device("cpu"))
    watch.count_step()
    now = 2.0
    with watch.paused():
        now = 100.0
    assert watch.take()["windows_per_second"] == 2.0


@pytest.mark.parametrize(("platform", "num_bytes"), [("linux", 7 << 10), ("darwin", 7)])
def test_memory_of_the_process(monkeypatch, platform, num_bytes):
    used = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=7))
    monkeypatch.setattr(metrics, "resource", used)
    monkeypatch.setattr(sys, "platform", platform)
    assert metrics.peak_memory(torch.device("cpu")) == num_bytes


def test_system_that_does_not_say_what_memory_was_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    peak_memory = runpy.run_path(metrics.__file__)["peak_memory"]
    assert peak_memory(torch.device("cpu")) == 0

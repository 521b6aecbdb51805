"""Commands on replay, killed: the same command then ends in the same bytes, with nothing beside."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mgdt_agents.evaluation import agent_trace
from mgdt_agents.replay import ReplayStore, Trace, card_page, expand, trace_collection
from mgdt_agents.replay.formats import import_recording, importing
from mgdt_cli.replay import (
    CardArguments,
    ExpandArguments,
    PublishArguments,
    TraceArguments,
    replay,
)
from mgdt_envs import MultiGameAtariVectorEnv
from tests.killing import check_kills, contents
from tests.mgdt_agents.replay.formats.dqn_replay_ring import CAPACITY, RingWriter, open_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

# Before every operation on files and at random moments, or some of it in every run of the tests.
EXTENTS = [
    pytest.param({"every": 6}, id="some"),
    pytest.param({"every": 1, "moments": 10}, id="all", marks=pytest.mark.slow),
]
every_extent = pytest.mark.parametrize("extent", EXTENTS)


@pytest.fixture(autouse=True)
def small_flushes(monkeypatch):
    monkeypatch.setattr(importing, "FLUSH_STEPS", 25)


@pytest.fixture
def bucket(tmp_path):
    """DQN Replay's files on another machine."""
    ring = RingWriter(tmp_path / "source")
    ring.play_to(CAPACITY + 30)
    ring.log_final()
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(tmp_path / "source"), "/bucket", recursive=True)
    yield "memory://bucket"
    filesystem.rm("/bucket", recursive=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kills").mkdir()
    return tmp_path / "kills"


def import_to(bucket, output, limit_steps=None):
    output.mkdir(exist_ok=True)
    run = open_run(bucket, output)
    import_recording(run, output / "Pong-1", limit_steps=limit_steps)


@every_extent
def test_import(bucket, folder, extent):
    assert check_kills(partial(import_to, bucket), folder, **extent) >= 4


@every_extent
def test_extended_import(bucket, folder, extent):
    """The shorter store makes room for the longer one."""
    begin = partial(import_to, bucket, limit_steps=30)
    assert check_kills(partial(import_to, bucket), folder, begin=begin, **extent) >= 4


@every_extent
def test_expand(truncated_recording, tmp_path, folder, extent):
    trace = tmp_path / "Breakout.npz"
    truncated_recording.trace.save(trace)

    def command(output: Path) -> None:
        replay(ExpandArguments(traces=(trace,), output=output, threads=1))

    assert check_kills(command, folder, **extent) >= 4


@pytest.mark.slow
def test_expand_in_processes(recording, tmp_path):
    """The first process is killed; those that it started notice, and the same command finishes."""
    traces = [tmp_path / f"{name}.npz" for name in ("First", "Second")]
    for path in traces:
        recording.trace.save(path)
    command = [sys.executable, "-m", "mgdt_cli.replay", "expand", *map(str, traces)]
    command += ["--jobs", "2", "--output", str(tmp_path / "replay")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (tmp_path / "replay" / "First.partial").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    subprocess.run(command, check=True)
    for path in traces:
        expand(recording.trace, tmp_path / "expected" / path.stem)
    assert contents(tmp_path / "replay") == contents(tmp_path / "expected")


@every_extent
def test_trace(folder, extent, monkeypatch):
    short = partial(MultiGameAtariVectorEnv, max_episode_steps=3)
    monkeypatch.setattr(agent_trace, "MultiGameAtariVectorEnv", short)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)

    def command(output: Path) -> None:
        games = ("Pong", "Breakout")
        replay(TraceArguments(agent="random", games=games, steps=10, num_envs=1, output=output))

    assert check_kills(command, folder, **extent | {"every": 1}) >= 5
    command(folder / "last")
    assert Trace.load(folder / "last" / "Pong.npz").actions.shape == (10, 1)


@every_extent
def test_export(breakout_store, folder, extent, monkeypatch):
    pytest.importorskip("minari")
    from mgdt_agents.replay.formats.minari import export_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "output"))

    def command(output: Path) -> None:
        output.mkdir(exist_ok=True)
        export_minari(ReplayStore(breakout_store), "mgdt/deep/breakout-v0", limit_steps=400)

    assert check_kills(command, folder, **extent) >= 2


@every_extent
def test_cards_and_publish(truncated_recording, tmp_path, folder, extent, monkeypatch):
    # To draw takes most of the time, and is not what is killed.
    for module in (card_page, trace_collection):
        monkeypatch.setattr(module, "draw", lambda trace: b"a picture")
    paths = (tmp_path / "Breakout.npz", tmp_path / "Second.npz")
    for path in paths:
        truncated_recording.trace.save(path)

    def command(output: Path) -> None:
        replay(CardArguments(traces=paths, output=output / "cards"))
        replay(PublishArguments(target=str(output / "collection"), traces=paths[:1]))
        replay(PublishArguments(target=str(output / "collection"), traces=paths))

    assert check_kills(command, folder, **extent) >= 8


def test_kills_are_counted(tmp_path):
    """Every kind of operation is one, and what a kill leaves is found."""

    def command(output: Path) -> None:
        output.mkdir(exist_ok=True)
        (output / "new").write_text(str(np.pi))
        (output / "new").rename(output / "file")
        (output / "rest").mkdir()
        (output / "rest").rmdir()

    with pytest.raises(AssertionError, match="the command failed after a kill before operation 4"):
        check_kills(command, tmp_path)

"""`make quickstart`: its commands, on small traces and for few steps."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from mgdt_agents import load_agent
from mgdt_agents.replay import ReplayStore, trace_collection
from mgdt_agents.replay.splits import BOUNDS, split_range
from mgdt_agents.replay.trace import BUNDLED, Trace
from mgdt_cli import replay, train

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def commands():
    """Return the words of the target's commands."""
    text = MAKEFILE.read_text().replace("\\\n", " ")
    recipe = re.search(r"^quickstart:.*\n((?:\t.*\n)+)", text, re.M)
    assert recipe is not None
    return [shlex.split(line.replace("$(BIN)/", "")) for line in recipe[1].splitlines()]


@pytest.fixture
def bundled(recording, tmp_path, monkeypatch):
    """Traces of two games whose medium split is all that is played."""
    (tmp_path / "traces").mkdir()
    recording.trace.save(tmp_path / "traces" / "Breakout.npz")
    # It is of Breakout, too: what matters here is the names.
    dataclasses.replace(recording.trace).save(tmp_path / "traces" / "Pong.npz")
    monkeypatch.setattr(trace_collection, "BUNDLED", tmp_path / "traces")
    monkeypatch.setattr("mgdt_agents.replay.splits.WINDOW", 1)
    monkeypatch.setitem(BOUNDS, "medium", (-np.inf, np.inf))


def test_commands(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expand, learn = commands()
    assert expand[:2] == ["mgdt-replay", "expand"]
    expand[expand.index("--environments") + 1] = "2"
    expand += ["--jobs", "1"]  # other processes would not know what is patched here
    monkeypatch.setattr(sys, "argv", expand)
    replay.main()
    for name in ("Pong-medium", "Breakout-medium"):
        assert ReplayStore(tmp_path / "replay" / name).meta["source"]["split"] == "medium"
    assert learn[0] == "mgdt-train"
    learn[learn.index("--steps") + 1] = "2"
    learn[learn.index("--size") + 1] = "tiny"
    learn[learn.index("--batch-size") + 1] = "4"
    monkeypatch.setattr(sys, "argv", learn)
    train.main()
    assert load_agent(tmp_path / "runs" / "quickstart", device="cpu").games == ("Breakout",)


def test_the_traces_give_the_split():
    (games,) = (words[words.index("--games") + 1] for words in commands() if "--games" in words)
    for name in games.split(","):
        trace = Trace.load(BUNDLED / f"{name}.npz")
        play = (trace.game, trace.protocol, {}, trace.episode_return)
        assert len(split_range("medium", *play, what=name)) > 50

"""mgdt-replay trace: what it writes, and what it refuses."""

import signal
import sys
from functools import partial

import pytest

from mgdt_agents.evaluation import agent_trace
from mgdt_agents.replay import Trace
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_cli import replay
from mgdt_envs import MultiGameAtariVectorEnv


@pytest.fixture(autouse=True)
def sigint():
    """The command's handler ends with the test."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(*arguments, agent="random"):
        command = ["mgdt-replay", "trace", "--agent", agent, "--output", tmp_path / "traces"]
        command += ["--num-envs", 2, "--threads", 1, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        replay.main()

    return run


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    """Episodes end after three steps."""
    short = partial(MultiGameAtariVectorEnv, max_episode_steps=3)
    monkeypatch.setattr(agent_trace, "MultiGameAtariVectorEnv", short)


def test_games(run, tmp_path, capsys):
    run("--games", "Pong,Breakout", "--steps", "0.04k", "--seed", 3)
    for name in ("Pong", "Breakout"):
        trace = Trace.load(tmp_path / "traces" / f"{name}.npz")
        assert (trace.game, trace.actions.shape, trace.seeds.tolist()) == (name, (20, 2), [3, 4])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Breakout.npz: 40 steps, 10 whole episodes; " in printed.err


def test_bundled_agent(run, tmp_path):
    run("--games", "Pong", "--steps", 6, "--deterministic", "--device", "cpu", agent="dt")
    source = Trace.load(tmp_path / "traces" / "Pong.npz").source
    assert (source["agent"], source["deterministic"]) == ("dt", True)


def interrupted_after(steps, monkeypatch):
    """Press Ctrl-C once each after so many steps."""
    step = TraceRecorder.step

    def stepped(self, actions):
        result = step(self, actions)
        if len(self.actions) in steps:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(TraceRecorder, "step", stepped)


def test_interruption_saves_what_was_played(run, tmp_path, monkeypatch, capsys):
    interrupted_after({5}, monkeypatch)
    run("--games", "Pong,Breakout", "--steps", 100)
    assert "once more to stop without saving" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["Pong.npz"]
    assert len(Trace.load(tmp_path / "traces" / "Pong.npz").actions) == 5


def test_less_than_an_episode(refused, tmp_path):
    message = refused("--games", "Pong", "--steps", 4)
    assert "No episode of Pong ended within the 4 steps that were played" in message
    assert list((tmp_path / "traces").iterdir()) == []
    assert "or 0 for one a core, got -2" in refused("--games", "Pong", "--threads", -2)


def test_second_interruption_stops_at_once(run, refused, tmp_path, monkeypatch):
    def press_twice(self, actions):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TraceRecorder, "step", press_twice)
    assert "interrupted" in refused("--games", "Pong", "--steps", 100, status=130)
    assert list((tmp_path / "traces").iterdir()) == []


def test_refused_before_anything_is_played(refused, tmp_path):
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "Pong.npz").write_text("mine")
    assert "Pong.npz exists" in refused("--games", "Breakout,Pong", "--steps", 4)
    assert "Unknown agent 'randon'" in refused("--games", "Boxing", agent="randon")
    assert "Did you mean 'Boxing'" in refused("--games", "Boxng")
    assert "such as 500000" in refused("--games", "Boxing", "--steps", "0")
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["Pong.npz"]
    assert (tmp_path / "traces" / "Pong.npz").read_text() == "mine"

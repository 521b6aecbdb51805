"""mgdt-bench: what it plays, prints, writes and refuses."""

import csv
import io
import json
import subprocess
import sys

import pytest

from mgdt_agents import load_agent, make_agent
from mgdt_agents.evaluation import BenchmarkConfig, run_benchmark
from mgdt_agents.random_agent import RandomAgent
from mgdt_cli import bench
from mgdt_envs import AtariProtocol


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-bench", *map(str, arguments)])
        bench.main()

    return run


def summary(score):
    return {
        "mean": score,
        "interval": [score - 1, score + 1],
        "human_normalised": 0.5,
        "scores": [score],
        "lengths": [10],
    }


@pytest.fixture
def played(monkeypatch):
    """What the command asks to be played; nothing is."""
    calls = []

    def run_nothing(agents, config, on_step):
        calls.append((agents, config))
        return {
            "protocol": config.protocol.to_dict(),
            "versions": {"mgdt": "9.8.7", "ale-py": "6.5.4"},
            "episodes": config.episodes,
            "seed": config.seed,
            "deterministic": config.deterministic,
            "agents": {
                name: {"games": {game: summary(12.5) for game in config.games}, "iqm": None}
                for name in agents
            },
        }

    monkeypatch.setattr(bench, "run_benchmark", run_nothing)
    return calls


def test_command(run, tmp_path):
    command = ["--agents", "random", "--games", "breakout", "--episodes", "2", "--seed", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "mgdt_cli.bench", *command, "--output", tmp_path / "results"],
        capture_output=True,
        text=True,
        check=True,
    )
    config = BenchmarkConfig(games=("Breakout",), episodes=2, seed=5)
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results == run_benchmark({"random": load_agent("random")}, config)
    breakout, over_games = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert (breakout["agent"], breakout["game"]) == ("random", "Breakout")
    scores = results["agents"]["random"]["games"]["Breakout"]["scores"]
    assert float(breakout["mean"]) == sum(scores) / 2
    assert over_games["game"] == "IQM"
    assert "sticky 0.25" in done.stderr
    assert "results.json" in done.stderr
    assert list((tmp_path / "results").iterdir()) == [tmp_path / "results" / "results.json"]


def test_names_with_commas_and_spaces(run, played, tmp_path):
    make_agent("dt", "tiny").save(tmp_path / "my agent")
    path = str(tmp_path / "my agent")
    for number, agents in enumerate([[f"random,{path}"], ["random", path], ["random,", path]]):
        output = tmp_path / str(number)
        run(
            "--agents",
            *agents,
            "--games",
            "Pong,bundled",
            "air_raid",
            "--output",
            output,
        )
    for agents, config in played:
        assert list(agents) == ["random", path]
        assert isinstance(agents["random"], RandomAgent)
        assert agents[path].kind == "dt"
        assert config.games == ("Pong", "Breakout", "Freeway", "AirRaid")


def test_defaults(run, monkeypatch, played, tmp_path):
    monkeypatch.chdir(tmp_path)
    run("--agents", "random")
    ((_, config),) = played
    assert config == BenchmarkConfig(games=("Breakout", "Freeway", "Pong"))
    assert config.protocol == AtariProtocol()
    (output,) = (tmp_path / "results").iterdir()
    assert [path.name for path in output.iterdir()] == ["results.json"]


def test_options(run, played, tmp_path):
    options = ["--episodes", 7, "--seed", 9, "--protocol", "mgdt_release", "--deterministic"]
    run("--agents", "random", "--games", "Pong", *options, "--output", tmp_path / "a")
    ((_, config),) = played
    assert config == BenchmarkConfig(
        games=("Pong",),
        episodes=7,
        seed=9,
        protocol=AtariProtocol.mgdt_release(),
        deterministic=True,
    )


def test_terminal_gets_a_table(run, monkeypatch, played, tmp_path, capsys):
    make_agent("dt", "tiny").save(tmp_path / "run[a]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    run("--agents", "random,run[a]", "--games", "Pong", "--output", "out[b]")
    output = capsys.readouterr()
    assert "\t" not in output.out
    assert "12.5 [11.5, 13.5]" in output.out
    # Square brackets are style to rich.
    assert "run[a]" in output.out
    assert "out[b]/results.json" in output.err


def test_existing_output(run, refused, played, tmp_path):
    (tmp_path / "results.json").write_text("mine")
    arguments = ["--agents", "random", "--games", "Pong", "--output", tmp_path]
    assert f"{tmp_path} exists" in refused(*arguments)
    assert (tmp_path / "results.json").read_text() == "mine"
    assert not played
    run(*arguments, "--overwrite")
    assert (
        "Pong" in json.loads((tmp_path / "results.json").read_text())["agents"]["random"]["games"]
    )


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--agents", "randm"], ["Unknown agent 'randm'", "Did you mean", "'random'"]),
        (["--agents", "random", "run[x]"], ["Unknown agent 'run[x]'"]),
        (["--agents", "random,dqn"], ["mgdt-train --agent dqn"]),
        (["--agents", "random", "--games", "Pang"], ["'Pang'", "Did you mean 'Pong'"]),
        (["--agents", "random", "--games", "mgdt40"], ["'mgdt40'", "'mgdt41'"]),
        (["--agents"], ["at least one agent"]),
        (["--agents", "random", "--episodes", "0"], ["at least one episode, got 0"]),
        (["--agents", "random", "--protocol", "atari"], ["mgdt_release"]),
    ],
    ids=str,
)
def test_mistakes(refused, played, tmp_path, arguments, messages):
    error = refused(*arguments, "--output", tmp_path / "results")
    assert all(message in error for message in messages), error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    assert not played

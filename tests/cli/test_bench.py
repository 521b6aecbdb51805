"""mgdt-bench: what it plays, prints, writes and refuses."""

import csv
import io
import json
import subprocess
import sys

import pytest

from mgdt_agents import load_agent, make_agent
from mgdt_agents.evaluation import BenchmarkConfig, Results, run_benchmark
from mgdt_agents.evaluation.results import Episode
from mgdt_agents.random_agent import RandomAgent
from mgdt_cli import bench
from mgdt_envs import AtariProtocol
from mgdt_envs.seeds import BENCHMARK_SEED


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-bench", *map(str, arguments)])
        bench.main()

    return run


@pytest.fixture
def played(monkeypatch):
    """What the command asks to be played; nothing is."""
    calls = []

    def play_nothing(agents, config, on_step):
        calls.append((agents, config))
        for agent in agents:
            for protocol in config.protocols:
                for game in config.games:
                    for number in range(config.episodes):
                        yield Episode(
                            agent=agent,
                            protocol=protocol,
                            game=game,
                            seed=config.seed + number,
                            score=11.5 + number % 2 * 2,
                            steps=10,
                        )

    monkeypatch.setattr(bench, "play_episodes", play_nothing)
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
    results = Results.load(tmp_path / "results" / "results.json")
    assert results.to_dict() == run_benchmark({"random": load_agent("random")}, config).to_dict()
    breakout, over_games = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert (breakout["agent"], breakout["game"]) == ("random", "Breakout")
    assert float(breakout["mean"]) == results.scores("random", "Breakout").mean()
    assert over_games["game"] == "mean"
    assert "sticky 0.25" in done.stderr
    assert "results.json" in done.stderr
    files = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert files == ["episodes.jsonl", "results.json"]


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
    assert config.protocols == {"default": AtariProtocol()}
    assert config.seed == BENCHMARK_SEED
    (output,) = (tmp_path / "results").iterdir()
    assert Results.load(output / "results.json").seeds == range(BENCHMARK_SEED, BENCHMARK_SEED + 16)


def test_options(run, played, tmp_path):
    options = ["--episodes", 7, "--seed", 9, "--protocol", "mgdt_release", "--deterministic"]
    run("--agents", "random", "--games", "Pong", *options, "--output", tmp_path / "a")
    ((_, config),) = played
    assert config == BenchmarkConfig(
        games=("Pong",),
        episodes=7,
        seed=9,
        protocols={"mgdt_release": AtariProtocol.mgdt_release()},
        deterministic=True,
    )


def test_terminal_gets_a_table(run, monkeypatch, played, tmp_path, capsys):
    make_agent("dt", "tiny").save(tmp_path / "run[a]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    run(
        *("--agents", "random,run[a]", "--games", "Pong", "--episodes", "2"),
        *("--output", "out[b]"),
    )
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
    assert Results.load(tmp_path / "results.json").games == ("Pong",)


def test_output_is_made_before_anything_is_played(run, refused, played, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    arguments = ["--agents", "random", "--games", "Pong"]
    message = refused(*arguments, "--output", tmp_path / "file" / "results")
    assert "Cannot write to" in message
    assert "another --output" in message

    def no_room(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.Path, "mkdir", no_room)
    assert "No space left" in refused(*arguments, "--output", tmp_path / "results")
    assert not played


def test_interrupt_keeps_what_was_played(run, refused, monkeypatch, tmp_path):
    episodes = [
        Episode(agent="random", game="Pong", seed=BENCHMARK_SEED + n, score=-n, steps=5 + n)
        for n in range(3)
    ]

    def interrupted(*_arguments):
        yield from episodes
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "play_episodes", interrupted)
    message = refused(
        *("--agents", "random", "--games", "Pong", "--output", tmp_path / "results"), status=130
    )
    assert "3 episodes were played" in message
    assert str(tmp_path / "results" / "episodes.jsonl") in message
    lines = (tmp_path / "results" / "episodes.jsonl").read_text().splitlines()
    assert [Episode(**json.loads(line)) for line in lines] == episodes
    assert not (tmp_path / "results" / "results.json").exists()


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

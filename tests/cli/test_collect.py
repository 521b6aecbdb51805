"""mgdt-collect: collections of one game and of several, stopping, and what is refused."""

import json
import runpy
import signal
import sys

import pytest
import torch

from mgdt_agents import load_agent
from mgdt_agents.online.impala import Impala
from mgdt_agents.replay import ReplayStore, Trace
from mgdt_cli import bench, collect

SMALL = ["--threads", 1, "--device", "cpu"]
SMALL_PQN = ["--pqn.num-envs", 2, "--pqn.rollout-steps", 8, "--pqn.epochs", 1]
SMALL_PQN += ["--pqn.minibatches", 1, "--pqn.channels", 2, 2, 2, "--pqn.hidden", 8, *SMALL]
SMALL_IMPALA = ["--impala.num-envs", 4, "--impala.unroll-length", 5, "--impala.batch-size", 2]
SMALL_IMPALA += SMALL


@pytest.fixture(autouse=True)
def signals():
    """The command's handlers of signals end with the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        algo = arguments[arguments.index("--algo") + 1] if "--algo" in arguments else "pqn"
        small = {"pqn": SMALL_PQN, "impala": SMALL_IMPALA}.get(algo, SMALL)
        monkeypatch.setattr(sys, "argv", [*map(str, ("mgdt-collect", *arguments, *small))])
        collect.main()

    return run


def test_games_in_turn(run, tmp_path, capsys):
    games = ["--games", "Pong,Breakout", "--steps", "0.03k", "--output", tmp_path / "new"]
    run(*games)
    for name in ("Pong", "Breakout"):
        assert Trace.load(tmp_path / "new" / name / f"{name}.npz").actions.shape == (16, 2)
        (line,) = (tmp_path / "new" / name / "metrics.jsonl").read_text().splitlines()
        assert json.loads(line)["step"] == 32
    printed = capsys.readouterr()
    assert printed.out == ""
    folder = tmp_path / "new" / "Breakout"
    assert f"Breakout; no episode ended, so no store can be made of {folder}." in printed.err


def test_how_to_make_a_store(run, tmp_path, capsys):
    exploring = ["--pqn.exploration-fraction", 1.0]  # so that an episode ends
    run("--games", "Breakout", "--steps", 576, "--output", tmp_path, *exploring)
    path = tmp_path / "Breakout" / "Breakout.npz"
    error = capsys.readouterr().err
    assert f"Collected Breakout; `mgdt-replay expand {path}` makes a store of" in error


def test_store(run, tmp_path, capsys):
    arguments = ["--games", "Breakout", "--steps", 576, "--output", tmp_path, "--store"]
    # Untrained, its policy may not end an episode.
    arguments += ["--pqn.exploration-fraction", 1.0]
    run(*arguments)
    trace = Trace.load(tmp_path / "Breakout" / "Breakout.npz")
    store = ReplayStore(tmp_path / "Breakout" / "store")
    assert store.episode_returns.tolist() == trace.episode_return.tolist() != []
    assert f"what was played is in {store.path}.\n" in capsys.readouterr().err
    run(*arguments)  # nothing is left to do


def test_game_without_a_store_leaves_the_others(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:  # no episode has ended
        run("--games", "Pong,Breakout", "--steps", 32, "--output", tmp_path, "--store")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    for name in ("Pong", "Breakout"):
        trace = tmp_path / name / f"{name}.npz"
        assert f"Collected {name}, but {trace} makes no store: Expected a trace with whole" in error
        assert trace.exists()
    assert "error: Not expanded: Pong, Breakout. The other games are not" in error


def test_stopped_command_resumes(run, monkeypatch, tmp_path, capsys):
    def stopped(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return collecting(*args, **options)

    collecting = collect.collect
    arguments = ["--games", "Pong,Breakout", "--steps", 32, "--output", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(collect, "collect", stopped)
        run(*arguments)
    error = capsys.readouterr().err
    assert "Stopping after this update; once more to stop at once.\n" in error
    assert "Stopped Pong; the same command resumes.\n" in error
    assert [path.name for path in tmp_path.iterdir()] == ["Pong"]
    run(*arguments)
    for name in ("Pong", "Breakout"):
        assert len(Trace.load(tmp_path / name / f"{name}.npz").actions) == 16


def test_second_signal_stops_at_once(refused, monkeypatch, tmp_path):
    def stopped(*args, **options):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(collect, "collect", stopped)
    arguments = ["--games", "Pong", "--steps", 32, "--output", tmp_path]
    assert "interrupted" in refused(*arguments, status=130)


def test_stable_baselines3(run, refused, tmp_path):
    arguments = ["--games", "Pong", "--steps", 16, "--output", tmp_path, "--algo", "dqn"]
    arguments += ["--dqn.num-envs", 2, "--dqn.buffer-size", 100]
    run(*arguments)
    trace = Trace.load(tmp_path / "Pong" / "Pong.npz")
    assert (trace.actions.shape, trace.source["learner"]) == ((8, 2), "dqn")
    run(*arguments)  # nothing is left to do
    arguments += ["--dqn.seed", 1, "--dqn.buffer-size", 200]
    assert ": buffer_size was 100, is 200; seed was 0, is 1." in refused(*arguments)


def test_impala_learns_all_games_in_one_run(run, monkeypatch, tmp_path, capsys):
    pytest.importorskip("torchrl")
    expanded = []
    monkeypatch.setattr(
        collect, "expand", lambda trace, store, **options: expanded.append((trace.game, store))
    )
    arguments = ["--games", "Pong,Breakout", "--algo", "impala", "--steps", 20]
    arguments += ["--output", tmp_path, "--store"]
    run(*arguments)
    output = tmp_path / "impala"
    assert [path.name for path in tmp_path.iterdir()] == ["impala"]
    agent = load_agent(output, device="cpu")  # as mgdt-bench does
    assert (agent.kind, agent.games) == ("impala", ("Pong", "Breakout"))
    for name in agent.games:
        trace = Trace.load(output / f"{name}.npz")
        # The steps are those of each game.
        assert (trace.game, trace.actions.shape) == (name, (10, 2))
        assert trace.source["games"] == ["Pong", "Breakout"]
    stores = [output / "store" / name for name in agent.games]
    assert expanded == list(zip(agent.games, stores, strict=True))
    assert f"what was played is in {stores[0]}, {stores[1]}.\n" in capsys.readouterr().err


def test_stopped_impala_resumes(run, monkeypatch, tmp_path, capsys):
    pytest.importorskip("torchrl")
    arguments = ["--games", "Pong,Breakout", "--algo", "impala", "--steps", 40]
    run(*arguments, "--output", tmp_path / "whole")

    def stopped_by(self, step):
        if self.steps_played == 40:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, step)

    learn = Impala.learn
    arguments += ["--output", tmp_path / "new"]
    with monkeypatch.context() as patch:
        patch.setattr(Impala, "learn", stopped_by)
        run(*arguments)
    assert "Stopped impala; the same command resumes.\n" in capsys.readouterr().err
    assert len(Trace.load(tmp_path / "new" / "impala" / "Pong.npz").actions) == 15
    run(*arguments)
    for name in ("Pong.npz", "Breakout.npz", "model.safetensors"):
        whole, resumed = (tmp_path / folder / "impala" / name for folder in ("whole", "new"))
        if name.endswith("npz"):
            assert Trace.load(whole).actions.tolist() == Trace.load(resumed).actions.tolist()
        else:
            assert whole.read_bytes() == resumed.read_bytes()


def test_bench_scores_what_impala_leaves(run, monkeypatch, tmp_path):
    pytest.importorskip("torchrl")
    run("--games", "Pong,Breakout", "--algo", "impala", "--steps", 20, "--output", tmp_path)
    command = ["mgdt-bench", "--agents", tmp_path / "impala", "--games", "Pong,Breakout"]
    command += ["--episodes", 1, "--max-steps", 30, "--no-report", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--output", str(tmp_path / "results")])
    bench.main()
    episodes = (tmp_path / "results" / "episodes.jsonl").read_text().splitlines()
    assert {json.loads(line)["game"] for line in episodes} == {"Pong", "Breakout"}


@pytest.mark.slow
def test_games_in_processes(run, tmp_path, capfd):
    games = ["--games", "Pong,Breakout", "--steps", 32, "--output", tmp_path]
    run(*games, "--processes", 2)
    error = capfd.readouterr().err
    for name in ("Pong", "Breakout"):
        assert Trace.load(tmp_path / name / f"{name}.npz").actions.shape == (16, 2)
        assert f"{name}: 32 of 32 steps, " in error
        assert f"Collected {name}; " in error


def test_process_of_a_collection_stops_when_it_is_told_alone(monkeypatch):
    heard = []

    def collect_in_worker(arguments, collection):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            heard.append(collect.STOPPING.is_set())

    monkeypatch.setattr(collect, "collect_in_worker", collect_in_worker)
    collect.STOPPING.clear()
    collect.collect_in_own_process(None, None)
    assert heard == [False, False, True]


class Killing(str):
    """A name that kills the process that it is sent to."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGKILL,)


class Failing(str):
    """A name that cannot be sent to a process."""

    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (Killing("Pong"), "was killed by SIGKILL, perhaps by the system for want of memory"),
        (Failing("Pong"), "ended with exit status 1"),
    ],
)
def test_process_that_ends(monkeypatch, tmp_path, capfd, name, reason):
    """The command says which game it was, and collects the others."""
    monkeypatch.setattr(collect, "resolve_games", lambda names: (name, "Breakout"))
    command = ["mgdt-collect", "--games", "Pong,Breakout", "--steps", 32, "--output", tmp_path]
    monkeypatch.setattr(sys, "argv", [*map(str, command + SMALL_PQN), "--processes", "2"])
    with pytest.raises(SystemExit) as caught:
        collect.main()
    assert caught.value.code == 2
    assert f"Not collected: Pong {reason}. The other games" in capfd.readouterr().err
    assert len(Trace.load(tmp_path / "Breakout" / "Breakout.npz").actions) == 16


def test_refused_before_anything_is_written(refused, monkeypatch, tmp_path):
    output = ["--output", tmp_path / "new"]
    assert "'Pong'" in refused("--games", "Breakout,Pnog", *output)
    wrong = ["--games", "Pong", "--pqn.discount", 2]
    assert "discount must be in [0, 1], got 2.0" in refused(*wrong, *output)
    other = ["--games", "Pong", "--algo", "ppo", "--pqn.hidden", 512]
    assert "--algo ppo does not read --pqn.*. Leave it out, or choose" in refused(*other, *output)
    zero = ["--games", "Pong", "--processes", 0]
    assert "at least 1, got 0" in refused(*zero, *output)
    several = ["--games", "Pong,Boxing", "--algo", "impala"]
    error = refused(*several, "--processes", 2, *output)
    assert "impala learns all games in one process, got --processes 2" in error
    error = refused(*several, "--impala.discount", 2, *output)
    assert "discount must be in [0, 1], got 2.0" in error
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchrl.objectives.value.functional", None)
        assert "pip install 'mgdt[online]'" in refused(*several, *output)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it was not installed
    ray = ["--games", "Pong", "--ray", "auto"]
    assert "pip install 'mgdt[ray]'" in refused(*ray, *output)
    assert not (tmp_path / "new").exists()


def test_folder_of_something_else(refused, tmp_path):
    (tmp_path / "Breakout").mkdir()
    (tmp_path / "Breakout" / "mine").touch()
    arguments = ["--games", "Pong,Breakout", "--steps", 32, "--output", tmp_path]
    assert "holds no collection to resume" in refused(*arguments)
    assert [path.name for path in tmp_path.rglob("*")] == ["Breakout", "mine"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_run_as_a_module(monkeypatch):
    """Its functions are then not those of `__main__`, which Ray's workers do not have."""
    called = []
    monkeypatch.setattr(collect, "main", lambda: called.append("mgdt_cli.collect"))
    runpy.run_module("mgdt_cli.collect", run_name="__main__")
    assert called == ["mgdt_cli.collect"]


def test_bench_takes_the_folder(run, tmp_path):
    run("--game", "Pong", "--steps", 32, "--output", tmp_path)  # as --games
    agent = load_agent(tmp_path / "Pong", device="cpu")
    assert (agent.kind, agent.games) == ("pqn", ("Pong",))

"""mgdt-train: offline training that goes on, DQN, and what is refused."""

import json
import sys

import numpy as np
import pytest
from stable_baselines3 import DQN

from mgdt_agents import load_agent
from mgdt_cli import train


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-train", *map(str, arguments), "--device", "cpu"])
        train.main()

    return run


@pytest.fixture
def offline(readable_store):
    """The arguments of a short training, but for the output and the agent."""
    return ["--replay", readable_store, "--size", "tiny", "--steps", 3, "--batch-size", 4]


@pytest.mark.parametrize("kind", ["dt", "bc", "cql"])
def test_train_offline(run, offline, tmp_path, capsys, kind):
    output = tmp_path / "run[a]"
    options = ["--optimizer", "adamw", "--log-interval", 1]
    run("--agent", kind, *offline, *options, "--output", output)
    agent = load_agent(output)
    assert (agent.kind, agent.games) == (kind, ("Pong",))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    training = json.loads((output / "training.json").read_text())
    assert (training["batch_size"], training["optimizer"]) == (4, "adamw")
    printed = capsys.readouterr()
    assert printed.out == ""
    # The next command can be copied: brackets are no style, and it is not wrapped.
    assert f"Trained; `mgdt-bench --agents {output}` scores it.\n" in printed.err


def test_same_command_goes_on(run, offline, tmp_path):
    arguments = ["--agent", "dt", *offline, "--output", tmp_path / "run"]
    run(*arguments)
    files = {
        path.name: path.read_bytes()
        for path in (tmp_path / "run").iterdir()
        if path.suffix in (".safetensors", ".jsonl")
    }
    assert set(files) == {"model.safetensors", "metrics.jsonl"}
    run(*arguments)
    assert all((tmp_path / "run" / name).read_bytes() == files[name] for name in files)


def test_training_is_a_function_of_its_seed(run, offline, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("--agent", "dt", *offline, "--seed", seed, "--output", tmp_path / name)
    weights = {
        name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b", "c")
    }
    assert weights["a"] == weights["b"] != weights["c"]


@pytest.mark.parametrize("kind", ["dt", "cql"])
def test_init_goes_on_from_saved_weights(run, refused, offline, tmp_path, kind):
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--agent", kind, *offline, "--optimizer", "adamw"]
    run(*options, "--output", first)
    still = ["--seed", 7, "--learning-rate", 0, "--output", second]
    run(*options, *still, "--init", first)
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    # Another kind of agent has other weights.
    error = refused("--agent", "bc", *offline, "--init", first)
    assert f"holds an agent of kind '{kind}', expected 'bc'" in error


def test_another_training_of_the_same_name(run, refused, offline, tmp_path):
    arguments = ["--agent", "dt", *offline, "--output", tmp_path / "run"]
    run(*arguments)
    longer = [*arguments, "--learning-rate", 0.5]
    error = refused(*longer)
    assert "learning_rate was [0.0003], is [0.5]" in error
    run(*longer, "--overwrite")
    assert json.loads((tmp_path / "run" / "training.json").read_text())["learning_rate"] == 0.5


def test_default_output(run, monkeypatch, offline, tmp_path):
    monkeypatch.chdir(tmp_path)
    run("--agent", "bc", *offline)
    assert load_agent(tmp_path / "runs" / "bc-tiny").kind == "bc"


def test_folder_of_something_else_is_kept(refused, offline, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for agent in ("dt", "dqn"):
        error = refused("--agent", agent, *offline, "--output", tmp_path)
        assert f"{tmp_path} exists and holds no training" in error
        error = refused("--agent", agent, *offline, "--output", tmp_path, "--overwrite")
        assert f"{tmp_path} holds no training, so it is not overwritten" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_train_dqn(run, refused, tmp_path, capsys):
    output = tmp_path / "my-dqn"
    arguments = ["--agent", "dqn", "--games", "Breakout", "--steps", 64, "--output", output]
    run(*arguments, "--seed", 3)
    model = DQN.load(output / "model.zip", device="cpu", buffer_size=8)
    assert (model.num_timesteps, model.learning_starts, model.seed) == (64, 6, 3)
    assert model._n_updates > 0
    # What the message says is what mgdt-bench takes.
    named = capsys.readouterr().err.split("mgdt-bench --agents ")[1].split("`")[0]
    assert load_agent(named, device="cpu").predict(np.zeros((4, 84, 84), np.uint8))[0] < 18
    # It cannot go on, so it must not be lost.
    assert "my-dqn exists" in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent", "ctl"], "Unknown kind of agent 'ctl'. Did you mean 'cql'"),
        (["--agent", "dt", "--size", "tinny"], "Unknown size 'tinny' of dt. Did you mean 'tiny'"),
        (["--agent", "dt", "--size", "tiny"], "at least one replay store"),
        (["--agent", "dt", "--size", "tiny", "--replay", "x"], "Expected a replay store at x"),
        (["--agent", "dqn", "--games", "Pang"], "Did you mean 'Pong'"),
    ],
    ids=str,
)
def test_mistakes(refused, tmp_path, arguments, message):
    output = tmp_path / "run"
    error = refused(*arguments, "--steps", 1, "--output", output)
    assert message in error
    assert not output.exists()

"""mgdt-train: offline training that goes on, DQN, and what is refused."""

import dataclasses
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from mgdt_agents import load_agent
from mgdt_agents.online.collection import LEARNERS
from mgdt_agents.online.impala import Impala
from mgdt_agents.q_learning.cql import CQLAgent
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.replay import Trace
from mgdt_cli import train
from mgdt_cli.train_arguments import ONLINE_KINDS
from mgdt_envs import AtariProtocol


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-train", *map(str, arguments), "--device", "cpu"])
        train.main()

    return run


SMALL_PQN = ["--num-envs", 2, "--rollout-steps", 4, "--epochs", 1, "--minibatches", 1]


@pytest.fixture
def offline(readable_store):
    """The arguments of a short training, but for the output and the agent."""
    return ["--replay", readable_store, "--size", "tiny", "--steps", 3, "--batch-size", 4]


@pytest.mark.parametrize("kind", ["dt", "bc", "cql", "tt"])
def test_train_offline(run, offline, tmp_path, capsys, kind):
    output = tmp_path / "run[a]"
    options = ["--optimizer", "adamw", "--log-interval", 1]
    run("--agent", kind, *offline, *options, "--output", output)
    agent = load_agent(output)
    assert (agent.kind, agent.games) == (kind, ("Pong",))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    training = json.loads((output / "training.json").read_text())
    assert training["training"]["batch_size"] == 4
    assert training["training"]["optimizer"] == "adamw"
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


@pytest.mark.parametrize(
    ("kind", "reads", "reads_not"),
    [
        ("dt", ["--replay", "--network.return-tokens"], ["--network.n-steps", "--num-envs"]),
        ("cql", ["--replay", "--network.n-steps"], ["--network.return-tokens", "--num-envs"]),
        ("dqn", ["--games", "--num-envs"], ["--mix-protocols", "--warmup-steps", "--network"]),
    ],
)
def test_help_after_an_agent_is_what_it_reads(run, capsys, kind, reads, reads_not):
    with pytest.raises(SystemExit) as caught:
        run("--agent", kind, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"{option} " in text for option in reads)
    assert not any(option in text for option in reads_not)


def test_network_fields_change_a_preset(run, offline, tmp_path):
    options = ["--network.n-steps", 2, "--network.discount", 0.9]
    run("--agent", "cql", *offline, *options, "--output", tmp_path / "run")
    found = load_agent(tmp_path / "run").config
    assert found == dataclasses.replace(CQLAgent.presets["tiny"], n_steps=2, discount=0.9)


@pytest.mark.parametrize("separator", [",", " "])
def test_stores_with_commas_or_spaces(run, readable_store, tmp_path, separator):
    copy = shutil.copytree(readable_store, tmp_path / "copy")
    stores = f"{readable_store}{separator}{copy}".split()
    options = ["--size", "tiny", "--steps", "0.002k", "--batch-size", 2]
    run("--agent", "dt", "--replay", *stores, *options, "--output", tmp_path / "run")
    description = json.loads((tmp_path / "run" / "training.json").read_text())
    assert description["training"]["replay"] == [str(readable_store), str(copy)]
    assert description["training"]["steps"] == 2


@pytest.mark.parametrize("protocol", ["replay", "machado"])
def test_stores_of_another_protocol(
    run, refused, make_random_episodes, write_store, tmp_path, protocol
):
    store = write_store(
        tmp_path / "store", "Pong", make_random_episodes([5]), outside_action="native"
    )
    arguments = ["--agent", "dt", "--size", "tiny", "--replay", store, "--steps", 1]
    arguments += ["--batch-size", 2, "--output", tmp_path / "run"]
    assert "mgdt-train --protocol replay" in refused(*arguments)
    run(*arguments, "--protocol", protocol)
    assert load_agent(tmp_path / "run").protocol == AtariProtocol.machado()


@pytest.mark.parametrize("kind", ["dt", "cql"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_and_say_how_to_resume(
    run, offline, tmp_path, capsys, monkeypatch, number, kind
):
    before = signal.getsignal(number)
    taken = []

    def after_step(self, step):
        if self.device.type == "meta":  # one whose operations are counted
            return
        taken.append(step)
        if taken == [0, 1]:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(NETWORK_AGENTS[kind], "after_step", after_step)
    arguments = ["--agent", kind, *offline, "--output", tmp_path / "run"]
    run(*arguments)
    assert "Stopped after step 1 of 3; the same command resumes" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    run(*arguments)
    assert taken == [0, 1, 1, 2, 3]  # where it resumes, once more
    assert "Trained; " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dt", "cql", "tt"])
def test_init_goes_on_from_saved_weights(run, refused, offline, tmp_path, kind):
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--agent", kind, *offline, "--optimizer", "adamw"]
    run(*options, "--output", first)
    error = refused(*options, "--init", first)
    assert f"--size tiny and --init {first}" in error
    size = options.index("--size")
    del options[size : size + 2]
    still = ["--seed", 7, "--learning-rate", 0, "--output", second]
    run(*options, *still, "--init", first)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert [config.pop("trained_windows") for config in configs] == [12, 24]
    assert configs[0] == configs[1]
    # What the paper changes for one per cent of the data, or a smaller network.
    field = {"dt": "action-weight", "cql": "conservative-weight", "tt": "value-weight"}[kind]
    third = [*options, "--init", first, "--output", tmp_path / "third"]
    run(*third, f"--network.{field}", 4)
    assert getattr(load_agent(tmp_path / "third").config, field.replace("-", "_")) == 4
    size = {"dt": "layers", "cql": "blocks", "tt": "layers"}[kind]
    error = refused(*options, "--init", first, f"--network.{size}", 2)
    assert "The weights do not fit the network" in error
    # Another kind of agent has other weights.
    error = refused("--agent", "bc", "--steps", 1, "--init", first)
    assert f"holds an agent of kind '{kind}', expected 'bc'" in error


def test_another_training_of_the_same_name(run, refused, offline, tmp_path):
    arguments = ["--agent", "dt", *offline, "--output", tmp_path / "run"]
    run(*arguments)
    longer = [*arguments, "--learning-rate", 0.5]
    error = refused(*longer)
    assert "learning_rate was 0.0003, is 0.5" in error
    run(*longer, "--overwrite")
    training = json.loads((tmp_path / "run" / "training.json").read_text())["training"]
    assert training["learning_rate"] == 0.5


def test_dry_run_says_what_it_would_take(run, offline, tmp_path, capsys):
    output = tmp_path / "run"
    run("--agent", "cql", *offline, "--dry-run", "--plan.gpus", 3, "--output", output)
    assert not output.exists()
    text = capsys.readouterr().out
    assert "Windows in the data: 240; 3 steps of 4 draw each 0.1 times." in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "3 GPUs" in rows["Run"]
    assert " 13.0M " in rows["DT-10M"]
    assert " 43.0M " in rows["DT-40M"]
    assert rows["DT-200M"].split()[1:4] == ["10M", "2,048", "197.6M"]
    assert rows["this"].split()[1:3] == ["3", "4"]


def test_dry_run_in_a_pipe_is_not_wrapped(run, offline, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run("--agent", "bc", *offline, "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Memory: ")
    assert lines[1].endswith(" for 4 windows at once.")
    assert "FLOP/step" in lines[4]


def test_a_head_for_each_game(run, readable_store, make_random_episodes, write_store, tmp_path):
    other = write_store(tmp_path / "store", "Boxing", make_random_episodes([9] * 12))
    options = ["--agent", "cql", "--replay", readable_store, other, "--steps", 2, "--log-interval"]
    options += [1, "--batch-size", 4, "--heldout-fraction", 0.2, "--heldout-windows", 4]
    heads = ["--size", "tiny", "--network.heads", "per-game"]
    run(*options, *heads, "--dry-run")
    run(*options, *heads, "--output", tmp_path / "run")
    assert load_agent(tmp_path / "run").games == ("Pong", "Boxing")
    begun = ["--init", tmp_path / "run"]
    run(*options, *begun, "--dry-run")
    # Of fewer games than it has heads.
    options[3:5] = [other]
    run(*options, *begun, "--output", tmp_path / "second")
    assert load_agent(tmp_path / "second").games == ("Pong", "Boxing")


def test_paths_after_an_equals_sign(run, refused, offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run("--agent", "bc", *offline, "--output=~/first")
    assert load_agent(tmp_path / "first").kind == "bc"
    error = refused("--agent", "dt", "--steps", 1, "--init=~/first")
    assert f"{tmp_path}/first holds an agent of kind 'bc', expected 'dt'" in error


def test_default_output(run, monkeypatch, offline, tmp_path):
    monkeypatch.chdir(tmp_path)
    run("--agent", "bc", *offline)
    assert load_agent(tmp_path / "runs" / "bc-tiny").kind == "bc"


def test_folder_of_something_else_is_kept(refused, offline, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    dqn = ["--games", "Pong", "--steps", 3]
    for arguments in (["--agent", "dt", *offline], ["--agent", "dqn", *dqn]):
        error = refused(*arguments, "--output", tmp_path)
        assert f"{tmp_path} exists and holds no training" in error
        error = refused(*arguments, "--output", tmp_path, "--overwrite")
        assert f"{tmp_path} holds no training, so it is not overwritten" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("left", [(), (".lock", "collection.json.new")])
def test_folder_that_is_empty_or_was_just_begun(run, offline, tmp_path, left):
    for kind, arguments in ("bc", offline), ("pqn", ["--games", "Pong", "--steps", 8, *SMALL_PQN]):
        output = tmp_path / kind
        output.mkdir()
        for name in left:
            (output / name).touch()
        run("--agent", kind, *arguments, "--output", output)
        assert (output / "model.safetensors").exists()


def test_a_training_is_overwritten_only_by_one_that_begins(run, refused, offline, tmp_path):
    output = ["--output", tmp_path / "run"]
    run("--agent", "bc", *offline, *output)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    missing = ["--replay", tmp_path / "missing", *offline[2:]]
    for arguments in (
        ["--agent", "bc", *missing],
        ["--agent", "pqn", "--games", "Pong,Breakout", "--steps", 8],
    ):
        refused(*arguments, *output, "--overwrite")
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    run("--agent", "bc", *offline, *output, "--seed", 1, "--overwrite")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", -1), "seed must be at least 0, got -1"),
        (("--workers", -1), "workers must be at least 0, got -1"),
        (("--dry-run", "--plan.gpus", 0), "gpus must be at least 1, got 0"),
        (("--dry-run", "--plan.utilization", 0.0), "utilization must be in (0, 1], got 0.0"),
    ],
)
def test_numbers_out_of_range(refused, offline, tmp_path, options, message):
    output = tmp_path / "run"
    assert message in refused("--agent", "bc", *offline, *options, "--output", output)
    assert not output.exists()


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
    assert Trace.load(output / "Breakout.npz").actions.shape == (8, 8)
    # Another training must not take its place.
    assert "seed was 3, is 0" in refused(*arguments)


@pytest.fixture
def impala(tmp_path):
    pytest.importorskip("torchrl")
    small = ["--num-envs", 4, "--unroll-length", 5, "--batch-size", 2, "--threads", 1]
    games = ["--games", "Pong,Breakout", "--steps", 60]
    return ["--agent", "impala", *games, *small, "--output", tmp_path / "run"]


def test_train_impala(run, impala, tmp_path, capsys):
    run(*impala, "--rewards", "popart", "--lstm", 8)
    agent = load_agent(tmp_path / "run", device="cpu")
    assert (agent.kind, agent.games) == ("impala", ("Pong", "Breakout"))
    assert (agent.config.lstm, agent.config.value_games) == (8, 2)
    assert "mgdt-bench --agents" in capsys.readouterr().err
    for name in agent.games:
        assert Trace.load(tmp_path / "run" / f"{name}.npz").actions.shape == (15, 2)
    card = (tmp_path / "run" / "card.md").read_text()
    assert "Pong, Breakout, 2 games with one set of weights: 60 agent steps" in card
    assert "theirs was of 57 games" in card
    assert "| rewards | popart |" in card


def test_impala_on_a_cluster_is_refused(refused, impala, monkeypatch):
    assert "--ray is for --agent impala, got pqn" in refused("--agent", "pqn", "--ray", "auto")
    monkeypatch.setitem(sys.modules, "mgdt_agents.online.rllib_config", None)
    assert "pip install 'mgdt[rllib]'" in refused(*impala, "--ray", "auto")


def test_stopped_impala_resumes_to_the_same_end(run, monkeypatch, impala, tmp_path, capsys):
    run(*impala)
    expected = load_agent(tmp_path / "run", device="cpu").model.state_dict()
    shutil.move(tmp_path / "run", tmp_path / "whole")

    def stop_after_one(self, unroll, memory):
        signal.raise_signal(signal.SIGTERM)
        return update(self, unroll, memory)

    update = Impala.update
    with monkeypatch.context() as patch:
        patch.setattr(Impala, "update", stop_after_one)
        run(*impala)
    assert f"Stopped; the same command resumes from {tmp_path / 'run'}." in capsys.readouterr().err
    run(*impala)
    weights = load_agent(tmp_path / "run", device="cpu").model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_impala_s_mistakes(run, refused, impala, monkeypatch):
    assert "lstm must be at least 0, got -1" in refused(*impala, "--lstm", -1)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchrl.objectives.value.functional", None)
        assert "pip install 'mgdt[online]'" in refused(*impala)
    assert not impala[-1].exists()
    run(*impala)
    assert "lstm was 0, is 4" in refused(*impala, "--lstm", 4)


def test_names_of_learners():
    assert set(ONLINE_KINDS) == set(LEARNERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent", "ctl"], "Unknown kind of agent 'ctl'. Did you mean 'cql'"),
        (["--agent", "dt", "--size", "tinny"], "Unknown size 'tinny' of dt. Did you mean 'tiny'"),
        (["--agent", "dt", "--size", "tiny"], "at least one replay store"),
        (["--agent", "dt", "--size", "tiny", "--replay", "x"], "Expected a replay store at x"),
        (["--agent", "dqn", "--games", "Pang", "--steps", 9], "Did you mean 'Pong'"),
        # What an agent does not read is no option of it.
        (
            ["--agent", "dqn", "--games", "Pong", "--steps", 9, "--batch-size", 8],
            "options: --batch-size",
        ),
        (["--agent", "dqn", "--games", "Pong", "--steps", 9, "--size", "tiny"], "options: --size"),
        (["--agent", "dt", "--games", "Pong"], "options: --games"),
        (["--agent", "dt", "--network.n-steps", 8], "options: --network.n-steps"),
        (["--agent", "dt", "--protocol", "nurture"], "Unknown protocol 'nurture'. Did you mean"),
        (["--agent", "dt", "--protocol", "replay"], "rules of --replay, and there is none"),
    ],
    ids=str,
)
def test_mistakes(refused, tmp_path, arguments, message):
    output = tmp_path / "run"
    error = refused(*arguments, "--steps", 1, "--output", output)
    assert message in error
    assert not output.exists()

"""Agents by name and by path, and what is said when there is none."""

import importlib
import json
import re

import gymnasium as gym
import numpy as np
import pytest

from mgdt_agents import load_agent, make_agent, registry
from mgdt_agents.behavioral_cloning import BehavioralCloningAgent
from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.q_learning.cql import CQLAgent
from mgdt_agents.random_agent import RandomAgent
from mgdt_agents.registry import bundled_agents, register_agent
from mgdt_envs import AtariProtocol, MultiGameAtariEnv, suite
from mgdt_envs.errors import InvalidArgument


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """The folder that stands for the package's, with two agents in it and something else."""
    folder = tmp_path / "pretrained"
    make_agent("dt", "tiny", games=["Pong"]).save(folder / "dt")
    make_agent("cql", "tiny", games=["Pong"]).save(folder / "cql-pong")
    (folder / "notes").mkdir()
    monkeypatch.setattr(registry, "PRETRAINED", folder)
    return folder


def test_bundled_agents(bundle):
    assert bundled_agents() == ("cql-pong", "dt")
    agent = load_agent("dt", device="cpu")
    assert isinstance(agent, DecisionTransformerAgent)
    assert agent.games == ("Pong",)
    assert isinstance(load_agent("cql-pong"), CQLAgent)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dt", DecisionTransformerAgent), ("bc", BehavioralCloningAgent), ("cql", CQLAgent)],
)
def test_path_of_every_kind(tmp_path, kind, expected):
    agent = make_agent(kind, "tiny", games=["Pong"], protocol=AtariProtocol(sticky=0.0))
    agent.save(tmp_path / "my-agent")
    for path in (tmp_path / "my-agent", str(tmp_path / "my-agent")):
        loaded = load_agent(path, env=MultiGameAtariEnv("Pong"), device="cpu")
        assert type(loaded) is type(agent) is expected
        assert (loaded.games, loaded.protocol) == (agent.games, agent.protocol)


def test_random():
    assert isinstance(load_agent("random"), RandomAgent)
    assert load_agent("random", games=["Pong"]).games == ("Pong",)


def test_spaces_are_compared(tmp_path):
    env = MultiGameAtariEnv("Pong", protocol=AtariProtocol(stack=3))
    make_agent("dt", "tiny").save(tmp_path)
    for load in (
        lambda env: load_agent("random", env=env),
        lambda env: load_agent(tmp_path, env=env),
        lambda env: make_agent("cql", "tiny", env=env),
    ):
        with pytest.raises(
            AgentLoadError, match=r"observation_space does not match.*\(3, 84, 84\)"
        ):
            load(env)
        assert load(MultiGameAtariEnv("Pong")) is not None
    vector = gym.make_vec("MultiGameAtari-v0", num_envs=2, games=["Pong"])
    assert load_agent("random", env=vector) is not None


def test_unknown_options(tmp_path, dqn_zip):
    make_agent("dt", "tiny").save(tmp_path)
    with pytest.raises(InvalidArgument, match=r"Unknown option 'rul' of dt. Did you mean 'rule'"):
        load_agent(tmp_path, rul=None)
    for load, kind in (
        (lambda: load_agent("random", foo=1), "random"),
        (lambda: load_agent(dqn_zip, foo=1), "sb3"),
        (lambda: make_agent("cql", "tiny", foo=1), "cql"),
    ):
        with pytest.raises(InvalidArgument, match=f"Unknown option 'foo' of {kind}. Known names: "):
            load()


def test_an_agent_from_outside_the_package(tmp_path, monkeypatch):
    class Mine(CQLAgent):
        kind = "mine"

    monkeypatch.setattr(registry, "NETWORK_AGENTS", dict(registry.NETWORK_AGENTS))
    register_agent("mine", Mine)
    register_agent("mine", Mine)  # a module may be run again
    agent = make_agent("mine", "tiny", games=["Pong"], device="cpu")
    agent.save(tmp_path)
    assert type(load_agent(tmp_path)) is Mine
    for kind, wrong, message in (
        ("yours", Mine, "whose kind is 'yours'.* Mine.kind is 'mine'"),
        ("mine", type("Other", (Mine,), {}), "an agent called 'mine' already"),
        ("random", type("Other", (Mine,), {"kind": "random"}), "an agent called 'random' already"),
        ("impala", type("Other", (Mine,), {"kind": "impala"}), "an agent called 'impala' already"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            register_agent(kind, wrong)


def test_protocol_is_the_agent_s(dqn_zip):
    assert load_agent(dqn_zip, protocol=AtariProtocol(sticky=0.0)).protocol.sticky == 0


def test_dqn_zip_is_an_agent(dqn_zip):
    observation = np.zeros((4, 84, 84), np.uint8)
    assert load_agent(str(dqn_zip)).predict(observation)[0] in gym.spaces.Discrete(18)


def test_unknown_names(bundle):
    for name in ("dtt", "DT"):
        with pytest.raises(AgentLoadError, match=f"Unknown agent '{name}'.* Did you mean 'dt'?"):
            load_agent(name)
    with pytest.raises(AgentLoadError, match="Did you mean 'random'"):
        load_agent("randm")
    with pytest.raises(AgentLoadError, match="Known names: cql-pong, dt, random"):
        load_agent("what/is/this")


def test_dqn_is_not_bundled(bundle):
    with pytest.raises(AgentLoadError, match=r"`mgdt-train --agent dqn` trains one; .*model\.zip"):
        load_agent("dqn")


def test_folders_that_are_no_agents(tmp_path):
    with pytest.raises(
        AgentLoadError, match=f"saved agent at {re.escape(str(tmp_path))}: a folder"
    ):
        load_agent(tmp_path)
    (tmp_path / "config.json").write_text('{"learning_rate": 1}')
    with pytest.raises(AgentLoadError, match=r"config\.json is no agent's: .* lacks \['agent', "):
        load_agent(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(AgentLoadError, match=r"config\.json is not JSON"):
        load_agent(tmp_path)


def test_folder_of_unknown_kind(tmp_path):
    make_agent("dt", "tiny").save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | {"agent": "dqt"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(AgentLoadError, match=r"unknown kind 'dqt'. Did you mean 'dt'"):
        load_agent(tmp_path)


def test_make_agent():
    agent = make_agent("bc", "tiny", games=["Pong"], device="cpu")
    assert isinstance(agent, BehavioralCloningAgent)
    assert (agent.games, agent.config) == (("Pong",), BehavioralCloningAgent.presets["tiny"])
    assert make_agent("impala", "small", device="cpu").kind == "impala"
    with pytest.raises(ValueError, match=r"Unknown kind of agent 'cqll'. Did you mean 'cql'"):
        make_agent("cqll", "tiny")
    with pytest.raises(ValueError, match=r"Unknown size 'tinny' of dt. Did you mean 'tiny'"):
        make_agent("dt", "tinny")
    with pytest.raises(ValueError, match=r"Unknown size 'x' of cql. Known names: 5m, 30m, 60m"):
        make_agent("cql", "x")


def test_agents_take_what_environments_take(tmp_path, dqn_zip):
    agent = make_agent("tt", "tiny", games="bundled", protocol="nature", device="cpu")
    assert (agent.games, agent.protocol) == (suite("bundled"), AtariProtocol.nature())
    agent.save(tmp_path)
    for load in (
        lambda **options: make_agent("cql", "tiny", **options),
        lambda **options: load_agent(tmp_path, **options),
        lambda **options: load_agent("random", **options),
        lambda **options: load_agent(dqn_zip, **options),
    ):
        agent = load(games=["pong", "Unheard", "ms_pacman"], protocol={"sticky": 0.5})
        assert agent.games == ("Pong", "Unheard", "MsPacman")
        assert agent.protocol == AtariProtocol(sticky=0.5)
        assert load(games="breakout").games == ("Breakout",)
        for wrong, message in (
            ({"games": "Pang"}, "Unknown game or suite 'Pang'"),
            ({"games": [1]}, "names of games, got 1"),
            ({"protocol": "natur"}, "Unknown protocol 'natur'"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                load(**wrong)
    observation = np.zeros((4, 84, 84), np.uint8)
    make_agent("tt", "tiny", games=["pong"], device="cpu").predict(observation, game="Pong")


def test_a_zip_beside_an_agent_is_not_opened(tmp_path, monkeypatch):
    """What a zip holds is unpickled, which can run any code."""
    make_agent("bc", "tiny", device="cpu").save(tmp_path)
    (tmp_path / "model.zip").write_bytes(b"no zip")
    assert load_agent(tmp_path, device="cpu").kind == "bc"
    hub = importlib.import_module("mgdt_agents.hub")
    monkeypatch.setattr(hub, "download", lambda name: tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(AgentLoadError, match="there is none"):
        load_agent("hf://user/name", device="cpu")

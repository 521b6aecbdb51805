"""Agents by name or by path."""

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from mgdt_agents.acting_settings import options_with, split_settings
from mgdt_agents.actor_critic import ImpalaAgent
from mgdt_agents.agent import Agent, NetworkAgent
from mgdt_agents.agent_files import check_options, read_config
from mgdt_agents.behavioral_cloning import BehavioralCloningAgent
from mgdt_agents.convolutional_cloning import ConvolutionalCloningAgent
from mgdt_agents.decision_transformer import DecisionTransformerAgent, ValueTransformerAgent
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.planning import TrajectoryTransformerAgent
from mgdt_agents.q_learning.cql import CQLAgent
from mgdt_agents.q_learning.pqn_agent import PQNAgent
from mgdt_agents.random_agent import RandomAgent
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

PRETRAINED = Path(__file__).parent / "pretrained"
HUB = "hf://"
NETWORK_AGENTS: dict[str, type[NetworkAgent]] = {
    agent.kind: agent
    for agent in (
        DecisionTransformerAgent,
        BehavioralCloningAgent,
        ConvolutionalCloningAgent,
        ValueTransformerAgent,
        CQLAgent,
        TrajectoryTransformerAgent,
    )
}
"""Agents that learn from replay."""
ONLINE_AGENTS: dict[str, type[NetworkAgent]] = {
    agent.kind: agent for agent in (ImpalaAgent, PQNAgent)
}
"""Agents that learn by playing: see `mgdt_agents.online`."""


def bundled_agents() -> tuple[str, ...]:
    """Return the names of the agents whose weights come with the package."""
    return tuple(sorted(path.parent.name for path in PRETRAINED.glob("*/config.json")))


def path_of_agent(name: str) -> Path | None:
    """Return the file or folder that `load_agent` takes for a name; None where it takes another."""
    name, _ = split_settings(name)
    is_name = name in (*bundled_agents(), RandomAgent.kind) or name.startswith(HUB)
    return None if is_name else Path(name)


def register_agent(kind: str, agent_class: type[NetworkAgent]) -> None:
    """Make an agent known by name: to `make_agent`, `load_agent`, and the commands.

    Args:
        kind: the name; the `kind` of the class, under which it is saved.
        agent_class: a `NetworkAgent` with `config_class`, `presets`, and what is abstract.

    Raises:
        ValueError: if another class has the name, or the class calls itself otherwise.
    """
    if agent_class.kind != kind:
        raise InvalidArgument(
            f"Expected a class whose kind is {kind!r}, under which it is saved; "
            f"{agent_class.__name__}.kind is {agent_class.kind!r}."
        )
    taken = (RandomAgent.kind, "dqn", "ppo", *ONLINE_AGENTS)
    if kind in taken or NETWORK_AGENTS.get(kind, agent_class) is not agent_class:
        raise InvalidArgument(f"There is an agent called {kind!r} already; choose another name.")
    NETWORK_AGENTS[kind] = agent_class


def make_agent(kind: str, size: str, env: gym.Env | None = None, **options: Any) -> NetworkAgent:
    """Return an untrained agent.

    Args:
        kind: a key of `NETWORK_AGENTS` or `ONLINE_AGENTS`, such as "dt" or "impala".
        size: the name of a preset of that kind, such as "10m" or "small".
        env: an environment that the agent shall fit; its spaces are compared.
        options: keyword arguments of the agent: games, protocol, device.

    Raises:
        ValueError: if there is no such kind, size or option. The message suggests the nearest.
        AgentLoadError: if the agent does not fit `env`.
    """
    kinds = NETWORK_AGENTS | ONLINE_AGENTS
    if kind not in kinds:
        raise InvalidArgument(f"Unknown kind of agent {kind!r}. {did_you_mean(kind, kinds)}")
    agent_class = kinds[kind]
    check_options(agent_class, {name: value for name, value in options.items() if name != "device"})
    agent = agent_class(size, **options)
    agent.check_spaces(env)
    return agent


def load_agent(
    name: str | Path,
    env: gym.Env | None = None,
    device: str | torch.device = "auto",
    **options: Any,
) -> Agent:
    """Return a trained agent.

    Args:
        name: a bundled agent, such as "dt" (`bundled_agents()` returns all), "random", the folder
            of a saved agent, the zip file of a stable-baselines3 model, a folder with `model.zip`,
            or "hf://user/name" on the Hugging Face hub. Settings of how it acts may follow, in
            place of the saved ones, such as "dt:kappa=30:action_temperature=1" or
            "dt:rule=BestOfSamples".
        env: an environment that the agent shall fit; its spaces are compared.
        device: where to compute; "auto" takes a GPU if there is one.
        options: keyword arguments of the agent in place of the saved ones, such as dt's `rule`.

    Raises:
        AgentLoadError: if there is no such agent, or it does not fit `env`. The message suggests
            the nearest names.
        ValueError: for an option or a setting that the agent has not, or a device that is not
            there.

    Example:
        >>> from mgdt_agents import load_agent
        >>> load_agent("random").action_space
        Discrete(18)
    """
    name, settings = split_settings(str(name))
    if name == RandomAgent.kind:
        options_with({}, settings, name)
        check_options(RandomAgent, options)
        agent = RandomAgent(**options)
        agent.check_spaces(env)
        return agent
    path = Path(name)
    if name in bundled_agents():
        path = PRETRAINED / name
    elif name.startswith(HUB):
        # By name: the hub is above the agents and imports them.
        path = importlib.import_module("mgdt_agents.hub").download(name.removeprefix(HUB))
    # What a zip holds is unpickled: none is taken in the place of an agent, nor from the hub.
    is_agent = (path / "config.json").is_file() or name.startswith(HUB)
    if not is_agent and (path / "model.zip").is_file():
        path = path / "model.zip"
    if path.is_file():
        # Imported only when needed: it takes seconds.
        from mgdt_agents.sb3_agent import SB3Agent

        options_with({}, settings, path.name)
        return SB3Agent.load(path, env, device, **options)
    if not path.is_dir():
        if name == "dqn":
            raise AgentLoadError(
                "No DQN comes with the package. `mgdt-train --agent dqn` trains one; "
                "then give the path of its model.zip."
            )
        known = [*bundled_agents(), RandomAgent.kind]
        raise AgentLoadError(
            f"Unknown agent {name!r}: neither a name nor a path. {did_you_mean(name, known)}"
        )
    content = read_config(path)
    kind = content["agent"]
    kinds = NETWORK_AGENTS | ONLINE_AGENTS
    if kind not in kinds:
        raise AgentLoadError(
            f"{path} holds an agent of unknown kind {kind!r}. {did_you_mean(kind, kinds)}"
        )
    agent_class = kinds[kind]
    if settings:
        saved = {option: content[option] for option in agent_class._saved_options(content)}
        options = agent_class._saved_options(options_with(saved, settings, kind)) | options
    return agent_class.load(path, env, device, **options)

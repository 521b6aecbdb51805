"""The arguments of `mgdt-train`, which depend on the agent."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro

from mgdt_agents import load_agent
from mgdt_agents.agent import NetworkAgent
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.replay import ReplayStore
from mgdt_agents.training import FineTuningConfig, TrainingConfig
from mgdt_cli.arguments import AgentPath, Games, Steps, parse
from mgdt_cli.train_plan import PlanArguments
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import InvalidArgument, importing
from mgdt_envs.games import did_you_mean
from mgdt_envs.protocol import as_protocol

T = TypeVar("T")
ONLINE_KINDS = ("impala", "pqn", "dqn", "ppo")
"""Names of the learners in `mgdt_agents.online.collection`, whose import takes seconds."""
KINDS = (*NETWORK_AGENTS, *ONLINE_KINDS)
DEFAULT_SIZE = "small"
CONFIGS: dict[str, Any] = {"train": TrainingConfig, "fine-tune": FineTuningConfig}


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentArgument:
    """Choose the agent; `mgdt-train --agent NAME --help` lists what it reads."""

    agent: str
    """dt, dtq, bc, bc_conv, cql or tt, trained on replay; or impala, pqn, dqn, ppo, which play."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonArguments:
    """What every training reads."""

    agent: str
    """dt, dtq, bc, bc_conv, cql or tt, trained on replay; or impala, pqn, dqn or ppo, which play.
    --help after it lists what the agent reads."""
    output: Path | None = None
    """Folder of the run; by default runs/<agent>-<size>, with --init or of an agent that plays
    runs/<agent>."""
    overwrite: bool = False
    """Begin anew where the output folder holds a training already."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""

    @property
    def name(self) -> str:
        """Of the run's folder, where none is given."""
        return self.agent


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineArguments(CommonArguments):
    """Train an agent on replay stores.

    The agent is written to the output folder, which `mgdt-bench --agents` takes. A training that
    was stopped resumes from its last checkpoint when the same command runs again.
    """

    preset: Literal["train", "fine-tune"] = "train"
    """Defaults of the options below: for training, or for fine-tuning on one per cent of a game's
    data, both as in Lee et al. 2022."""
    dry_run: bool = False
    """Say what the training would take, in memory and time, and do not train."""
    plan: PlanArguments = field(default_factory=PlanArguments)
    track: Literal["none", "wandb"] = "none"
    """Send the log to Weights & Biases, too."""
    training: Any = None
    """Replaced by the config of `preset`."""
    size: str = DEFAULT_SIZE
    """Preset of the network, whose fields --network.* change; small trains on two cores."""
    init: AgentPath | None = None
    """Begin with the weights of this saved agent, of the same kind, in place of --size: a folder,
    a bundled agent's name, or hf://user/name."""
    protocol: str | None = None
    """Rules that the agent is for: replay (those of the stores), default, mgdt_release, nature,
    machado. Without it, those of --init, or default."""
    network: Any = None
    """The network of --size or --init, with what is to be otherwise."""

    @property
    def name(self) -> str:
        """Of the run's folder, where none is given."""
        return self.agent if self.init is not None else f"{self.agent}-{self.size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineArguments(CommonArguments):
    """Train an agent by playing: impala learns several games with one set of weights, pqn one game.

    The output folder is a collection, as `mgdt-collect` makes them: the agent, which `mgdt-bench
    --agents` takes, and a trace of each game. A training that was stopped resumes when the same
    command runs again, from the last checkpoint and the traces; dqn and ppo cannot.

    With --ray, RLlib plays and learns on the machines of a Ray cluster, and keeps no traces; --help
    after it lists what that reads.
    """

    games: Games
    """Games or suites to play, with equally many environments each; at least one a game."""
    steps: Steps
    """Agent steps of all games together."""
    threads: int = 0
    """Emulator threads; 0 takes one a core, and with Ray one an env runner. The play does not
    depend on it."""
    ray: str | None = None
    """Address of a Ray cluster on which impala is learned, such as "auto" or ray://HOST:10001;
    "local" starts one on this machine."""
    learner: Any = None
    """Replaced by the config of the learner."""


def parse_arguments(
    given: Sequence[str], description: str | None
) -> OfflineArguments | OnlineArguments:
    """Return the arguments of the agent that they name, which has its own.

    Raises:
        ValueError: for an unknown agent or size, or an `--init` that is no agent of that kind.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--agent")
    first.add_argument("--size")
    first.add_argument("--init", type=os.path.expanduser)
    first.add_argument("--preset", default="train", choices=CONFIGS)
    first.add_argument("--ray")
    known, _ = first.parse_known_args(given)
    if known.agent is None:
        parse(AgentArgument, description)
        raise AssertionError("--agent is required")
    if known.agent in ONLINE_KINDS:
        learner: Any = Annotated[learner_config(known.agent, known.ray), tyro.conf.arg(name="")]
        return parse(_with_fields(OnlineArguments, ("learner", learner, field())), description)
    if known.agent not in NETWORK_AGENTS:
        raise InvalidArgument(
            f"Unknown kind of agent {known.agent!r}. {did_you_mean(known.agent, KINDS)}"
        )
    agent_class = NETWORK_AGENTS[known.agent]
    if known.init is None:
        network = agent_class.preset(known.size or DEFAULT_SIZE)
    elif known.size is None:
        network = load_kind(known.agent, known.init, "cpu").config
    else:
        raise InvalidArgument(
            f"--size {known.size} and --init {known.init}, whose weights have a size already; "
            "leave one of the two out."
        )
    training: Any = Annotated[CONFIGS[known.preset], tyro.conf.arg(name="")]
    arguments = _with_fields(
        OfflineArguments,
        ("training", training, field()),
        ("network", agent_class.config_class, field(default=network)),
    )
    return parse(arguments, description)


def learner_config(agent: str, ray: str | None) -> type:
    """Return the class that says how an agent learns by playing, here or on a Ray cluster.

    Raises:
        ValueError: for an agent that is not learned on a cluster.
        MissingExtra: without RLlib, for one that is.
    """
    if ray is None:
        from mgdt_agents.online.collection import LEARNERS

        return LEARNERS[agent].config_class
    if agent != "impala":
        raise InvalidArgument(
            f"--ray is for --agent impala, got {agent}; `mgdt-collect --ray` shares out the games "
            "of other learners."
        )
    with importing("--agent impala --ray needs RLlib, in an environment of its own", "rllib"):
        from mgdt_agents.online.rllib_config import RLlibConfig
    return RLlibConfig


def _with_fields(arguments: type[T], *new: Any) -> type[T]:
    """Return the class `arguments` with fields that are known only now."""
    return make_dataclass(arguments.__name__, new, bases=(arguments,), frozen=True, kw_only=True)


def make(arguments: OfflineArguments, device: str) -> NetworkAgent:
    """Return the agent to train on `device`: new, or from the weights of `--init`.

    Raises:
        ValueError: if the weights do not fit the network that the arguments describe.
    """
    torch.manual_seed(arguments.training.seed)  # of the first weights
    protocol = None if arguments.protocol is None else find_protocol(arguments)
    if arguments.init is None:
        agent_class = NETWORK_AGENTS[arguments.agent]
        return agent_class(arguments.network, protocol=protocol, device=device)
    agent = load_kind(arguments.agent, arguments.init, device)
    return agent.changed(arguments.network, protocol or agent.protocol)


def load_kind(kind: str, name: str, device: str) -> NetworkAgent:
    """Return the saved agent called `name`.

    Raises:
        ValueError: if there is none, or it is of another kind.
    """
    agent = load_agent(name, device=device)
    if not isinstance(agent, NetworkAgent) or agent.kind != kind:
        raise InvalidArgument(f"{name} holds an agent of kind {agent.kind!r}, expected {kind!r}.")
    return agent


def find_protocol(arguments: OfflineArguments) -> AtariProtocol:
    """Return the protocol that `--protocol` names, or the first store's."""
    if arguments.protocol != "replay":
        return as_protocol(arguments.protocol)
    if not arguments.training.replay:
        raise InvalidArgument("--protocol replay takes the rules of --replay, and there is none.")
    return ReplayStore(arguments.training.replay[0]).protocol

"""Train an agent on recorded play; `mgdt-train --agent NAME --help` lists what it reads.

Examples:
    mgdt-train --agent dt --replay replay/Pong,replay/Breakout --steps 10k
    mgdt-train --agent cql --size 5m --replay replay/Pong --steps 100k --output runs/pong
    mgdt-train --agent dqn --games Pong --steps 1m
"""

import argparse
import multiprocessing
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro

from mgdt_agents import load_agent
from mgdt_agents.agent import NetworkAgent
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.replay import ReplayStore
from mgdt_agents.training import TrainingConfig, train
from mgdt_cli.common import parse, progress_bar, run, say
from mgdt_envs import AtariProtocol, resolve_games
from mgdt_envs.errors import InvalidArgument, OutputExists
from mgdt_envs.games import did_you_mean
from mgdt_envs.protocol import as_protocol

T = TypeVar("T")
KINDS = (*NETWORK_AGENTS, "dqn")
STOPPING = threading.Event()
"""Set when training is to stop after the step that it is at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentArgument:
    """Choose the agent; `mgdt-train --agent NAME --help` lists what it reads."""

    agent: str
    """dt, dtq, bc, bc_conv or cql, trained on replay; or dqn, which plays itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonArguments:
    """What every training reads."""

    agent: str
    """dt, dtq, bc, bc_conv or cql, trained on replay; or dqn, which plays itself. --help lists what
    the agent reads."""
    output: Path | None = None
    """Folder of the run; by default runs/<agent>-<size>."""
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

    training: Annotated[TrainingConfig, tyro.conf.arg(name="")]
    size: str = "small"
    """Preset of the network, whose fields --network.* change; small trains on two cores."""
    init: str | None = None
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
        return f"{self.agent}-{self.size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNArguments(CommonArguments):
    """Train stable-baselines3's DQN by playing; it cannot be stopped and resumed."""

    dqn: Any
    """Replaced by `DQNConfig`, whose import takes seconds."""


def main() -> None:
    """Run the command."""
    run(lambda: start(parse_arguments(sys.argv[1:])))


def parse_arguments(given: Sequence[str]) -> OfflineArguments | DQNArguments:
    """Return the arguments of the agent that they name, which has its own.

    Raises:
        ValueError: for an unknown agent or size, or an `--init` that is no agent of that kind.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--agent")
    first.add_argument("--size", default="small")
    first.add_argument("--init")
    known, _ = first.parse_known_args(given)
    if known.agent is None:
        parse(AgentArgument, __doc__)
        raise AssertionError("--agent is required")
    if known.agent == "dqn":
        from mgdt_agents.online.dqn import DQNConfig

        dqn = ("dqn", Annotated[DQNConfig, tyro.conf.arg(name="")])
        return parse(_with_field(DQNArguments, dqn), __doc__)
    if known.agent not in NETWORK_AGENTS:
        raise InvalidArgument(
            f"Unknown kind of agent {known.agent!r}. {did_you_mean(known.agent, KINDS)}"
        )
    agent_class = NETWORK_AGENTS[known.agent]
    if known.init is not None:
        network = load_kind(known.agent, known.init, "cpu").config
    elif known.size in agent_class.presets:
        network = agent_class.presets[known.size]
    else:
        raise InvalidArgument(
            f"Unknown size {known.size!r} of {known.agent}. "
            f"{did_you_mean(known.size, agent_class.presets)}"
        )
    network_field = ("network", agent_class.config_class, field(default=network))
    arguments = _with_field(OfflineArguments, network_field)
    return parse(arguments, __doc__)


def _with_field(arguments: type[T], new: Any) -> type[T]:
    """Return the class `arguments` with a field that is known only now."""
    return make_dataclass(arguments.__name__, [new], bases=(arguments,), frozen=True, kw_only=True)


def start(arguments: OfflineArguments | DQNArguments) -> None:
    """Train what the arguments say.

    Raises:
        ValueError: for replay that cannot be used.
        FileExistsError: if the output folder holds something else than a training.
    """
    offline = isinstance(arguments, OfflineArguments)
    output = arguments.output or Path("runs") / arguments.name
    holds_training = (output / "training.json").exists()
    if output.exists() and arguments.overwrite:
        if not holds_training and not (output / "model.zip").exists():
            raise OutputExists(f"{output} holds no training, so it is not overwritten.")
        shutil.rmtree(output)
    if output.exists() and not (offline and holds_training):
        raise OutputExists(
            f"{output} exists and holds no training to resume; choose another --output "
            "or add --overwrite."
        )
    if isinstance(arguments, OfflineArguments):
        start_offline(arguments, output)
    else:
        start_dqn(arguments, output)


def start_offline(arguments: OfflineArguments, output: Path) -> None:
    """Train a network agent on replay, until it is done or Ctrl-C or SIGTERM stop it."""
    agent = make(arguments)
    steps = arguments.training.steps
    STOPPING.clear()
    handlers = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with progress_bar() as progress:
            task = progress.add_task(arguments.agent, total=steps, note="")

            def show(figures: dict[str, Any]) -> None:
                losses = [f"{k} {v:.3f}" for k, v in figures.items() if k.endswith("loss")]
                note = f"{figures['windows_per_second']:,.0f} windows/s, {', '.join(losses)}"
                progress.update(task, completed=figures["step"], note=note)

            done = train(
                agent,
                arguments.training,
                output=output,
                on_log=show,
                should_stop=STOPPING.is_set,
            )
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    if done < steps:
        say(f"Stopped after step {done} of {steps}; the same command resumes from {output}.")
    else:
        say(f"Trained; `mgdt-bench --agents {output}` scores it.")


def make(arguments: OfflineArguments) -> NetworkAgent:
    """Return the agent to train: new, or from the weights of `--init`.

    Raises:
        ValueError: if the weights do not fit the network that the arguments describe.
    """
    torch.manual_seed(arguments.training.seed)  # of the first weights
    protocol = None if arguments.protocol is None else find_protocol(arguments)
    if arguments.init is None:
        agent_class = NETWORK_AGENTS[arguments.agent]
        return agent_class(arguments.network, protocol=protocol, device=arguments.device)
    agent = load_kind(arguments.agent, arguments.init, arguments.device)
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


def stop(number: int, frame: Any) -> None:
    """Have training stop after the step that it is at; at once the second time."""
    # Processes that decode windows get the signal, too.
    if multiprocessing.parent_process() is not None:
        return
    if STOPPING.is_set():
        raise KeyboardInterrupt
    STOPPING.set()
    say("Stopping after this step; once more to stop at once.")


def start_dqn(arguments: DQNArguments, output: Path) -> None:
    """Train stable-baselines3's DQN by playing."""
    # Imported only when needed: it takes seconds.
    from mgdt_agents.online.dqn import train_dqn

    config = replace(arguments.dqn, games=resolve_games(arguments.dqn.games))
    with progress_bar() as progress:
        task = progress.add_task("dqn", total=config.steps, note="")

        def show(taken: int, mean_return: float | None) -> None:
            note = "" if mean_return is None else f"mean return {mean_return:.1f}"
            progress.update(task, completed=taken, note=note)

        train_dqn(config, output, device=arguments.device, on_step=show)
    say(f"Trained; `mgdt-bench --agents {output / 'model.zip'}` scores it.")


if __name__ == "__main__":
    main()

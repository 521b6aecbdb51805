"""Train an agent on recorded play.

Examples:
    mgdt-train --agent dt --replay replay/Pong,replay/Breakout --steps 10k
    mgdt-train --agent cql --size 5m --replay replay/Pong --steps 100k --output runs/pong
    mgdt-train --agent dqn --games Pong --steps 1m
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from mgdt_agents import make_agent
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.training import TrainingConfig, train
from mgdt_cli.common import Games, parse, progress_bar, run, say
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument, OutputExists
from mgdt_envs.games import did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainArguments:
    """Train dt, bc or cql on replay stores, or dqn by playing.

    The agent is written to the output folder, which `mgdt-bench --agents` takes. A training that
    was stopped goes on from its last checkpoint when the same command runs again.
    """

    agent: str
    """dt, bc, cql; or dqn, which plays --games itself and needs no --replay."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")]
    size: str = "small"
    """Preset of the network: small trains on two cores; dt and bc: 10m, 40m, 200m; cql: 5m, ..."""
    init: Path | None = None
    """Begin with the weights of this saved agent, of the same kind; its size counts."""
    games: Games = field(default=("bundled",))
    """Games or suites that dqn plays."""
    output: Path | None = None
    """Folder of the run; by default runs/<agent>-<size>."""
    overwrite: bool = False
    """Begin anew where the output folder holds a training already."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""


def main() -> None:
    """Run the command."""
    run(lambda: start(parse(TrainArguments, __doc__)))


def start(arguments: TrainArguments) -> None:
    """Train what the arguments say.

    Raises:
        ValueError: for an unknown agent or size, or replay that cannot be used.
        FileExistsError: if the output folder holds something else than a training.
    """
    kinds = [*NETWORK_AGENTS, "dqn"]
    if arguments.agent not in kinds:
        raise InvalidArgument(
            f"Unknown kind of agent {arguments.agent!r}. {did_you_mean(arguments.agent, kinds)}"
        )
    name = "dqn" if arguments.agent == "dqn" else f"{arguments.agent}-{arguments.size}"
    output = arguments.output or Path("runs") / name
    holds_training = (output / "training.json").exists()
    if output.exists() and arguments.overwrite:
        if not holds_training and not (output / "model.zip").exists():
            raise OutputExists(f"{output} holds no training, so it is not overwritten.")
        shutil.rmtree(output)
    if output.exists() and (arguments.agent == "dqn" or not holds_training):
        raise OutputExists(
            f"{output} exists and holds no training to go on with; choose another --output "
            "or add --overwrite."
        )
    if arguments.agent == "dqn":
        start_dqn(arguments, output)
        trained = output / "model.zip"
    else:
        start_offline(arguments, output)
        trained = output
    say(f"Trained; `mgdt-bench --agents {trained}` scores it.")


def start_offline(arguments: TrainArguments, output: Path) -> None:
    """Train a network agent on replay."""
    torch.manual_seed(arguments.training.seed)  # of the first weights
    if arguments.init:
        agent = NETWORK_AGENTS[arguments.agent].load(arguments.init, device=arguments.device)
    else:
        agent = make_agent(arguments.agent, arguments.size, device=arguments.device)
    with progress_bar() as progress:
        task = progress.add_task(arguments.agent, total=arguments.training.steps, note="")

        def show(figures: dict[str, Any]) -> None:
            losses = [f"{k} {v:.3f}" for k, v in figures.items() if k.endswith("loss")]
            note = f"{figures['windows_per_second']:,.0f} windows/s, {', '.join(losses)}"
            progress.update(task, completed=figures["step"], note=note)

        train(agent, arguments.training, output=output, on_log=show)


def start_dqn(arguments: TrainArguments, output: Path) -> None:
    """Train stable-baselines3's DQN by playing."""
    # Imported only when needed: it takes seconds.
    from mgdt_agents.online.dqn import DQNConfig, train_dqn

    steps = arguments.training.steps
    config = DQNConfig(
        games=resolve_games(arguments.games),
        steps=steps,
        learning_starts=min(100_000, steps // 10),
        seed=arguments.training.seed,
    )
    with progress_bar() as progress:
        task = progress.add_task("dqn", total=steps, note="")

        def show(taken: int, mean_return: float | None) -> None:
            note = "" if mean_return is None else f"mean return {mean_return:.1f}"
            progress.update(task, completed=taken, note=note)

        train_dqn(config, output, device=arguments.device, on_step=show)


if __name__ == "__main__":
    main()

"""Train an agent, on recorded play or by playing; `mgdt-train --agent NAME --help` says more.

Examples:
    mgdt-train --agent dt --replay replay/Pong,replay/Breakout --steps 10k
    mgdt-train --agent cql --size 5m --replay replay/Pong --steps 100k --output runs/pong
    mgdt-train --agent impala --games Pong,Breakout,SpaceInvaders --steps 6m
    mgdt-train --agent impala --games mgdt41 --steps 2000m --ray auto --env-runners 64

Several processes: torchrun --nproc_per_node 8 -m mgdt_cli.train --agent dt ...
Runs beside each other: mgdt-train --sweep FILE; their curves: mgdt-train curves RUN...
"""

import multiprocessing
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.replay.files import is_left_over
from mgdt_agents.training import TrainingConfig, parallel, train
from mgdt_agents.training.loop import training_dtype
from mgdt_agents.training.plan import costs_of_stages, peak_flops
from mgdt_agents.training.tracking import WandbTracker
from mgdt_cli.arguments import parse
from mgdt_cli.cluster import connect
from mgdt_cli.console import ProgressBar, describe_play, handling_signals, run, say
from mgdt_cli.train_arguments import OfflineArguments, OnlineArguments, make, parse_arguments
from mgdt_cli.train_curves import CurvesArguments, draw_curves
from mgdt_cli.train_plan import print_plan
from mgdt_cli.train_sweep import SweepArguments, start_sweep
from mgdt_envs import resolve_games
from mgdt_envs.errors import OutputExists

STOPPING = threading.Event()
"""Set when training is to stop after the step that it is at."""


def main() -> None:
    """Run the command."""
    run(choose)


def choose() -> None:
    """Do what the command line asks for."""
    STOPPING.clear()
    if sys.argv[1:2] == ["curves"]:
        draw_curves(parse(CurvesArguments, CurvesArguments.__doc__, "curves"))
    elif any(argument.split("=")[0] == "--sweep" for argument in sys.argv[1:]):
        start_sweep(parse(SweepArguments, SweepArguments.__doc__))
    else:
        start(parse_arguments(sys.argv[1:], __doc__))


def start(arguments: OfflineArguments | OnlineArguments) -> None:
    """Train what the arguments say.

    Raises:
        ValueError: for replay that cannot be used.
        FileExistsError: if the output folder holds something else than a training.
    """
    output = arguments.output or Path("runs") / arguments.name
    if isinstance(arguments, OfflineArguments):
        device = parallel.join(arguments.device)
        try:
            start_offline(arguments, output, device)
        finally:
            parallel.leave()
    else:
        start_online(arguments, output)


def check_room(output: Path, overwrite: bool, description: str) -> None:
    """Make sure that nothing is lost in the output folder.

    Args:
        output: the folder.
        overwrite: whether a training that it holds is going to be removed.
        description: the file that says what a training like this one is.

    Raises:
        FileExistsError: if it holds something else than a training that can be resumed.
    """
    held = [output] if output.is_file() else list(output.glob("*"))
    if all(map(is_left_over, held)) or (output / description).exists():
        return
    if not overwrite:
        raise OutputExists(
            f"{output} exists and holds no training to resume; choose another --output "
            "or add --overwrite."
        )
    if not any(output.glob("model.*")):
        raise OutputExists(f"{output} holds no training, so it is not overwritten.")


def start_offline(arguments: OfflineArguments, output: Path, device: str) -> None:
    """Train a network agent on replay, until it is done or Ctrl-C or SIGTERM stop it."""
    agent = make(arguments, device)
    if arguments.dry_run:
        print_plan(agent, arguments.training, arguments.plan)
        return
    if parallel.rank() == 0:
        check_room(output, arguments.overwrite, "training.json")
    parallel.barrier()
    steps, speaks = arguments.training.steps, parallel.rank() == 0
    tracking = speaks and arguments.track == "wandb"
    with (
        WandbTracker(output) if tracking else nullcontext() as tracker,
        handling_signals(stop),
        ProgressBar() as progress,
    ):
        tasks: list[Any] = []
        shares: list[Any] = []

        def count(done: int) -> None:
            if not tasks:
                tasks.append(progress.add_task(arguments.agent, total=steps, completed=done))
                # Only now does the agent have the games of the replay.
                shares.append(share_of_peak_at(agent, arguments.training))
                if tracker is not None:
                    tracker.begin()
            progress.update(tasks[0], completed=done)

        def show(figures: dict[str, Any]) -> None:
            if note := describe(figures, *shares):
                progress.update(tasks[0], note=note)
            if tracker is not None:
                tracker(figures)

        done = train(
            agent,
            arguments.training,
            output=output,
            overwrite=arguments.overwrite,
            on_step=count if speaks else lambda done: None,
            on_log=show if speaks else lambda figures: None,
            should_stop=STOPPING.is_set,
        )
    if not speaks:
        return
    if done < steps:
        say(f"Stopped after step {done} of {steps}; the same command resumes from {output}.")
    else:
        say(f"Trained; `mgdt-bench --agents {output}` scores it.")


def share_of_peak_at(
    agent: NetworkAgent, config: TrainingConfig
) -> Callable[[dict[str, Any]], float]:
    """Return what gives, for a line of the log, the share of what a matrix product reaches here."""
    costs = costs_of_stages(agent, config)
    flop = {first: cost.flop for first, cost in costs.items()}
    peak = parallel.world_size() * peak_flops(agent.device, training_dtype(agent.device, config))

    def share(figures: dict[str, Any]) -> float:
        stage = max(first for first in flop if first < figures["step"])
        return figures["windows_per_second"] * flop[stage] / peak

    return share


def describe(figures: dict[str, Any], share_of_peak: Callable[[dict[str, Any]], float]) -> str:
    """Return a line of the log as a note."""
    if "windows_per_second" in figures:
        speed = figures["windows_per_second"]
        # A stage that learns no actions has no accuracy.
        accuracy = f"accuracy {figures['accuracy']:.2f}, " if "accuracy" in figures else ""
        return (
            f"{speed:,.0f} windows/s, {share_of_peak(figures):.0%} of peak, loss "
            f"{figures['loss']:.3f}, {accuracy}data wait {figures['data_wait']:.0%}, memory "
            f"{figures['memory'] / 2**30:.1f} GiB"
        )
    if "heldout_loss" in figures:
        loss, accuracy = figures["heldout_loss"], figures["heldout_accuracy"]
        return f"held-out loss {loss:.3f}, accuracy {accuracy:.2f}"
    scores = [f"{k.removeprefix('score/')} {v:.1f}" for k, v in figures.items() if "score/" in k]
    return ", ".join(scores)


def stop(number: int, frame: Any) -> None:
    """Have training stop after the step that it is at; at once the second time."""
    # Processes that decode windows get the signal, too.
    if multiprocessing.parent_process() is not None:
        return
    # torchrun hands each signal on, and so does the terminal.
    if STOPPING.is_set() and parallel.world_size() == 1:
        raise KeyboardInterrupt
    if not STOPPING.is_set() and parallel.rank() == 0:
        say("Stopping after this step; once more to stop at once.")
    STOPPING.set()


def start_online(arguments: OnlineArguments, output: Path) -> None:
    """Train an agent by playing, until it is done or Ctrl-C or SIGTERM stop it."""
    # Imported only when needed: it takes seconds.
    from mgdt_agents.online.collection import LEARNERS, collect

    games = resolve_games(arguments.games)
    check_room(
        output, arguments.overwrite, "collection.json" if arguments.ray is None else "training.json"
    )
    learn: Callable[..., bool] = partial(collect, arguments.agent)
    if arguments.ray is not None:
        from mgdt_agents.online.rllib import train_rllib

        connect(arguments.ray, shows_output=False)
        learn = train_rllib
    with handling_signals(stop), ProgressBar() as progress:
        task = progress.add_task(arguments.agent, total=arguments.steps)

        def show(figures: dict[str, Any]) -> None:
            progress.update(task, completed=figures["step"], note=describe_play(figures))

        finished = learn(
            games,
            arguments.steps,
            arguments.learner,
            output,
            overwrite=arguments.overwrite,
            device=arguments.device,
            num_threads=arguments.threads,
            on_log=show,
            should_stop=STOPPING.is_set,
        )
    if finished:
        say(f"Trained; `mgdt-bench --agents {output}` scores it.")
    elif LEARNERS[arguments.agent].can_resume:
        say(f"Stopped; the same command resumes from {output}.")
    else:
        say(f"Stopped; {output} holds what was learned. It cannot resume.")


if __name__ == "__main__":
    main()

"""Record an agent's play as traces: `mgdt-replay trace --agent dt --games Pong --steps 100k`."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgdt_agents import load_agent
from mgdt_agents.evaluation.agent_trace import is_recorded, record_agent
from mgdt_agents.replay.files import make_folder
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_cli.arguments import Games, Steps
from mgdt_cli.console import ProgressBar, handling_signals, say
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument, OutputExists
from mgdt_envs.seeds import RECORDING_SEED

RECENT_EPISODES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceArguments:
    """Record the play of an agent as a trace a game, which `expand` makes a store of.

    Ctrl-C stops and saves what was played.
    """

    agent: str
    """A bundled agent (dt, dtq, bc, bc-weighted, bc-filtered, cql, impala), random, a folder of an
    agent, a zip of stable-baselines3, or an agent of the Hugging Face Hub (hf://user/name). It
    plays under the rules it was trained under."""
    games: Games = ("bundled",)
    """Games or suites."""
    steps: Steps = 100_000
    """Agent steps of each game."""
    output: Path = Path("traces")
    """Folder of the traces, which are called <game>.npz."""
    num_envs: int = 8
    """Environments played together; episodes that they have not finished at the end are lost."""
    seed: int = RECORDING_SEED
    """Of the first environment, the next has one more, and of the agent's draws."""
    deterministic: bool = False
    """Take the likeliest action instead of drawing one."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    threads: int = 0
    """Emulator threads; 0 takes one a core. The play does not depend on it."""


def trace_all(arguments: TraceArguments) -> None:
    """Record every game.

    Raises:
        ValueError: for an unknown agent or game, no environment, or a protocol with JPEG.
        FileExistsError: if the place of a trace holds another; nothing is played then.
    """
    outputs = {name: arguments.output / f"{name}.npz" for name in resolve_games(arguments.games)}
    play: dict[str, Any] = {
        "num_envs": arguments.num_envs,
        "seed": arguments.seed,
        "deterministic": arguments.deterministic,
    }
    for name, output in list(outputs.items()):
        if is_recorded(output, arguments.agent, name, arguments.steps, **play):
            say(f"{output}: is there already")
            del outputs[name]
        elif output.exists():
            raise OutputExists(f"{output} exists; choose another --output or remove it first.")
    agent = load_agent(arguments.agent, device=arguments.device)
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        say("Stopping; once more to stop without saving.")

    make_folder(arguments.output)
    with handling_signals(stop), ProgressBar() as progress:
        for name, output in outputs.items():
            task = progress.add_task(name, total=arguments.steps)

            def show(envs: TraceRecorder, task: Any = task) -> None:
                returns = [total for _, _, total in envs.episodes[-RECENT_EPISODES:]]
                note = f"mean return {np.mean(returns):.1f}" if returns else ""
                progress.update(task, completed=len(envs.actions) * envs.num_envs, note=note)

            trace = record_agent(
                agent,
                arguments.agent,
                name,
                arguments.steps,
                **play,
                num_threads=arguments.threads,
                on_step=show,
                should_stop=stopping.is_set,
            )
            if not len(trace.episode_return):
                raise InvalidArgument(
                    f"No episode of {name} ended within the {trace.actions.size:,} steps that were "
                    f"played, so nothing could be expanded from the trace, and it is not saved; "
                    "raise --steps or lower --num-envs."
                )
            trace.save(output)
            say(
                f"{output}: {trace.actions.size:,} steps, {len(trace.episode_return):,} whole "
                "episodes; `mgdt-replay expand` makes a store of it."
            )
            if stopping.is_set():
                return

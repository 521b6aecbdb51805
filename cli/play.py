"""Watch an agent play: in a window, as a video, or on a page.

Examples:
    mgdt-play --agent dt
    mgdt-play --agent dt --games Pong,Breakout --record wall.mp4 --seconds 20
    mgdt-play --agent runs/dt-small --web --explain
"""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mgdt_agents import load_agent
from mgdt_agents.evaluation.videos import check_video
from mgdt_agents.play import Wall
from mgdt_agents.registry import bundled_agents
from mgdt_cli.arguments import Games, parse
from mgdt_cli.console import ProgressBar, run, say
from mgdt_envs import PROTOCOLS, resolve_games
from mgdt_envs.errors import InvalidArgument, OutputExists

MAX_SCALE = 8  # a game is wider than most screens then
MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayArguments:
    """Watch an agent play all its games at once.

    A window opens, unless --record or --web says otherwise.
    """

    agent: str = "dt"
    """A bundled agent (dt, dtq, bc, bc-weighted, bc-filtered, cql, impala), random, a folder of an
    agent, a zip of stable-baselines3, or an agent of the Hugging Face Hub (hf://user/name)."""
    games: Games = ()
    """Games or suites; by default those that the agent was trained on."""
    record: Path | None = None
    """Write the play to this .mp4 file instead."""
    seconds: float = 30.0
    """Length of the recording, at the console's pace."""
    overwrite: bool = False
    """Replace an existing recording."""
    web: bool = False
    """Serve a live page instead, until it is closed."""
    host: str = "127.0.0.1"
    """Address that the page is served on; others let other machines watch and play."""
    port: int = 8000
    """Port of the page; 0 takes any that is free."""
    stay: bool = False
    """Serve on when the last page has been closed."""
    explain: bool = False
    """Show the predicted returns, where in the frames the agent looks, and beside each screen the
    frame that it imagined, of agents that do."""
    protocol: Literal["default", "mgdt_release", "nature", "machado"] | None = None
    """Rules of play; by default those that the agent was trained under."""
    seed: int = 0
    """Of the first game, and of the agent's draws."""
    scale: int = 2
    """Screen pixels of a pixel of the console, in the window and the recording."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""


def main() -> None:
    """Run the command."""
    run(lambda: play(parse(PlayArguments, __doc__)))


def play(arguments: PlayArguments) -> None:
    """Play and show.

    Raises:
        ValueError: for an unknown agent or game, or a place to show it that is not there.
        FileExistsError: if the recording exists and may not be overwritten.
    """
    if arguments.record and arguments.web:
        raise InvalidArgument("Expected --record or --web, got both.")
    if arguments.record and arguments.record.exists() and not arguments.overwrite:
        raise OutputExists(
            f"{arguments.record} exists; choose another --record or add --overwrite."
        )
    if arguments.record:
        check_video(arguments.record)
    if arguments.scale > MAX_SCALE:
        raise InvalidArgument(f"--scale must be at most {MAX_SCALE}, got {arguments.scale}")
    for name, least in ("seconds", 0.1), ("scale", 1), ("port", 0):
        if not getattr(arguments, name) >= least:  # nor nan
            value = getattr(arguments, name)
            raise InvalidArgument(f"--{name} must be at least {least}, got {value}")
    if math.isinf(arguments.seconds):
        raise InvalidArgument("--seconds must be finite, got inf")
    if arguments.port > MAX_PORT:
        raise InvalidArgument(f"--port must be at most {MAX_PORT}, got {arguments.port}")
    agent = load_agent(arguments.agent, device=arguments.device)
    if agent.protocol_is_assumed and arguments.protocol is None:
        raise InvalidArgument(
            f"{arguments.agent} does not say under which protocol it was trained: give --protocol."
        )
    games = arguments.games or agent.games or ("bundled",)
    wall = Wall(
        agent,
        resolve_games(games),
        protocol=None if arguments.protocol is None else PROTOCOLS[arguments.protocol],
        seed=arguments.seed,
        explain=arguments.explain or arguments.web,
    )
    try:
        if arguments.record:
            record(wall, arguments.record, arguments)
        elif arguments.web:
            serve(wall, arguments)
        else:
            # Imported only when needed: it loads the desktop's libraries.
            from mgdt_agents.play.window import show_in_window

            show_in_window(wall, scale=arguments.scale)
    finally:
        wall.close()


def record(wall: Wall, path: Path, arguments: PlayArguments) -> None:
    """Write the wall as a video."""
    from mgdt_agents.evaluation.videos import write_video
    from mgdt_agents.play.picture import draw_wall

    pace = wall.envs.protocol.steps_per_second
    steps = max(1, round(arguments.seconds * pace))
    with ProgressBar() as progress:
        task = progress.add_task(path.name, total=steps)

        def pictures() -> Iterator[np.ndarray]:
            for _ in range(steps):
                yield draw_wall(wall.step(), wall.games, scale=arguments.scale)
                progress.advance(task)

        write_video(path, pictures(), pace)
    say(f"Recorded {path}.")


def serve(wall: Wall, arguments: PlayArguments) -> None:
    """Serve the live page until it is closed."""
    from mgdt_agents.play.server import WallServer

    others = [name for name in (*bundled_agents(), "random") if name != arguments.agent]
    server = WallServer(
        wall,
        [arguments.agent, *others],
        partial(load_agent, device=arguments.device),
        stays=arguments.stay,
        on_ready=lambda address: say(
            f"Watch at {address}; "
            + ("Ctrl-C ends it." if arguments.stay else "closing it ends it.")
        ),
    )
    asyncio.run(server.serve(arguments.host, arguments.port))
    say("The last page was closed.")


if __name__ == "__main__":
    main()

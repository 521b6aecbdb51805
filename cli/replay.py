"""Work with recorded play.

Examples:
    mgdt-replay expand --games Pong --output replay
    mgdt-replay info replay/Pong
    mgdt-replay import dqn-replay gs://atari-replay-datasets/dqn --game Pong --runs 1,2
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, Trace, expand, trim
from mgdt_agents.replay.expansion import is_expanded
from mgdt_agents.replay.store import verify
from mgdt_agents.replay.trace import BUNDLED
from mgdt_cli.common import Games, Paths, Steps, parse, progress_bar, run, say
from mgdt_cli.replay_export import ExportArguments, export
from mgdt_cli.replay_import import ImportArguments, import_all
from mgdt_cli.replay_info import InfoArguments, named_stores, show_info
from mgdt_cli.replay_trace import TraceArguments, trace_all
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpandArguments:
    """Regenerate replay stores from traces, through the emulator, bit for bit."""

    traces: tyro.conf.Positional[tuple[str, ...]] = ("collection",)
    """Files of traces; "collection" means all that come with the package."""
    games: Games = ()
    """Games or suites; traces of others are left out."""
    limit_steps: Steps | None = None
    """Regenerate the first episodes of each trace that have no more steps than that together."""
    output: Path = Path("replay")
    """Folder in which each trace gets a store of its name."""
    threads: int = 0
    """Emulator threads; 0 takes one a core. The stores do not depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyArguments:
    """Compare every file of replay stores with its checksum."""

    stores: tyro.conf.Positional[Paths]
    """Folders of replay stores, or folders that hold some; that a store gives a split is compared
    where one is named, as in replay/Pong:medium."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrimArguments:
    """Make stores of the whole episodes that were safe when their writing was cut off."""

    stores: tyro.conf.Positional[Paths]
    """Folders that the replay stores were to get."""


Command = (
    Annotated[ExpandArguments, tyro.conf.subcommand("expand")]
    | Annotated[ImportArguments, tyro.conf.subcommand("import")]
    | Annotated[ExportArguments, tyro.conf.subcommand("export")]
    | Annotated[TraceArguments, tyro.conf.subcommand("trace")]
    | Annotated[InfoArguments, tyro.conf.subcommand("info")]
    | Annotated[VerifyArguments, tyro.conf.subcommand("verify")]
    | Annotated[TrimArguments, tyro.conf.subcommand("trim")]
)


def main() -> None:
    """Run the command."""
    run(lambda: replay(parse(Command, __doc__)))


def replay(arguments: Any) -> None:
    """Do what the arguments of a command say."""
    commands: dict[type, Callable[[Any], None]] = {
        ExpandArguments: expand_all,
        ImportArguments: import_all,
        ExportArguments: export,
        TraceArguments: trace_all,
        InfoArguments: show_info,
        VerifyArguments: verify_all,
        TrimArguments: trim_all,
    }
    commands[type(arguments)](arguments)


def expand_all(arguments: ExpandArguments) -> None:
    """Expand every trace to a store in the output folder.

    Raises:
        ReplayError: if a trace cannot be read or diverges.
        ValueError: if no trace is of the games; if a limit is less than a trace's first episode.
        FileExistsError: if the place of a store holds something else; nothing is expanded then.
    """
    traces = {
        path: Trace.load(path)
        for name in arguments.traces
        for path in (sorted(BUNDLED.glob("*.npz")) if name == "collection" else [Path(name)])
    }
    if arguments.games:
        traces = _of_games(traces, resolve_games(arguments.games))
    outputs = [arguments.output / path.stem for path in traces]
    limit_steps = arguments.limit_steps
    num_steps = [trace.steps_within(limit_steps) for trace in traces.values()]
    are_expanded = [
        is_expanded(trace, output, limit_steps=limit_steps)
        for trace, output in zip(traces.values(), outputs, strict=True)
    ]
    with progress_bar() as progress:
        for trace, output, steps, is_there in zip(
            traces.values(), outputs, num_steps, are_expanded, strict=True
        ):
            if is_there:
                say(f"{ReplayStore(output)}: is there already")
                continue
            task = progress.add_task(trace.game, total=steps * len(trace.seeds), note="")
            expand(
                trace,
                output,
                limit_steps=limit_steps,
                num_threads=arguments.threads,
                on_step=partial(progress.advance, task, len(trace.seeds)),
            )
            say(str(ReplayStore(output)))


def _of_games(traces: dict[Path, Trace], games: tuple[str, ...]) -> dict[Path, Trace]:
    chosen = {path: trace for path, trace in traces.items() if trace.game in games}
    if not chosen:
        there = ", ".join(dict.fromkeys(trace.game for trace in traces.values()))
        raise InvalidArgument(f"No trace is of {', '.join(games)}; there are traces of {there}.")
    return chosen


def verify_all(arguments: VerifyArguments) -> None:
    """Verify every store.

    Raises:
        ReplayError: when all were looked at, saying what is wrong with those that are not whole.
    """
    errors = []
    for path in named_stores(arguments.stores):
        try:
            verify(path)
            print(f"{ReplayStore(path)}: whole")
        except ReplayError as error:
            errors.append(str(error))
    if errors:
        raise ReplayError("\n".join(errors))


def trim_all(arguments: TrimArguments) -> None:
    """Trim every store.

    Raises:
        ReplayError: if one has no rest of a writing, or is being written.
    """
    for path in named_stores(arguments.stores):
        trim(path)
        print(ReplayStore(path))


if __name__ == "__main__":
    main()

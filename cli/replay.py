"""Work with recorded play: `mgdt-replay expand TRACE... --output DIR`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from mgdt_agents.replay import ReplayStore, Trace, expand
from mgdt_agents.replay.trace import BUNDLED
from mgdt_cli.common import progress_bar, run, say


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpandArguments:
    """Regenerate replay stores from traces, through the emulator, bit for bit."""

    traces: tyro.conf.Positional[tuple[str, ...]] = ("bundled",)
    """Files of traces; "bundled" means those that come with the package."""
    output: Path = Path("replay")
    """Folder in which each trace gets a store of its name."""
    threads: int = 0
    """Emulator threads; 0 takes one a core. The stores do not depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyArguments:
    """Compare every file of replay stores with its checksum."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of replay stores."""


Command = (
    Annotated[ExpandArguments, tyro.conf.subcommand("expand")]
    | Annotated[VerifyArguments, tyro.conf.subcommand("verify")]
)


def main() -> None:
    """Run the command."""
    run(lambda: replay(tyro.cli(Command, description=__doc__)))


def replay(arguments: ExpandArguments | VerifyArguments) -> None:
    """Do what the arguments say."""
    if isinstance(arguments, ExpandArguments):
        expand_all(arguments)
    else:
        for path in arguments.stores:
            store = ReplayStore(path)
            store.verify()
            print(f"{store}: whole")


def expand_all(arguments: ExpandArguments) -> None:
    """Expand every trace to a store in the output folder.

    Raises:
        ReplayError: if a trace cannot be read or diverges.
        FileExistsError: if a store exists already; nothing is expanded then.
    """
    paths = [
        path
        for name in arguments.traces
        for path in (sorted(BUNDLED.glob("*.npz")) if name == "bundled" else [Path(name)])
    ]
    outputs = [arguments.output / path.stem for path in paths]
    for output in outputs:
        if output.exists():
            raise FileExistsError(f"{output} exists; choose another --output or remove it first.")
    traces = [Trace.load(path) for path in paths]
    with progress_bar() as progress:
        for trace, output in zip(traces, outputs, strict=True):
            task = progress.add_task(trace.game, total=trace.actions.size, note="")
            expand(
                trace,
                output,
                num_threads=arguments.threads,
                on_step=partial(progress.advance, task, len(trace.seeds)),
            )
            say(str(ReplayStore(output)))


if __name__ == "__main__":
    main()

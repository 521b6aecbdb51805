"""Work with recorded play.

Examples:
    mgdt-replay list
    mgdt-replay expand --games Pong --split medium --output replay
    mgdt-replay info replay/Pong
    mgdt-replay import dqn-replay gs://atari-replay-datasets/dqn --games Pong --runs 1,2
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Union

import tyro

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, trim
from mgdt_agents.replay.store import verify
from mgdt_cli.arguments import Paths, parse
from mgdt_cli.console import run
from mgdt_cli.replay_card import (
    CardArguments,
    PublishArguments,
    publish_all,
    write_all_cards,
)
from mgdt_cli.replay_expand import ExpandArguments, expand_all
from mgdt_cli.replay_export import ExportArguments, export
from mgdt_cli.replay_import import ImportArguments, import_all
from mgdt_cli.replay_info import InfoArguments, named_stores, show_info
from mgdt_cli.replay_trace import TraceArguments, trace_all
from mgdt_cli.replay_traces import ListArguments, list_all


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


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "expand": (ExpandArguments, expand_all),
    "list": (ListArguments, list_all),
    "card": (CardArguments, write_all_cards),
    "publish": (PublishArguments, publish_all),
    "import": (ImportArguments, import_all),
    "export": (ExportArguments, export),
    "trace": (TraceArguments, trace_all),
    "info": (InfoArguments, show_info),
    "verify": (VerifyArguments, verify_all),
    "trim": (TrimArguments, trim_all),
}


def main() -> None:
    """Run the command."""
    kinds = [Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in COMMANDS.items()]
    run(lambda: replay(parse(Union[tuple(kinds)], __doc__)))  # noqa: UP007


def replay(arguments: Any) -> None:
    """Do what the arguments of a command say."""
    commands = dict(COMMANDS.values())
    commands[type(arguments)](arguments)


if __name__ == "__main__":
    main()

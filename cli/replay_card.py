"""Data cards of traces, and collections of them: `mgdt-replay card`, `mgdt-replay publish`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from mgdt_agents.replay import ReplayStore, Trace
from mgdt_agents.replay.card_page import check_card, write_cards
from mgdt_agents.replay.cards import describe, load_card
from mgdt_agents.replay.trace_collection import publish
from mgdt_cli.arguments import Paths
from mgdt_cli.console import say
from mgdt_cli.replay_info import named_stores
from mgdt_cli.replay_traces import HUB, TracesArguments, chosen_traces


@dataclass(frozen=True, kw_only=True, slots=True)
class CardArguments(TracesArguments):
    """Write data cards of traces: figures, learning curves, and a page of all of them.

    Needs pip install 'mgdt[plot]'. Cards that are there are written anew; what only stores tell
    (rewards, versions of ale-py that were tried) is kept.
    """

    stores: Paths = ()
    """Stores expanded from these traces, or folders that hold some, for how often steps are
    rewarded and under which ale-py they were regenerated."""
    output: Path = Path("cards")
    """Folder of the cards, <name>.json and <name>.png, and of the page of all that it holds."""
    page: str = "index.md"
    """Name of the page."""
    note: str | None = None
    """A line for the cards on how the play was made: the command, how long it took, on which
    machine. Without it, the one that is there stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishArguments(TracesArguments):
    """Put traces and their data cards where others find them, with checksums.

    Traces that are there stay, and other files are never overwritten. Needs pip install
    'mgdt[plot]', and for the hub 'mgdt[hub]' and `hf auth login`.
    """

    target: tyro.conf.Positional[str]
    """Folder, or data set of the Hugging Face Hub (hf://user/name); it is made if there is none."""
    traces: Paths = ()
    """Files of traces; by default those of the collection."""
    stores: Paths = ()
    """Stores expanded from these traces, or folders that hold some; see mgdt-replay card."""
    cards: Path | None = None
    """Folder of cards that mgdt-replay card wrote, whose figures and notes are kept."""


def write_all_cards(arguments: CardArguments) -> None:
    """Write the card of each trace.

    Raises:
        ReplayError: if a trace or a store cannot be read.
        FileExistsError: if something else is in the place of a card; nothing is written then.
        ValueError: if no trace is of the games, or matplotlib is not installed.
    """
    paths = chosen_traces(arguments)
    for name in paths:
        check_card(arguments.output, name)
    stores = _open_stores(arguments.stores)
    traces = {name: Trace.load(path) for name, path in paths.items()}
    cards = {
        name: describe(
            trace,
            paths[name].stat().st_size,
            stores,
            before=load_card(arguments.output / f"{name}.json"),
            note=arguments.note,
        )
        for name, trace in traces.items()
    }
    write_cards(arguments.output, cards, traces, arguments.page)
    say(f"{arguments.output / arguments.page}: {len(cards)} cards are written")


def publish_all(arguments: PublishArguments) -> None:
    """Publish the traces.

    Raises:
        ReplayError: if a trace or a store cannot be read, or the hub not be reached.
        FileExistsError: if the place holds something else; nothing is written then.
        ValueError: if no trace is of the games, or a package is not installed.
    """
    paths = chosen_traces(arguments)
    stores = _open_stores(arguments.stores)
    if arguments.target.startswith(HUB):
        from mgdt_agents.hub import push_collection  # an extra

        repo_id = arguments.target.removeprefix(HUB)
        added = push_collection(repo_id, paths, stores=stores, cards=arguments.cards)
    else:
        added = publish(Path(arguments.target), paths, stores=stores, cards=arguments.cards)
    there = f", {len(paths) - len(added)} were there" if len(added) < len(paths) else ""
    say(f"{arguments.target}: {len(added)} traces are new{there}")


def _open_stores(paths: tuple[Path, ...]) -> list[ReplayStore]:
    return [ReplayStore(path) for path in (named_stores(paths) if paths else ())]

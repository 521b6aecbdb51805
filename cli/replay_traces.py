"""Which traces a command of `mgdt-replay` means, and `mgdt-replay list`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from mgdt_agents.number_text import number_text
from mgdt_agents.replay import Trace
from mgdt_agents.replay.cards import describe
from mgdt_agents.replay.trace_collection import (
    COLLECTIONS,
    TraceCollection,
    bundled,
    check_games,
    index_entry,
    open_collection,
)
from mgdt_cli.arguments import Games, Names, Paths
from mgdt_cli.console import print_table
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument

BUNDLED = "bundled"
HUB = "hf://"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListArguments:
    """List the traces of collections."""

    collections: tyro.conf.Positional[Names] = ()
    """Names, folders, or data sets of the Hugging Face Hub (hf://user/name); by default all that
    are known by name."""
    games: Games = ()
    """Games or suites, each with a trace; traces of others are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TracesArguments:
    """Which traces a command takes."""

    traces: tyro.conf.Positional[Paths] = ()
    """Files of traces; by default those of the collection."""
    collection: str | None = None
    """bundled (the default), another collection's name, folder, or hf://user/name."""
    games: Games = ()
    """Games or suites, each with a trace; traces of others are left out."""


def find_collection(address: str) -> TraceCollection:
    """Return the collection of a name, in a folder, or on the hub.

    Raises:
        ValueError: if there is none.
        ReplayError: if a folder or a data set holds none.
    """
    address = COLLECTIONS.get(address, address)
    if address == BUNDLED:
        return bundled()
    if address.startswith(HUB):
        from mgdt_agents.hub import download_collection  # an extra

        repo_id, _, revision = address.removeprefix(HUB).partition("@")
        return download_collection(repo_id, revision=revision or None)
    if not Path(address).is_dir():
        raise InvalidArgument(
            f"Unknown collection {address!r}: no folder, not hf://user/name, and none of the names "
            f"{', '.join((BUNDLED, *COLLECTIONS))}."
        )
    return open_collection(Path(address))


def chosen_traces(arguments: TracesArguments) -> dict[str, Path]:
    """Return the files that the arguments of a command mean, by the names that they give to stores.

    Raises:
        ValueError: if both files and a collection are named, a name comes twice, or a game
            has no trace.
        ReplayError: if a trace is missing or damaged.
    """
    named = resolve_games(arguments.games) if arguments.games else ()
    traces, collection = arguments.traces, arguments.collection
    if not traces:
        found = find_collection(collection or BUNDLED)
        names = found.names_of(named)
        return dict(zip(names, found.paths(names), strict=True))
    if collection is not None:
        raise InvalidArgument(f"Expected files of traces or --collection, got {traces} and both.")
    chosen = {path: Trace.load(path).game for path in dict.fromkeys(traces)}
    check_games(named, list(chosen.values()))
    files = [path for path, game in chosen.items() if not named or game in named]
    by_name = {path.stem: path for path in files}
    if len(by_name) < len(files):
        raise InvalidArgument(
            f"Expected traces of different names, got {', '.join(map(str, files))}."
        )
    return by_name


def list_all(arguments: ListArguments) -> None:
    """Print a table of traces.

    Raises:
        ValueError: for an unknown collection or game, or if a game has no trace.
        ReplayError: if there is no collection at a place.
    """
    games = resolve_games(arguments.games) if arguments.games else ()
    addresses = arguments.collections or (BUNDLED, *COLLECTIONS)
    rows = []
    collections = {address: find_collection(address) for address in addresses}
    there = [entry["game"] for found in collections.values() for entry in found.entries.values()]
    check_games(games, there, f" of {', '.join(addresses)}")
    for address, found in collections.items():
        for name, entry in found.entries.items():
            if games and entry["game"] not in games:
                continue
            if "steps" not in entry:  # the bundled ones have no index
                (path,) = found.paths([name])
                entry = index_entry(describe(Trace.load(path), path.stat().st_size))
            rows.append((address, name, entry))
    shown = list(dict.fromkeys(address for address, _, _ in rows))
    if len(shown) == 1:
        print(f"collection: {shown[0]}")
    print_table(traces_table(rows, has_collection=len(shown) > 1))


def traces_table(
    rows: Sequence[tuple[str, str, Mapping[str, Any]]], *, has_collection: bool
) -> Table:
    """Return a table with a row for each trace: its collection, its name, what is known of it.

    A narrow terminal has no room for what says nothing new: there is no column of games where all
    traces are called by them.
    """
    has_game = any(name != entry["game"] for _, name, entry in rows)
    table = Table(box=None)
    for name, is_shown in ("collection", has_collection), ("trace", True), ("game", has_game):
        if is_shown:
            table.add_column(name, overflow="fold")
    for name in ("steps", "episodes", "last 100", "human-\nnormalized", "kB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("splits")
    for address, name, entry in rows:
        last, normalized = entry["last"], entry["human_normalized"]
        table.add_row(
            *([address] if has_collection else []),
            name,
            *([entry["game"]] if has_game else []),
            f"{entry['steps']:,}",
            f"{entry['episodes']:,}",
            "" if last is None else number_text(last, "{:,.1f}"),
            "" if normalized is None else number_text(normalized, "{:.2f}"),
            f"{entry['bytes'] / 1e3:,.0f}",
            ", ".join(entry["splits"]),
        )
    return table

"""Collections of traces, as they are published: a folder, or a data set of the Hugging Face hub.

- `index.json`: format, version, and of each trace, by name, its `game`, `bytes`, `sha256` and what
  its card says in short;
- `<name>.npz`: the trace;
- `<name>.json` and `<name>.png`: its data card, see `mgdt_agents.replay.cards`;
- `README.md`: the page of all cards.

A trace that is read is compared with its SHA-256. `index.json` is written last, so what it names is
there.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.card_page import draw, page_text, read_cards
from mgdt_agents.replay.cards import LICENSE, describe, load_card
from mgdt_agents.replay.store import ReplayStore
from mgdt_agents.replay.trace import BUNDLED, Trace
from mgdt_envs.errors import InvalidArgument, OutputExists

FORMAT = "mgdt-collection"
VERSION = 1
INDEX, PAGE = "index.json", "README.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FIELDS = {
    "game": str,
    "bytes": int,
    "sha256": str,
    "steps": int,
    "episodes": int,
    "splits": list,
}
_FRONT_MATTER = f"""---
license: {LICENSE.lower()}
task_categories: [reinforcement-learning]
tags: [atari, offline-reinforcement-learning]
---

"""

COLLECTIONS: dict[str, str] = {}
"""Folders and addresses (hf://user/name) of collections that are known by name."""
Fetch = Callable[[Sequence[str]], Path]
"""Brings files of a collection onto this machine, and returns their folder."""


@dataclass(frozen=True, slots=True)
class TraceCollection:
    """Traces that are found by name and compared with their checksums."""

    address: str
    """What messages call it."""
    entries: Mapping[str, dict[str, Any]]
    """What `index.json` says of each trace, by name."""
    fetch: Fetch

    def names_of(self, games: Sequence[str]) -> list[str]:
        """Return the names of the traces of some games, of all games if none is named.

        Raises:
            ValueError: if a game has none, or there are none at all.
        """
        check_games(
            games, [entry["game"] for entry in self.entries.values()], f" of {self.address}"
        )
        return [n for n, entry in self.entries.items() if not games or entry["game"] in games]

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return the files of traces, which are whole.

        Raises:
            ReplayError: if one is missing, or not what was published.
        """
        folder = self.fetch([f"{name}.npz" for name in names])
        found = []
        for name in names:
            path, entry = folder / f"{name}.npz", self.entries[name]
            if not path.exists():
                raise ReplayError(f"{self.address} lacks {path.name}, which its {INDEX} names.")
            if "sha256" in entry and (sha256 := _sha256(path.read_bytes())) != entry["sha256"]:
                raise ReplayError(
                    f"{path} is not what {self.address} published: its SHA-256 is {sha256}, "
                    f"{INDEX} says {entry['sha256']}. Copy or download it again."
                )
            found.append(path)
        return found


def check_games(games: Sequence[str], there: Sequence[str], place: str = "") -> None:
    """Check that each game has a trace.

    Args:
        games: those that are asked for; none if all are.
        there: the game of each trace.
        place: what messages call the place of the traces, such as " of bundled".

    Raises:
        ValueError: if a game has none, or there are none at all.
    """
    missing = [game for game in games if game not in there]
    if missing or not there:
        raise InvalidArgument(
            f"No trace{place} is of {', '.join(missing) or 'any game'}; there are traces of "
            f"{', '.join(dict.fromkeys(there)) or 'no game'}."
        )


def register_collection(name: str, address: str | Path) -> None:
    """Make a collection known by name to the commands.

    Args:
        name: the name.
        address: a folder, or `hf://user/name`.

    Raises:
        ValueError: if another collection has the name.
    """
    if name == "bundled" or COLLECTIONS.get(name, str(address)) != str(address):
        raise InvalidArgument(f"There is a collection called {name!r} already.")
    COLLECTIONS[name] = str(address)


def bundled() -> TraceCollection:
    """Return the collection that comes with the package, whose traces are named by their games."""
    entries = {path.stem: {"game": path.stem} for path in sorted(BUNDLED.glob("*.npz"))}
    return TraceCollection("bundled", entries, lambda names: BUNDLED)


def open_collection(folder: Path) -> TraceCollection:
    """Return the collection in a folder.

    Raises:
        ReplayError: if there is none.
    """
    return TraceCollection(str(folder), read_index(folder), lambda names: folder)


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the `index.json` of a folder says of each trace.

    Raises:
        ReplayError: if there is none, or it is of another form.
    """
    path = folder / INDEX
    index = files.read_json(path, FORMAT, VERSION)
    if index is None:
        raise ReplayError(
            f"Expected a collection of traces at {folder}: a folder with {INDEX}, and there is "
            "none. `mgdt-replay publish` makes one."
        )
    files.check_fields(index, {"traces": dict}, path)
    for name, entry in index["traces"].items():
        if not _NAME.fullmatch(name) or not isinstance(entry, dict):
            raise ReplayError(f"Expected names of traces in {path}, found {name!r}.")
        files.check_fields(entry, _FIELDS, path)
        if not all(isinstance(split, str) for split in entry["splits"]):
            raise ReplayError(f"Expected names of splits in {path}, found {entry['splits']!r}.")
        for score in ("last", "human_normalized"):
            if not isinstance(entry.setdefault(score, None), int | float | None):
                raise ReplayError(
                    f"Expected {score} in {path} to be a number, found {entry[score]!r}."
                )
    return index["traces"]


def publish(
    folder: Path,
    traces: Mapping[str, Path],
    *,
    stores: Sequence[ReplayStore] = (),
    cards: Path | None = None,
    address: str | None = None,
) -> list[str]:
    """Put traces and their cards into a folder, beside those that it holds; see the module.

    If it is killed, the same call ends in the same files.

    Args:
        folder: that of a collection, or a new or empty one.
        traces: files by the names that they get.
        stores: of these traces, for their cards; see `describe`.
        cards: folder with earlier cards of these traces, whose figures are kept.
        address: what messages call the place of the collection; by default, the folder.

    Returns:
        The names of the traces that were not there.

    Raises:
        FileExistsError: if the folder holds something else, or another trace of a name. Nothing
            is written then.
        ReplayError: if a trace or a card cannot be read.
        ValueError: if a name cannot be that of a trace.
    """
    with files.exclusive(folder):
        entries = read_index(folder) if (folder / INDEX).exists() else {}
        address = address or str(folder)
        new, added = _contents(folder, entries, traces, stores, cards, address)
        _check_place(folder, entries, new, address)
        folder.mkdir(exist_ok=True)
        for name, content in new.items():
            path = folder / name
            if not path.exists() or path.read_bytes() != content:
                files.replace(path, content)
    return added


def _contents(
    folder: Path,
    entries: Mapping[str, dict[str, Any]],
    traces: Mapping[str, Path],
    stores: Sequence[ReplayStore],
    cards: Path | None,
    address: str,
) -> tuple[dict[str, bytes], list[str]]:
    """Return the files to write, `index.json` last, and the names of the new traces."""
    new: dict[str, bytes] = {}
    known = read_cards(folder) if folder.is_dir() else {}
    entries = dict(entries)
    added = [name for name in traces if name not in entries]
    for name, path in traces.items():
        if not _NAME.fullmatch(name) or f"{name}.json" == INDEX:
            raise InvalidArgument(
                f"Expected a trace called by letters and digits, and not as {INDEX}, got {name!r}."
            )
        trace, content = Trace.load(path), path.read_bytes()
        if name in entries and entries[name]["sha256"] != _sha256(content):
            raise OutputExists(
                f"{address} holds another trace called {name}; give this one another file name."
            )
        before = (load_card(cards / f"{name}.json") if cards else None) or known.get(name)
        known[name] = card = describe(trace, len(content), stores, before=before)
        entries[name] = index_entry(card) | {"sha256": _sha256(content)}
        new |= {f"{name}.npz": content, f"{name}.png": draw(trace)}
        new[f"{name}.json"] = files.json_bytes(card, indent=1)
    new[PAGE] = (_FRONT_MATTER + page_text(dict(sorted(known.items())))).encode()
    index = {"format": FORMAT, "version": VERSION, "traces": dict(sorted(entries.items()))}
    return new | {INDEX: files.json_bytes(index, indent=1)}, added


def _check_place(
    folder: Path,
    entries: Mapping[str, dict[str, Any]],
    new: Mapping[str, bytes],
    address: str,
) -> None:
    """Check that nothing is overwritten but what a collection wrote, or a killed publishing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputExists(f"{folder} is a file; choose another folder.")
    owned = {f"{name}{suffix}" for name in entries for suffix in (".npz", ".json", ".png")}
    owned |= {INDEX, PAGE} if (folder / INDEX).exists() else set()
    for path in folder.iterdir():
        if path.name in owned or (path.name.removesuffix(".new") in new and path.suffix == ".new"):
            continue
        if path.name not in new and (folder / INDEX).exists():
            continue
        if path.name not in new or not path.is_file() or path.read_bytes() != new[path.name]:
            raise OutputExists(
                f"{address} holds {path.name}, which is no part of what is published; choose "
                "another folder, or move it away."
            )


def index_entry(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an index says of a trace, except for its SHA-256."""
    normalized = card["human_normalized"]
    return {
        "game": card["game"],
        "bytes": card["bytes"],
        "checksum": card["checksum"],
        "steps": card["steps"],
        "episodes": card["episodes"],
        "last": card["returns"]["last"],
        "human_normalized": normalized and normalized["last"],
        "splits": list(card["splits"]),
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Say what replay stores hold: `mgdt-replay info DIR... --plot FILE.png`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation.figures import legend_label
from mgdt_agents.number_text import number_text
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.splits import ALL, split_ranges
from mgdt_agents.replay.store import find_stores
from mgdt_cli.arguments import Paths
from mgdt_cli.console import check_plot, draw_panels, print_table
from mgdt_envs.errors import InvalidArgument

# Of the curve: short enough to show how a short run went, long enough to be read.
MAX_EPISODES_PER_MEAN = 100
MEANS_PER_STORE = 20
LONGEST_NAME = 24  # of a store that a narrow table leaves in one line


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoArguments:
    """Print what replay stores hold, and draw how their returns grew."""

    stores: tyro.conf.Positional[Paths]
    """Folders of replay stores, or folders that hold some; replay/Pong:medium is a split of one."""
    plot: Path | None = None
    """Picture to draw, such as returns.png: returns over steps (pip install 'mgdt[plot]')."""


def show_info(arguments: InfoArguments) -> None:
    """Print a table of the stores, then what each was recorded under and comes from.

    Raises:
        ReplayError: after the table, if some stores are not whole.
        FileExistsError: if the picture exists.
        ValueError: if the picture's file or matplotlib does not fit; see `check_plot`.
    """
    if arguments.plot:
        check_plot(arguments.plot)
    stores, errors = [], []
    for path in named_stores(arguments.stores):
        try:
            stores.append(ReplayStore(path))
        except ReplayError as error:
            errors.append(str(error))
    if stores:
        print_table(info_table(stores))
    for line in _origins(stores):
        print(line)
    if arguments.plot and stores:
        plot_returns(stores, arguments.plot)
    if errors:
        raise ReplayError("\n".join(errors))


def named_stores(paths: tuple[Path, ...]) -> list[Path]:
    """Return the folders of the stores that the arguments of a command mean.

    Raises:
        ValueError: if there are no arguments.
    """
    if not paths:
        raise InvalidArgument(
            "Expected folders of replay stores, or folders that hold some, such as `replay`, "
            "got none."
        )
    return [store for path in paths for store in find_stores(path)]


def info_table(stores: list[ReplayStore]) -> Table:
    """Return a table with a row for each store: counts, returns as stored, size.

    Returns of clipped rewards are marked, because they are not scores. A narrow terminal has no
    room for what says nothing new: the game stands beside the names that do not begin with it.
    """
    names = [
        str(store.path) + f" ({store.game})" * (not store.path.name.startswith(store.game))
        for store in stores
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("store", overflow="fold", no_wrap=max(map(len, names)) <= LONGEST_NAME)
    for name in ("steps", "episodes"):
        table.add_column(name, justify="right", no_wrap=True)
    # Where these cannot stand in one line, a line holds one or two; "quartiles," is the longest.
    table.add_column("returns:\nmin, quartiles, max", justify="right", min_width=10)
    table.add_column("bytes\na\nframe", justify="right", no_wrap=True)
    for name, store in zip(names, stores, strict=True):
        returns = store.episode_returns
        quartiles = np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]) if len(returns) else []
        size = (store.folder / "frames.b2nd").stat().st_size / max(1, store.meta["steps"])
        table.add_row(
            name,
            f"{len(store):,}",
            f"{len(returns):,}",
            ", ".join(number_text(value, "{:.6g}") for value in quartiles) + _mark(store),
            f"{size:.1f}",
        )
    return table


def plot_returns(stores: list[ReplayStore], path: Path) -> None:
    """Draw each episode's return, and their running mean, over the steps; a panel for each game."""

    def draw(axes: Any, game: str) -> None:
        axes.set(title=game, xlabel="steps (millions)", ylabel="return")
        for store in stores:
            if store.game != game:
                continue
            returns = store.episode_returns
            ends = (store.episode_starts + store.episode_lengths) / 1e6
            dots = axes.plot(ends, returns, ".", markersize=2, alpha=0.3)[0]
            if len(returns):
                window = min(MAX_EPISODES_PER_MEAN, len(returns) // MEANS_PER_STORE + 1)
                mean = np.convolve(returns, np.full(window, 1 / window), "valid")
                label = f"{store.path.name}, mean of {window} episodes{_mark(store)}"
                axes.plot(
                    ends[window - 1 :], mean, color=dots.get_color(), label=legend_label(label)
                )

    draw_panels(path, list(dict.fromkeys(store.game for store in stores)), draw)


def _mark(store: ReplayStore) -> str:
    """Return what is said beside returns that are not scores."""
    return "\n(clipped rewards)" if store.meta["source"].get("rewards_clipped") else ""


def _origins(stores: list[ReplayStore]) -> list[str]:
    """Return lines that say under which protocol and from what the stores were made."""
    lines = []
    sheets = [store.protocol.sheet() for store in stores]
    for sheet in dict.fromkeys(sheets):
        names = [str(s.path) for s, other in zip(stores, sheets, strict=True) if other == sheet]
        whose = f" of {', '.join(names)}" if len(names) < len(stores) else ""
        lines.append(f"protocol{whose}: {sheet}")
    for store in stores:
        lines.append(f"source of {store.path}: {_text(store.meta['source'])}")
        if splits := _splits(store):
            lines.append(f"splits of {store.path}: {splits}")
    return lines


def _splits(store: ReplayStore) -> str:
    """Return the episodes, steps and mean return of each split of a store except `mixed`."""
    returns, lengths = store.episode_returns, store.episode_lengths
    ranges = {}
    if store.split is None:
        ranges = split_ranges(store.game, store.protocol, store.meta["source"], returns)
    return ", ".join(
        f"{name} {it.start}-{it.stop - 1} ({lengths[it.start : it.stop].sum():,} steps, mean "
        f"return {returns[it.start : it.stop].mean():.6g})"
        for name, it in ranges.items()
        if name != ALL
    )


def _text(source: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in source.items())

"""Write replay stores in the formats of others: `mgdt-replay export minari STORE --id ID`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats.minari import export_minari
from mgdt_cli.arguments import Steps
from mgdt_cli.console import ProgressBar, say


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportArguments:
    """Export a replay store as a Minari data set, without loss (pip install 'mgdt[minari]')."""

    format: tyro.conf.Positional[Literal["minari"]]
    """What to make."""
    store: tyro.conf.Positional[Path]
    """Folder of the replay store; replay/Pong:medium exports a split of it."""
    id: str
    """Id of the new data set, such as mgdt/pong-v0. It goes to MINARI_DATASETS_PATH."""
    limit_steps: Steps | None = None
    """Export the first episodes that have no more steps than that together."""


def export(arguments: ExportArguments) -> None:
    """Export a store.

    Raises:
        FileExistsError: if there is a data set of that id.
        ValueError: for an id of another form, or if no episode is within the limit.
        ReplayError: if there is no whole store, or the data set cannot be written.
    """
    store = ReplayStore(arguments.store)
    total = min(len(store), arguments.limit_steps or len(store))
    with ProgressBar() as progress:
        task = progress.add_task(store.path.name, total=total)
        path = export_minari(
            store,
            arguments.id,
            limit_steps=arguments.limit_steps,
            on_steps=lambda steps: progress.update(task, completed=steps),
        )
        progress.update(task, completed=total)
    say(f"{path}: minari.load_dataset({arguments.id!r}) reads it")

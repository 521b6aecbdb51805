"""The folder of a run, and what was trained on what: `training.json`."""

import dataclasses
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.agent_files import CHECKSUM, read_config
from mgdt_agents.markdown import markdown_table
from mgdt_agents.replay import ReplayStore, files
from mgdt_agents.replay.trace_recorder import revision
from mgdt_agents.training import parallel
from mgdt_agents.training.checkpoint import Checkpoints, TrainingState
from mgdt_agents.training.config import FREE_FIELDS, TrainingConfig
from mgdt_envs import __version__
from mgdt_envs.errors import InvalidArgument, OutputExists

DESCRIPTION = "training.json"


class Run:
    """The folder of a run; `mgdt-bench --agents` takes it.

    It holds the agent, `training.json`, the log, checkpoints, and in `best` the agent of the lowest
    held-out loss. Only process 0 writes; the others write their shares of checkpoints.

    Args:
        folder: where; None writes nothing.
        agent: what is trained.
        config: how.
        stores: on what.
    """

    def __init__(
        self,
        folder: Path | None,
        agent: NetworkAgent,
        config: TrainingConfig,
        stores: Sequence[ReplayStore],
    ) -> None:
        self.folder, self.stores = folder, stores
        self.description = describe(agent, config, stores)
        self.checkpoints: Checkpoints | None = None
        if folder is not None:
            on_gpu = agent.device.type == "cuda"
            self.checkpoints = Checkpoints(folder, config.keep_checkpoints, in_background=on_gpu)
        self._exits = ExitStack()
        parallel.check_same(self.description)

    def enter(self, state: TrainingState, overwrite: bool = False) -> int:
        """Begin the run, or resume it from its newest checkpoint.

        Args:
            state: what training changes; a checkpoint is loaded into it.
            overwrite: remove what the folder holds, and begin.

        Returns:
            Gradient steps done.

        Raises:
            ValueError: if the folder holds another run, saying what differs, or another process
                trains in it; if `overwrite` would remove what is trained on.
            FileExistsError: if the folder holds an agent, and no checkpoint to go on from.
            TrainingError: if the checkpoint cannot be read.
        """
        if self.folder is None or self.checkpoints is None:
            return 0
        if overwrite:
            self._check_stores_are_elsewhere(self.folder)
        if parallel.rank() == 0:
            self._exits.enter_context(files.exclusive(self.folder, inside=True))
            if overwrite:
                files.clear(self.folder)
        parallel.barrier()
        done, cards = self.checkpoints.newest, []
        has_agent = (self.folder / "config.json").exists()
        if done or has_agent:
            before = self._check_same(done)
            # Checkpoints come before the agent; one that is not whole is a killed run's first.
            if has_agent and not done and not self.checkpoints.partial.exists():
                raise OutputExists(
                    f"{self.folder} holds an agent trained for {before['training']['steps']:,} "
                    "steps and no checkpoint to go on from. Choose another folder, or overwrite "
                    "what is there (--overwrite) to begin anew."
                )
            cards = [self.folder / "card.md", self.folder / "best" / "card.md"]
            cards = [path for path in cards if path.exists() and path.read_text() == card(before)]
        if done:
            self.checkpoints.load(state, done)
        parallel.barrier()  # until all have looked
        if parallel.rank() == 0:
            content = {**self.description, "made_by": versions()}
            files.replace(self.folder / DESCRIPTION, files.json_bytes(content))
            for path in cards:  # those that the user has not changed
                files.replace(path, card(self.description).encode())
        return done

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to resume from."""
        return self.checkpoints is not None and self.checkpoints.newest > 0

    def _check_stores_are_elsewhere(self, folder: Path) -> None:
        """Raise `InvalidArgument` if a replay store lies in the folder that is to be emptied."""
        for path in (store.path for store in self.stores):
            if path.resolve().is_relative_to(folder.resolve()):
                raise InvalidArgument(
                    f"{path} is in {folder}, and would be overwritten with it before it is trained "
                    "on. Move it, or choose another folder."
                )

    def _check_same(self, done: int) -> dict[str, Any]:
        """Check that this run has done `done` steps in the folder, and is the one described there.

        Returns:
            The description there.

        Raises:
            ValueError: if it is another run, saying what differs.
            FileExistsError: if there is an agent of which nothing is said.
        """
        assert self.folder is not None
        if not (self.folder / DESCRIPTION).exists():
            raise OutputExists(
                f"{self.folder} holds an agent and no training to resume; choose another folder."
            )
        before = files.read_object(self.folder / DESCRIPTION)
        goes_on = "begins_with" not in before
        if done and (self.folder / "config.json").exists():
            # The run's own agent goes on in it, whatever that began with.
            own = read_config(self.folder).get(CHECKSUM)
            goes_on |= own is not None and own == self.description["begins_with"]
        if goes_on:
            self.description["begins_with"] = before.get("begins_with")
        if differences := _differences(before, self.description, done):
            raise InvalidArgument(
                f"{self.folder} holds another training: {'; '.join(differences)}. Choose another "
                "folder."
            )
        return before

    def save(self, state: TrainingState, done: int) -> None:
        """Save a checkpoint, and the agent as it is."""
        if self.checkpoints is not None:
            self.checkpoints.save(state, done)
        self.save_agent(state)

    def save_best(self, state: TrainingState, loss: float) -> None:
        """Save the agent in `best` if its held-out loss is the lowest so far."""
        if loss < state.best:
            state.best = loss
            self.save_agent(state, "best")

    def close(self) -> None:
        """Finish what is being written."""
        if self.checkpoints is not None:
            self.checkpoints.finish()
        self._exits.close()

    def save_agent(self, state: TrainingState, name: str = "") -> None:
        """Save the agent as it is played, with a card unless there is one.

        Args:
            state: of the training.
            name: of a folder in the run's; by default that itself.
        """
        if self.folder is None:
            return
        folder = self.folder / name
        agent = parallel.whole_agent(state.agent, state.played)
        if parallel.rank() == 0:
            has_card = (folder / "card.md").exists()
            agent.save(folder, None if has_card else card(self.description))


def describe(
    agent: NetworkAgent, config: TrainingConfig, stores: Sequence[ReplayStore]
) -> dict[str, Any]:
    """Return what makes the result of a training, as JSON types."""
    description = {
        "agent": agent.kind,
        "begins_with": agent.loaded_checksum,
        "network": dataclasses.asdict(agent.config),
        "protocol": agent.protocol.to_dict(),
        "data": [fingerprint(store) for store in stores],
        "training": dataclasses.asdict(config),
    }
    return json.loads(json.dumps(description, default=str))


def versions() -> dict[str, str | None]:
    """Return the versions of what computes, and the revision of the code where it is in git."""
    return {
        "mgdt": __version__,
        "revision": revision(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def card(description: Mapping[str, Any]) -> str:
    """Return the text of `card.md`: what was trained on what."""
    training = description["training"]
    stores = [
        [_split_of(store), f"{store['steps']:,}", f"{store['episodes']:,}", store["checksum"]]
        for store in description["data"]
    ]
    begun = "It began with the weights of a saved agent; `training.json` has their SHA-256."
    settings = [setting for setting in training.items() if setting[0] != "replay"]
    parts = [
        f"# {description['agent']}",
        f"Trained offline, for {training['steps']:,} gradient steps of "
        f"{training['batch_size']:,} windows when it is done; `config.json` says how many windows "
        "it has seen. Not benchmarked; `mgdt-bench` does that.",
        *([begun] if description.get("begins_with") else []),
        markdown_table(["Game", "Steps", "Episodes", "Checksum of the store"], stores),
        markdown_table(["Setting", "Value"], settings),
    ]
    return "\n\n".join(parts) + "\n"


def fingerprint(store: ReplayStore) -> dict[str, Any]:
    """Return what tells a store, or a split of it, from others, wherever it is."""
    checksums = json.dumps(store.meta["checksums"], sort_keys=True)
    return {
        "game": store.game,
        **({} if store.split is None else {"split": store.split}),
        # On it depends which episodes are held out.
        **({"first_episode": store.first_episode} if store.first_episode else {}),
        "steps": len(store),
        "episodes": len(store.episode_starts),
        "checksum": f"{zlib.crc32(checksums.encode()):08x}",
    }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], trained: int) -> list[str]:
    """Return what of `now` cannot resume what was trained as `before` for `trained` steps."""
    changed = [
        f"{name} was {before.get(part, {}).get(name)}, is {value}"
        for part in ("network", "protocol", "training")
        for name, value in now[part].items()
        if value != before.get(part, {}).get(name) and name not in (*FREE_FIELDS, "steps")
    ]
    for name in "begins_with", "agent":
        if now[name] != before.get(name):
            changed.insert(0, f"{name} was {before.get(name)}, is {now[name]}")
    return changed + _step_differences(before, now, trained) + _data_differences(before, now)


def _step_differences(before: Mapping[str, Any], now: Mapping[str, Any], trained: int) -> list[str]:
    """Return why the number of steps cannot change, if so.

    What is trained already must stay what it is: a falling learning rate depends on the last step.
    A finished run may get more steps whatever its learning rate.
    """
    planned, wanted = before.get("training", {}).get("steps", 0), now["training"]["steps"]
    if wanted != planned and not trained:
        return [f"steps was {planned}, is {wanted}, and there is no checkpoint to go on from"]
    if wanted < trained:
        return [f"steps is {wanted}, and {trained} are trained"]
    if wanted != planned and now["training"]["decay"] != "none" and trained < planned:
        return [f"steps was {planned}, is {wanted}, and the learning rate falls toward the last"]
    return []


def _data_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which stores are not what they were."""
    old, new = before.get("data", []), now["data"]
    if len(old) != len(new):
        return [f"there were {len(old)} replay stores, are {len(new)}"]
    return [
        f"the replay in {path} was extended or replaced: it had {_size(a)}, has {_size(b)}"
        for path, a, b in zip(now["training"]["replay"], old, new, strict=True)
        if a != b
    ]


def _size(store: Mapping[str, Any]) -> str:
    return (
        f"{store['steps']:,} steps of {_split_of(store)} in {store['episodes']:,} episodes "
        f"(checksum {store['checksum']})"
    )


def _split_of(store: Mapping[str, Any]) -> str:
    return f"{store['game']}:{store['split']}" if "split" in store else store["game"]

"""The folder of a run, and what was trained on what: `training.json`."""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.files import replace
from mgdt_agents.training.config import FREE_FIELDS, TrainingConfig
from mgdt_envs.errors import InvalidArgument

DESCRIPTION = "training.json"


def describe(
    agent: NetworkAgent, config: TrainingConfig, stores: Sequence[ReplayStore]
) -> dict[str, Any]:
    """Return what makes the result of a training, as JSON types."""
    description = {
        "agent": agent.kind,
        "network": dataclasses.asdict(agent.config),
        "protocol": agent.protocol.to_dict(),
        "data": [fingerprint(store) for store in stores],
        "training": dataclasses.asdict(config),
    }
    return json.loads(json.dumps(description, default=str))


def fingerprint(store: ReplayStore) -> dict[str, Any]:
    """Return what tells a store from others, wherever it is."""
    checksums = json.dumps(store.meta["checksums"], sort_keys=True)
    return {
        "game": store.game,
        "steps": len(store),
        "episodes": len(store.episode_starts),
        "checksum": f"{zlib.crc32(checksums.encode()):08x}",
    }


def enter(folder: Path, description: Mapping[str, Any], trained: int) -> None:
    """Begin the run in `folder`, or make sure that it is the one that is to resume.

    Args:
        folder: the run's folder.
        description: what is to be trained.
        trained: gradient steps of the folder's newest checkpoint; 0 if there is none.

    Raises:
        ValueError: if there is a checkpoint of another run, saying what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trained:
        before = json.loads((folder / DESCRIPTION).read_text())
        if differences := _differences(before, description, trained):
            raise InvalidArgument(
                f"{folder} holds a checkpoint of another training: {'; '.join(differences)}. "
                "Choose another folder."
            )
    replace(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], trained: int) -> list[str]:
    """Return what of `now` cannot resume what was trained as `before` for `trained` steps."""
    changed = [
        f"{name} was {before.get(part, {}).get(name)}, is {value}"
        for part in ("network", "protocol", "training")
        for name, value in now[part].items()
        if value != before.get(part, {}).get(name) and name not in (*FREE_FIELDS, "steps")
    ]
    if now["agent"] != before.get("agent"):
        changed.insert(0, f"agent was {before.get('agent')}, is {now['agent']}")
    return changed + _step_differences(before, now, trained) + _data_differences(before, now)


def _step_differences(before: Mapping[str, Any], now: Mapping[str, Any], trained: int) -> list[str]:
    """Return why the number of steps cannot change, if so.

    What is trained already must stay what it is: a falling learning rate depends on the last step.
    A finished run may get more steps whatever its learning rate.
    """
    planned, wanted = before.get("training", {}).get("steps", 0), now["training"]["steps"]
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
        f"{store['steps']:,} steps of {store['game']} in {store['episodes']:,} episodes "
        f"(checksum {store['checksum']})"
    )

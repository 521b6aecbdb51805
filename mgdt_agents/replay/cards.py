"""Data cards: what a trace holds, in figures, as JSON types.

Most follows from the trace and its game. How often steps are rewarded only a store of the trace
tells, and under which versions of ale-py it was regenerated, too; what an earlier card of the same
trace says of both is kept.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ale_py import Action

from mgdt_agents.replay import files
from mgdt_agents.replay.splits import ALL, split_ranges
from mgdt_agents.replay.store import ReplayStore
from mgdt_agents.replay.trace import Trace
from mgdt_envs import game
from mgdt_envs.emulator import NUM_ACTIONS, rom_path
from mgdt_envs.scoring import human_normalized_score, reason_without_score

FORMAT = "mgdt-card"
VERSION = 1
RECENT = 100  # episodes, of which Machado et al. 2018 report the mean
LICENSE = "Apache-2.0"
_FIELDS = {
    **dict.fromkeys(("game", "checksum", "ale_py", "rom_md5", "license"), str),
    **dict.fromkeys(("bytes", "environments", "steps", "episode_steps", "episodes"), int),
    **dict.fromkeys(("protocol", "source", "returns", "actions", "splits"), dict),
    **dict.fromkeys(("seeds", "lengths", "regenerated"), list),
}
PUBLISHED = Path(__file__).with_name("published_curves.json")


def describe(
    trace: Trace,
    num_bytes: int,
    stores: Sequence[ReplayStore] = (),
    *,
    before: dict[str, Any] | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """Return the card of a trace.

    Args:
        trace: what is described.
        num_bytes: of its file.
        stores: those of this trace are read, and others are not.
        before: an earlier card; what it says of another trace does not count.
        note: a line on how the play was made: the command, how long it took, on which machine;
            None keeps that of `before`.
    """
    before = before if before and before["checksum"] == f"{trace.checksum:08x}" else {}
    rom = rom_path(game(trace.game)).read_bytes()
    made = [store for store in stores if _is_of(store, trace)]
    rewards = max(map(_rewards, made), key=lambda it: it["steps"], default=before.get("rewards"))
    return {
        "format": FORMAT,
        "version": VERSION,
        "game": trace.game,
        "checksum": f"{trace.checksum:08x}",
        "bytes": num_bytes,
        "protocol": trace.protocol.to_dict(),
        "source": trace.source,
        "ale_py": trace.ale_py,
        "seeds": [int(trace.seeds.min()), int(trace.seeds.max())],
        "environments": len(trace.seeds),
        "steps": trace.actions.size,
        "episode_steps": int(trace.episode_lengths.sum()),
        "episodes": len(trace.episode_return),
        **_returns(trace),
        "lengths": _quartiles(trace.episode_lengths),
        "actions": _actions(trace),
        "rewards": rewards,
        "splits": _splits(trace),
        "rom_md5": hashlib.md5(rom, usedforsecurity=False).hexdigest(),
        "regenerated": _regenerated(made, before.get("regenerated", [])),
        "license": LICENSE,
        "note": note if note is not None else before.get("note"),
    }


def load_card(path: Path) -> dict[str, Any] | None:
    """Return the card in a file, None if there is no file.

    Raises:
        ReplayError: if it holds anything else.
    """
    card = files.read_json(path, FORMAT, VERSION)
    if card is not None:
        files.check_fields(card, _FIELDS, path)
        for tried in card["regenerated"]:
            fields = tried if isinstance(tried, dict) else {}
            files.check_fields(fields, {"ale_py": str, "steps": int, "compared": str}, path)
    return card


@functools.cache
def published_agents() -> list[dict[str, Any]]:
    """Return what others report of their learners, as in `published_curves.json`."""
    return json.loads(PUBLISHED.read_text())["agents"]


def published_returns(name: str, steps: int) -> dict[str, float]:
    """Return what others report of their learners at as many steps of a game, by learner.

    Args:
        name: the game.
        steps: agent steps; within a tenth of those that are reported.
    """
    return {
        agent["name"]: value
        for agent in published_agents()
        for at, value in agent["returns"].get(name, {}).items()
        if abs(steps / int(at) - 1) <= 0.1
    }


def _is_of(store: ReplayStore, trace: Trace) -> bool:
    source = store.meta["source"]
    is_part = store.split is not None or "split" in source or "limit_steps" in source
    return source.get("trace_checksum") == f"{trace.checksum:08x}" and not is_part


def _returns(trace: Trace) -> dict[str, Any]:
    """Return figures of the episodes' returns, raw and human-normalized."""
    returns = trace.episode_return
    tenths = [float(part.mean()) if len(part) else None for part in np.array_split(returns, 10)]
    figures = {
        "first": _mean(returns[:RECENT]),
        "last": _mean(returns[-RECENT:]),
        "best": _round(returns.max()) if len(returns) else None,
        "tenths": [None if it is None else _round(it) for it in tenths],
    }
    if reason_without_score(trace.game, trace.protocol, may_be_cut=False):
        return {"returns": figures, "human_normalized": None}

    def normalize(value: Any) -> Any:
        return None if value is None else round(float(human_normalized_score(trace.game, value)), 3)

    normalized = {name: normalize(figures[name]) for name in ("first", "last", "best")}
    normalized["tenths"] = [normalize(it) for it in tenths]
    return {"returns": figures, "human_normalized": normalized}


def _mean(values: np.ndarray) -> float | None:
    return _round(values.mean()) if len(values) else None


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _quartiles(values: np.ndarray) -> list[float]:
    """Return the least, the quartiles and the most."""
    return np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(values) else []


def _actions(trace: Trace) -> dict[str, Any]:
    """Return shares and entropy of the actions, without those that only began an episode."""
    counts = np.bincount(trace.actions.ravel(), minlength=NUM_ACTIONS)
    ignored = trace.episode_end_step + 1 < len(trace.actions)
    place = (trace.episode_end_step[ignored] + 1, trace.episode_env[ignored])
    counts -= np.bincount(trace.actions[place], minlength=NUM_ACTIONS)
    shares = counts / max(1, counts.sum())
    played = shares[shares > 0]
    names = sorted({*game(trace.game).minimal_actions, *np.flatnonzero(counts).tolist()})
    return {
        "shares": {Action(number).name: round(float(shares[number]), 4) for number in names},
        "entropy_bits": round(float(-(played * np.log2(played)).sum()), 3),
    }


def _rewards(store: ReplayStore) -> dict[str, Any]:
    """Return how often steps were rewarded, of those that are in a store."""
    rewards = np.asarray(store.rewards)
    return {
        "steps": len(rewards),
        "rewarded_share": round(float((rewards != 0).mean()), 5),
        "positive_share": round(float((rewards > 0).mean()), 5),
        "least": float(rewards.min()),
        "most": float(rewards.max()),
    }


def _splits(trace: Trace) -> dict[str, Any]:
    ranges = split_ranges(trace.game, trace.protocol, {}, trace.episode_return)
    return {
        name: {
            "episodes": [episodes.start, episodes.stop],
            "steps": int(trace.episode_lengths[episodes.start : episodes.stop].sum()),
            "mean_return": _mean(trace.episode_return[episodes.start : episodes.stop]),
        }
        for name, episodes in ranges.items()
        if name != ALL
    }


def _regenerated(
    stores: Sequence[ReplayStore], before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return with which versions of ale-py the play came out as it was recorded, and how much."""
    most = {it["ale_py"]: it for it in before}
    for store in stores:
        made = store.meta.get("regenerated_with", {}).get("ale_py")
        compared = store.meta["source"].get("compared", "checksums of frames and actions")
        found = {"ale_py": made, "steps": len(store), "compared": compared}
        if made and found["steps"] >= most.get(made, found)["steps"]:
            most[made] = found
    return [most[version] for version in sorted(most)]

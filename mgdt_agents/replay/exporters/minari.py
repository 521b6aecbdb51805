"""A store as a Minari data set, without loss.

- Observations are the store's frames, `(height, width)` uint8, one a step; they are not JPEG. A
  learner that wants stacks makes them.
- Minari wants an observation after an episode's last action, and a store has none: the last frame
  is repeated. After a time-out, where a learner looks at it, that is nearly right; after the
  game's end it does not matter.
- Actions are full-set ids, rewards the store's.
- The environment is `MultiGameAtari/<Game>-v0` under the store's protocol, so that
  `recover_environment` gives what was played, whose observations are stacks. The reference scores
  are the table of games', so that `minari.get_normalized_score` is the human-normalised score.
"""

import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

import mgdt_envs
from mgdt_agents.replay.files import naming
from mgdt_agents.replay.importers.minari.library import dataset_path, minari_library
from mgdt_agents.replay.store import ReplayStore
from mgdt_envs import game
from mgdt_envs.emulator import NUM_ACTIONS
from mgdt_envs.errors import InvalidArgument, OutputExists


def export_minari(
    store: ReplayStore,
    dataset_id: str,
    *,
    limit_steps: int | None = None,
    on_steps: Callable[[int], object] = lambda steps: None,
) -> Path:
    """Write a store as a Minari data set, and return its folder.

    Args:
        store: what to export.
        dataset_id: the id that it gets, such as mgdt/pong-v0.
        limit_steps: export the first episodes that have no more steps than that together.
        on_steps: called with the number of steps that were exported, for a progress bar.

    Raises:
        FileExistsError: if there is a data set, or anything else, of that id.
        ValueError: if the id is none, or no episode is within the limit.
        ReplayError: if Minari is not installed, or a file cannot be written. Nothing is left then.
    """
    path = dataset_path(dataset_id)
    if path.exists():
        raise OutputExists(f"{path} exists; choose another --id or remove it first.")
    if not len(store):
        raise InvalidArgument(f"Expected episodes in {store.path}, found none.")
    ends = store.episode_starts + store.episode_lengths
    if limit_steps is not None:
        ends = ends[ends <= limit_steps]
    if not len(ends):
        raise InvalidArgument(
            f"Expected a limit of {store.episode_lengths[0]:,} steps or more, which the first "
            f"episode of {store.path} has, got {limit_steps:,}."
        )
    _make_namespace(dataset_id)
    # Minari looks into no hidden folder, so half a data set is none.
    with naming(path), tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        half = Path(folder) / path.name
        half.mkdir()
        _write(store, ends, half / "data", dataset_id, on_steps)
        half.rename(path)
    return path


def _make_namespace(dataset_id: str) -> None:
    from minari.namespace import create_namespace, list_local_namespaces

    namespace, _, _ = dataset_id.rpartition("/")
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)


def _write(
    store: ReplayStore,
    ends: np.ndarray,
    folder: Path,
    dataset_id: str,
    on_steps: Callable[[int], object],
) -> None:
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.new(
        folder,
        observation_space=Box(0, 255, store.frames.shape[1:], np.uint8),
        action_space=Discrete(NUM_ACTIONS),
        env_spec=_environment(store),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    storage.update_metadata(_metadata(store, dataset_id))
    storage.update_episodes(_episodes(store, ends, on_steps))


def _environment(store: ReplayStore) -> gym.envs.registration.EnvSpec:
    spec = deepcopy(gym.spec(f"MultiGameAtari/{store.game}-v0"))
    spec.kwargs["protocol"] = store.protocol.to_dict()
    return spec


def _metadata(store: ReplayStore, dataset_id: str) -> dict[str, Any]:
    played = game(store.game)
    metadata = {
        "dataset_id": dataset_id,
        "minari_version": minari_library().__version__,
        "description": (
            f"Play of {played.name} under this protocol: {store.protocol.sheet()}. Observations "
            "are single frames; those of the environment are stacks of them. The observation "
            "after an episode's last action was not kept: it is the one before, repeated."
        ),
        "requirements": [f"mgdt>={mgdt_envs.__version__}"],
        "mgdt": {
            "game": played.name,
            "protocol": store.protocol.to_dict(),
            "source": store.meta["source"],
            "last_observations": "repeated",
        },
    }
    if played.has_human_reference:
        metadata |= {"ref_min_score": played.random, "ref_max_score": played.human}
    return metadata


def _episodes(
    store: ReplayStore, ends: np.ndarray, on_steps: Callable[[int], object]
) -> Iterator[Any]:
    """Yield `minari.data_collector.EpisodeBuffer`s, one in memory at a time."""
    from minari.data_collector import EpisodeBuffer

    for start, stop in zip(store.episode_starts[: len(ends)], ends, strict=True):
        frames = np.empty((stop - start + 1, *store.frames.shape[1:]), np.uint8)
        store.read_frames(start, stop, frames[:-1])
        frames[-1] = frames[-2]
        yield EpisodeBuffer(
            observations=frames,
            actions=store.actions[start:stop].astype(np.int64),
            rewards=store.rewards[start:stop],
            terminations=store.terminated[start:stop],
            truncations=store.truncated[start:stop],
            infos={},
        )
        on_steps(int(stop))

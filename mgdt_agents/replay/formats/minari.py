"""Minari data sets of Atari play: those of others as stores, and stores as data sets.

The play of others was recorded on ale-py's environments or on the suite's. What is undone:

- Observations are the frames that the recording kept: RGB or gray, as the console shows them or
  84x84, one or a stack. The newest frame becomes gray, by the luminance that ale-py uses, and is
  resized by area. That is what `AtariProtocol` does to the last frame of a step.
- Actions, indices in the game's minimal set where the environment had that, become full-set ids.
- The observation after an episode's last action is dropped: a store has no place for it.

The rules come from the environment's specification in the data set. Observations that Minari kept
as JPEG stay marked by it, which the store's source says.

A store becomes a data set without loss:

- Observations are the store's frames, `(height, width)` uint8, one a step; they are not JPEG. A
  learner that wants stacks makes them.
- Minari wants an observation after an episode's last action, and a store has none: the last frame
  is repeated. After a time-out, where a learner looks at it, that is nearly right; after the
  game's end it does not matter.
- Actions are full-set ids, rewards the store's.
- The environment is `MultiGameAtari/<Game>-v0` under the store's protocol, so that
  `recover_environment` gives what was played, whose observations are stacks. The reference scores
  are the table of games', so that `minari.get_normalized_score` is the human-normalized score.
"""

import json
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

import mgdt_envs
from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.formats.importing import Episode, Recording
from mgdt_agents.replay.formats.minari_rules import Observations, recorded_rules
from mgdt_agents.replay.splits import split_ranges
from mgdt_agents.replay.store import PROTOCOL, ReplayStore
from mgdt_envs import game as find_game
from mgdt_envs.emulator import NUM_ACTIONS
from mgdt_envs.errors import InvalidArgument, OutputExists, importing


def minari_library() -> Any:
    """Return the module `minari`, with what it needs to read and write files.

    Raises:
        MissingExtra: if it is not installed.
    """
    with importing("Minari data sets need Python 3.11 or newer, and Minari", "minari"):
        import h5py  # noqa: F401
        import minari
        import PIL  # noqa: F401
    return minari


def dataset_path(dataset_id: str) -> Path:
    """Return the folder that Minari has or would have for a data set on this machine.

    Raises:
        ValueError: if the id is not as Minari's are.
        MissingExtra: if Minari is not installed.
    """
    # Minari's own check fails without words where the version is missing.
    if not re.fullmatch(r"(?:\w[-\w]*/)*\w[-\w]*-v\d+", dataset_id):
        raise InvalidArgument(
            "Expected the id of a Minari data set, with a version at its end, such as "
            f"atari/pong/expert-v0, got {dataset_id!r}."
        )
    minari_library()
    from minari.storage import get_dataset_path

    return Path(get_dataset_path(dataset_id))


class MinariRecording(Recording):
    """A data set of one game. It is only read.

    Args:
        dataset_id: such as atari/pong/expert-v0.
        games: names of games, one of which it must be of; if empty, any will do.
        download: fetch the data set from Minari's server if it is not on this machine.

    Attributes, beside those of a recording:
        source: in its "notes" what the protocol cannot say; "exported" is the source of the store
            that the data set was exported from, if it was.

    Raises:
        ValueError: for an id of another form, or an unknown game.
        ReplayError: if there is no such data set, it cannot be read, or is not of Atari play that
            a store can hold.
    """

    def __init__(
        self, dataset_id: str, *, games: Sequence[str] = (), download: bool = False
    ) -> None:
        expected = [find_game(name) for name in games]
        self.dataset_id = dataset_id
        self._dataset = _load(dataset_id, download)
        metadata = self._dataset.storage.metadata
        cannot = f"Cannot import the Minari data set {dataset_id}: "
        try:
            rules = recorded_rules(self._dataset.env_spec, self._dataset.action_space)
            self._observations = Observations.of(
                self._dataset.observation_space, rules.protocol.screen_size
            )
        except ValueError as error:
            raise ReplayError(cannot + str(error)) from error
        self.game, self.protocol = rules.game, rules.protocol
        self._action_ids = rules.action_ids
        if expected and self.game not in expected:
            names = ", ".join(it.name for it in expected)
            raise ReplayError(f"{cannot}expected one of {names}, it is of {self.game.name}.")
        self.max_steps = int(self._dataset.total_steps)
        self.source = self._source(metadata, rules.notes, rules.rewards_clipped)

    def _source(
        self, metadata: dict[str, Any], notes: tuple[str, ...], rewards_clipped: bool
    ) -> dict[str, Any]:
        from minari.dataset.minari_storage import is_image_space

        spec = json.loads(self._dataset.env_spec.to_json())
        exported = metadata.get("mgdt", {}).get("source", {})
        source = {
            "kind": "minari",
            "dataset_id": self.dataset_id,
            "minari_version": self._dataset.minari_version,
            "algorithm": metadata.get("algorithm_name"),
            "episodes": int(self._dataset.total_episodes),
            "steps": self.max_steps,
            "environment": {
                name: spec[name]
                for name in ("id", "kwargs", "max_episode_steps", "additional_wrappers")
            },
            "observation_shape": self._observations.shape,
            "conversion": self._observations.conversion,
            "jpeg_observations": self._dataset.storage.jpeg_encoding
            and is_image_space(self._dataset.observation_space),
            "rewards_clipped": rewards_clipped or exported.get("rewards_clipped", False),
            "notes": notes,
            "exported": exported or None,
            "splits": exported.get("splits"),
        }
        # As it comes back from a store's meta.json, where it is compared.
        known = {name: value for name, value in source.items() if value is not None}
        return files.check_json(known, "source")

    def episodes(self, start: int | None = None) -> Generator[tuple[Episode, int], None, None]:
        """Yield the episodes, each with the number of episodes up to it and with it.

        Args:
            start: episodes to leave out.

        Raises:
            ReplayError: if one cannot be read, or is not whole.
        """
        for number in range(start or 0, self._dataset.total_episodes):
            # No name for what was read: it would stay in memory while the next is read.
            yield self._episode(number, self._read(number)), number + 1

    def _read(self, number: int) -> Any:
        """Return the `minari.EpisodeData`."""
        try:
            return self._dataset[number]
        except Exception as error:  # for damaged files, libraries raise many kinds
            raise ReplayError(f"Cannot read {self._place(number)}: {error}") from error

    def _place(self, number: int) -> str:
        return f"episode {number} of the Minari data set {self.dataset_id}"

    def _episode(self, number: int, recorded: Any) -> Episode:
        actions, steps = np.asarray(recorded.actions), len(recorded.rewards)
        shapes = [
            np.shape(column) for column in (recorded.observations, actions, recorded.terminations)
        ]
        expected = [(steps + 1, *self._observations.shape), (steps,), (steps,)]
        if not steps or shapes != expected or np.shape(recorded.truncations) != (steps,):
            raise ReplayError(
                f"Expected observations, actions and ends of shapes {expected} for {steps} rewards "
                f"in {self._place(number)}, found {shapes}."
            )
        if actions.min() < 0 or actions.max() >= len(self._action_ids):
            raise ReplayError(
                f"Expected actions 0..{len(self._action_ids) - 1} in {self._place(number)}, found "
                f"{actions.min()}..{actions.max()}."
            )
        done = np.flatnonzero(recorded.terminations | recorded.truncations)
        if done.tolist() != [steps - 1]:
            raise ReplayError(
                f"Expected the last step of {self._place(number)}, {steps - 1}, to end it, and no "
                f"other; found ends in steps {done.tolist()}."
            )
        return Episode(
            self._observations.frames(recorded.observations[:-1]),
            self._action_ids[actions],
            np.asarray(recorded.rewards, np.float32),
            not recorded.terminations[-1],
        )


def _load(dataset_id: str, download: bool) -> Any:
    """Return the `minari.MinariDataset`."""
    path = dataset_path(dataset_id)
    if not path.exists() and not download:
        raise ReplayError(
            f"Expected the Minari data set {dataset_id} at {path}, there is none; add --download, "
            "or set MINARI_DATASETS_PATH."
        )
    try:
        return minari_library().load_dataset(dataset_id, download=download)
    except Exception as error:  # for damaged files, libraries raise many kinds
        raise ReplayError(
            f"Cannot read the Minari data set {dataset_id} at {path}: {error}"
        ) from error


def export_minari(
    store: ReplayStore,
    dataset_id: str,
    *,
    limit_steps: int | None = None,
    on_steps: Callable[[int], object] = lambda steps: None,
) -> Path:
    """Write a store as a Minari data set, and return its folder.

    If it is killed, the same call begins anew; if the data set is there already, it does nothing.

    Args:
        store: what to export.
        dataset_id: the id that it gets, such as mgdt/pong-v0.
        limit_steps: export the first episodes that have no more steps than that together.
        on_steps: called with the number of steps that were exported, for a progress bar.

    Raises:
        FileExistsError: if there is another data set, or anything else, of that id.
        ValueError: for an id of another form, or if no episode is within the limit.
        MissingExtra: if Minari is not installed.
        ReplayError: if a file cannot be written. Nothing is left then.
    """
    path = dataset_path(dataset_id)
    stops = store.episode_starts + store.episode_lengths
    if limit_steps is not None:
        stops = stops[stops <= limit_steps]
    if not len(stops):
        raise InvalidArgument(
            f"Expected a limit of {store.episode_lengths[0]:,} steps or more, which the first "
            f"episode of {store.path} has, got {limit_steps:,}."
        )
    metadata = _metadata(store, dataset_id, len(stops), int(stops[-1]))
    half = path.with_name(f".export-{path.name}")  # Minari looks into no hidden folder
    with files.exclusive(half):
        shutil.rmtree(half, ignore_errors=True)  # the rest of an export that was killed
        if path.exists():
            if _exported(path) == metadata["mgdt"]:
                return path
            raise OutputExists(f"{path} exists; choose another --id or remove it first.")
        try:
            with files.naming(path):
                _make_namespace(dataset_id)
                half.mkdir()
                _write(store, stops, half / "data", metadata, on_steps)
                half.rename(path)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return path


def _exported(path: Path) -> Any:
    """Return what a data set says of the export that made it; None if no export did."""
    try:
        return json.loads((path / "data" / "metadata.json").read_text())["mgdt"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _make_namespace(dataset_id: str) -> None:
    """Write what makes a folder a namespace, as `minari.namespace.create_namespace` does."""
    from minari.namespace import NAMESPACE_METADATA_FILENAME
    from minari.storage import get_dataset_path

    *names, _ = dataset_id.split("/")
    for level in range(len(names)):
        folder = Path(get_dataset_path("/".join(names[: level + 1])))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NAMESPACE_METADATA_FILENAME).exists():
            files.replace(folder / NAMESPACE_METADATA_FILENAME, b"{}")


def _write(
    store: ReplayStore,
    stops: np.ndarray,
    folder: Path,
    metadata: dict[str, Any],
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
    storage.update_metadata(metadata)
    storage.update_episodes(_episodes(store, stops, on_steps))


def _environment(store: ReplayStore) -> gym.envs.registration.EnvSpec:
    spec = deepcopy(gym.spec(f"MultiGameAtari/{store.game}-v0"))
    spec.kwargs["protocol"] = store.protocol.to_dict()
    return spec


def _metadata(store: ReplayStore, dataset_id: str, episodes: int, num_steps: int) -> dict[str, Any]:
    played = find_game(store.game)
    whole = store if store.split is None else ReplayStore(store.folder)
    source = store.meta["source"]
    if episodes < len(whole.episode_starts) or "splits" in source:
        # Of a part: measured over fewer episodes, levels would be others.
        play = whole.game, whole.protocol, source, whole.episode_returns
        first = store.first_episode
        parts = {
            name: np.clip([it.start - first, it.stop - first], 0, episodes).tolist()
            for name, it in split_ranges(*play).items()
        }
        source = source | {"splits": {name: it for name, it in parts.items() if it[0] < it[1]}}
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
            "source": source,
            **({} if store.split is None else {"split": store.split}),
            **({} if store.obs_type == PROTOCOL else {"obs_type": store.obs_type}),
            "last_observations": "repeated",
            "store_checksums": store.meta["checksums"],
            "steps": num_steps,
        },
    }
    if played.has_human_reference:
        metadata |= {"ref_min_score": played.random, "ref_max_score": played.human}
    return metadata


def _episodes(
    store: ReplayStore, stops: np.ndarray, on_steps: Callable[[int], object]
) -> Iterator[Any]:
    """Yield `minari.data_collector.EpisodeBuffer`s, one in memory at a time."""
    from minari.data_collector import EpisodeBuffer

    for start, stop in zip(store.episode_starts[: len(stops)], stops, strict=True):
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

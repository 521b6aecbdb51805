"""A Minari data set of Atari play, its episodes, and a store of them."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.importers.minari.frames import Observations
from mgdt_agents.replay.importers.minari.library import dataset_path, minari_library
from mgdt_agents.replay.importers.minari.rules import recorded_rules
from mgdt_agents.replay.importers.writing import Episode, write_import
from mgdt_envs import game as find_game


class MinariRecording:
    """A data set of one game. It is only read.

    Args:
        dataset_id: such as atari/pong/expert-v0.
        game: name of the game that it must be of, or None.
        download: fetch the data set from Minari's server if it is not on this machine.

    Attributes:
        game: the `Game`.
        protocol: what the recording was played under, as far as a protocol can say.
        source: where it is from, and what the protocol cannot say; of JSON types. "exported" is
            the source of the store that the data set was exported from, if it was.
        num_steps: steps that there are.

    Raises:
        ValueError: if the id or the game's name is none.
        ReplayError: if there is no such data set, it cannot be read, or is not of Atari play that
            a store can hold.
    """

    def __init__(self, dataset_id: str, *, game: str | None = None, download: bool = False) -> None:
        """Read what the data set says of itself."""
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
        if game is not None and find_game(game) != self.game:
            raise ReplayError(
                f"{cannot}expected one of {find_game(game).name}, it is of {self.game.name}."
            )
        self.num_steps = int(self._dataset.total_steps)
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
            "steps": self.num_steps,
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
        }
        # As it comes back from a store's meta.json, where it is compared.
        return json.loads(json.dumps({name: it for name, it in source.items() if it is not None}))

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
        ends = np.flatnonzero(recorded.terminations | recorded.truncations)
        if ends.tolist() != [steps - 1]:
            raise ReplayError(
                f"Expected the last step of {self._place(number)}, {steps - 1}, to end it, and no "
                f"other; found ends in steps {ends.tolist()}."
            )
        return Episode(
            self._observations.frames(recorded.observations[:-1]),
            self._action_ids[actions],
            np.asarray(recorded.rewards, np.float32),
            not recorded.terminations[-1],
        )


def import_minari(
    recording: MinariRecording,
    output: str | Path,
    *,
    limit_steps: int | None = None,
    on_steps: Callable[[int], object] = lambda steps: None,
) -> None:
    """Write the episodes of a data set to a store, or go on where an import was cut off.

    Args:
        recording: what to import. Its observations are in memory an episode at a time.
        output: the store's folder. A store there of the same import with a lower limit is
            extended; one without is left as it is.
        limit_steps: import the first episodes that have no more steps than that together.
        on_steps: called with the number of steps in the store, for a progress bar.

    Raises:
        ReplayError: if an episode is damaged, or `output` is not of this import.
    """
    write_import(
        output,
        recording.game.name,
        recording.protocol,
        recording.source,
        recording.episodes,
        limit_steps=limit_steps,
        on_steps=on_steps,
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

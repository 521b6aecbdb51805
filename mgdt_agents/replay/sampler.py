"""Windows of steps drawn at random across stores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mgdt_agents.replay.store import ReplayStore

# Lee et al. 2022, footnote 2: returns are kept in -20..100, in bins of 1.
MIN_RETURN, MAX_RETURN = -20, 100


class WindowBatch(NamedTuple):
    """B windows of W steps each.

    A row outside the episode is a zero frame, action 0, reward 0, not valid.
    """

    frames: np.ndarray
    """`(B, W, height, width)` uint8."""
    actions: np.ndarray
    """`(B, W)` int64 full-set ids."""
    rewards: np.ndarray
    """`(B, W)` float32, as stored."""
    returns_to_go: np.ndarray
    """`(B, W)` int64: the rewards clipped to [-1, 1], summed from the step to the episode's end
    and kept in -20..100. Before the episode it is that of the whole episode, after it 0."""
    terminated: np.ndarray
    """`(B, W)` bool: the game ended the episode at this step; a time limit does not count."""
    valid: np.ndarray
    """`(B, W)` bool: the row is a step of the episode."""


class WindowSampler:
    """Draw windows that end, but for `future` rows, at uniformly drawn steps.

    Windows never cross the end of an episode. What is drawn is a pure function of the seed, the
    batch's number and the rank, so training resumes from one integer.

    Args:
        stores: stores, or their folders. Each game is drawn equally often, and the stores of one
            game in proportion to their steps.
        steps: rows up to and including the drawn step.
        future: rows after the drawn step.
        top_fraction: draw only from this share of each store's episodes, those of highest return
            (Lee et al. 2022, section 4.8, train on the top tenth).
        seed: of the draws.
        rank: number of this process among those that draw different windows.
    """

    def __init__(
        self,
        stores: Sequence[ReplayStore | str],
        *,
        steps: int = 4,
        future: int = 0,
        top_fraction: float = 1.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        """Open the stores and choose their episodes."""
        if not stores:
            raise ValueError("Expected at least one replay store, got none.")
        if steps < 1 or future < 0:
            raise ValueError(f"Expected steps >= 1 and future >= 0, got {steps} and {future}.")
        if not 0 < top_fraction <= 1:
            raise ValueError(f"Expected top_fraction in (0, 1], got {top_fraction}.")
        self.stores = [
            store if isinstance(store, ReplayStore) else ReplayStore(store) for store in stores
        ]
        self.steps, self.future, self.seed, self.rank = steps, future, seed, rank
        shapes = {store.frames.shape[1:] for store in self.stores}
        if len(shapes) > 1:
            raise ValueError(f"Expected stores of one frame size, got {sorted(shapes)}.")
        self._frame_shape = shapes.pop()
        self._episodes = [_Episodes(store, top_fraction) for store in self.stores]
        sizes = np.array([episodes.total for episodes in self._episodes], np.float64)
        if not sizes.all():
            empty = [str(store.path) for store in self.stores if not len(store)]
            raise ValueError(f"Expected steps in every store; there are none in {empty}.")
        games = np.array([store.game for store in self.stores])
        for name in np.unique(games):
            sizes[games == name] /= sizes[games == name].sum()
        self._weights = sizes / sizes.sum()

    @property
    def games(self) -> tuple[str, ...]:
        """The games of the stores, each once."""
        return tuple(dict.fromkeys(store.game for store in self.stores))

    def sample(self, batch_size: int, step: int) -> WindowBatch:
        """Draw batch number `step`.

        Args:
            batch_size: number of windows.
            step: number of the batch.
        """
        rng = np.random.default_rng([self.seed, self.rank, step])
        picks = rng.choice(len(self.stores), size=batch_size, p=self._weights)
        places = rng.random(batch_size)
        shape = (batch_size, self.steps + self.future)
        batch = WindowBatch(
            frames=np.zeros((*shape, *self._frame_shape), np.uint8),
            actions=np.zeros(shape, np.int64),
            rewards=np.zeros(shape, np.float32),
            returns_to_go=np.zeros(shape, np.int64),
            terminated=np.zeros(shape, bool),
            valid=np.zeros(shape, bool),
        )
        for row, (pick, place) in enumerate(zip(picks, places, strict=True)):
            self._fill(batch, row, self.stores[pick], self._episodes[pick], place)
        return batch

    def _fill(
        self,
        batch: WindowBatch,
        row: int,
        store: ReplayStore,
        episodes: "_Episodes",
        place: float,
    ) -> None:
        start, step, end = episodes.locate(place)
        first = step - self.steps + 1
        source = slice(max(first, start), min(step + self.future + 1, end))
        target = slice(source.start - first, source.stop - first)
        batch.frames[row, target] = store.frames[source]
        batch.actions[row, target] = store.actions[source]
        batch.rewards[row, target] = store.rewards[source]
        batch.terminated[row, target] = store.terminated[source]
        batch.valid[row, target] = True
        batch.returns_to_go[row, target] = episodes.returns_to_go[source]
        batch.returns_to_go[row, : target.start] = episodes.returns_to_go[start]


class _Episodes:
    """The drawn episodes of a store, and the return-to-go of each of its steps."""

    def __init__(self, store: ReplayStore, top_fraction: float) -> None:
        lengths = store.episode_lengths
        count = int(np.ceil(top_fraction * len(lengths)))
        chosen = np.sort(np.argsort(-store.episode_returns, kind="stable")[:count])
        self.starts = np.asarray(store.episode_starts)[chosen]
        self.lengths = lengths[chosen]
        self.ends = np.cumsum(self.lengths)  # in steps of the chosen episodes alone
        self.total = int(self.ends[-1]) if count else 0
        self.returns_to_go = _returns_to_go(store)

    def locate(self, place: float) -> tuple[int, int, int]:
        """Return the episode's first row, the drawn row, and the episode's end, for [0, 1)."""
        number = int(place * self.total)
        episode = int(np.searchsorted(self.ends, number, side="right"))
        start, length = int(self.starts[episode]), int(self.lengths[episode])
        return start, start + number - int(self.ends[episode]) + length, start + length


def _returns_to_go(store: ReplayStore) -> np.ndarray:
    """Return `(steps,)` int8: see `WindowBatch.returns_to_go`."""
    if not len(store):
        return np.zeros(0, np.int8)
    before = np.concatenate([[0], np.cumsum(np.clip(store.rewards, -1, 1), dtype=np.float64)])
    ends = np.repeat(store.episode_starts + store.episode_lengths, store.episode_lengths)
    return np.clip(np.rint(before[ends] - before[:-1]), MIN_RETURN, MAX_RETURN).astype(np.int8)

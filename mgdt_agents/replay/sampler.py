"""Windows of steps drawn at random across stores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.store import ReplayStore
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

_ROWS_PER_MARK = 64


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
    """`(B, W)` float32: the rewards clipped to [-1, 1], discounted and summed from the step to the
    episode's end. Before the episode it is that of the whole episode, after it 0."""
    terminated: np.ndarray
    """`(B, W)` bool: the game ended the episode at this step; a time limit does not count."""
    valid: np.ndarray
    """`(B, W)` bool: the row is a step of the episode."""
    games: np.ndarray
    """`(B,)` int64: the window's game, numbered as in the sampler's `games`."""
    episode_ranks: np.ndarray
    """`(B,)` float32 in [0, 1): the share of the game's steps, in all stores, that were played in
    episodes of lower return than the window's."""
    share_valid: np.ndarray | None = None
    """`()` float64: of a part of a batch, its share of the whole batch's valid rows."""

    @property
    def num_valid(self) -> float:
        """What sums over valid rows are divided by.

        Means of the parts of a batch then average to that of the whole batch.
        """
        return float(self.valid.sum() if self.share_valid is None else self.share_valid)


class WindowSampler:
    """Draw windows that end at uniformly drawn steps, or `future` rows after them.

    Windows never cross the end of an episode. What is drawn is a pure function of the seed and the
    batch's number, so training resumes from one integer. Memory hardly grows with the
    stores: by some bytes an episode, and every `_ROWS_PER_MARK` steps.

    A pickled sampler holds the stores' paths, so handing one to another process costs little.

    Args:
        stores: stores, or their folders, such as `replay/Pong` or `replay/Pong:medium`. The stores
            of one game are drawn in proportion to their steps.
        steps: rows up to and including the drawn step.
        future: rows after the drawn step.
        weights: how often each game is drawn: "uniform", "size" (in proportion to its steps), or
            weights by game, which need not sum to 1.
        split: draw from the episodes to train on, or from those held out.
        heldout_fraction: share of each store's episodes that is held out. Which ones follows from
            an episode's index alone, so a longer store holds out the same ones and more.
        discount: of `returns_to_go`, for each step, in (0, 1].
        top_fraction: draw only from this share of each store's episodes of the split, those of
            highest return (Lee et al. 2022, section 4.8, train on the top tenth).
        return_weighting: w of exp(w * rank), how often a step is drawn, by `episode_ranks`: better
            episodes oftener, and none left out. Hong et al. 2023 weigh by scaled returns;
            ranks mean the same in all games.
        seed: of the draws.

    Raises:
        ValueError: if an argument is out of range, a store has no episodes to draw from, or the
            stores' frames differ in size.
        ReplayError: if a store has a reward that is NaN or an action above 17.
    """

    def __init__(
        self,
        stores: Sequence[ReplayStore | str],
        *,
        steps: int = 4,
        future: int = 0,
        weights: Literal["uniform", "size"] | Mapping[str, float] = "uniform",
        split: Literal["train", "heldout"] = "train",
        heldout_fraction: float = 0.0,
        top_fraction: float = 1.0,
        return_weighting: float = 0.0,
        discount: float = 1.0,
        seed: int = 0,
    ) -> None:
        if isinstance(stores, str | Path | ReplayStore):  # whose letters would be stores, too
            raise InvalidArgument(
                f"Expected a list of replay stores, got {stores!r}; put it into one."
            )
        if not stores:
            raise InvalidArgument("Expected at least one replay store, got none.")
        if steps < 1 or future < 0:
            raise InvalidArgument(f"Expected steps >= 1 and future >= 0, got {steps} and {future}.")
        if not 0 < top_fraction <= 1:
            raise InvalidArgument(f"Expected top_fraction in (0, 1], got {top_fraction}.")
        if not 0 <= return_weighting <= 100:
            raise InvalidArgument(f"Expected return_weighting in [0, 100], got {return_weighting}.")
        if not 0 < discount <= 1:
            raise InvalidArgument(f"Expected discount in (0, 1], got {discount}.")
        if not 0 <= heldout_fraction < 1:
            raise InvalidArgument(f"Expected heldout_fraction in [0, 1), got {heldout_fraction}.")
        if split not in ("train", "heldout"):
            raise InvalidArgument(f"Expected split 'train' or 'heldout', got {split!r}.")
        self.stores = [
            store if isinstance(store, ReplayStore) else ReplayStore(store) for store in stores
        ]
        self.steps, self.future, self.seed = steps, future, seed
        shapes = {store.frames.shape[1:] for store in self.stores}
        if len(shapes) > 1:
            raise InvalidArgument(f"Expected stores of one frame size, got {sorted(shapes)}.")
        self._frame_shape = shapes.pop()
        self._game_numbers = np.array([self.games.index(store.game) for store in self.stores])
        self._returns = _ReturnsToGo(self.stores, discount)
        chosen = [_choose(store, split, heldout_fraction, top_fraction) for store in self.stores]
        self._episodes = _Episodes(self.stores, chosen, return_weighting)
        sizes = self._episodes.weights
        if not sizes.all():
            empty = [str(s.path) for s, size in zip(self.stores, sizes, strict=True) if not size]
            raise InvalidArgument(
                f"Expected steps in the {split} split of every store; there are none in {empty}."
            )
        shares = self._store_weights(sizes, weights).cumsum()
        self._shares = shares / shares[-1]

    def _store_weights(
        self, sizes: np.ndarray, weights: Literal["uniform", "size"] | Mapping[str, float]
    ) -> np.ndarray:
        """Return the probability of each store, `(stores,)`."""
        if isinstance(weights, str) and weights not in ("uniform", "size"):
            raise InvalidArgument(
                f"Expected weights 'uniform', 'size' or by game, got {weights!r}."
            )
        if weights == "size":
            return sizes / sizes.sum()
        games = np.array([store.game for store in self.stores])
        by_game = dict.fromkeys(self.games, 1.0) if isinstance(weights, str) else weights
        if unknown := set(by_game) - set(self.games):
            name = sorted(unknown)[0]
            raise InvalidArgument(f"No store is of {name!r}. {did_you_mean(name, self.games)}")
        if missing := set(self.games) - set(by_game):
            raise InvalidArgument(
                f"Expected a weight for each game, got none for {sorted(missing)}."
            )
        given = [by_game[name] for name in self.games]
        if min(given) < 0 or not 0 < sum(given) < np.inf:
            raise InvalidArgument(
                f"Expected weights >= 0 with a positive sum, got {dict(by_game)}."
            )
        sizes = sizes.copy()
        for name in self.games:
            sizes[games == name] *= by_game[name] / sizes[games == name].sum()
        return sizes / sizes.sum()

    @property
    def games(self) -> tuple[str, ...]:
        """The games of the stores, each once."""
        return tuple(dict.fromkeys(store.game for store in self.stores))

    @property
    def num_windows(self) -> int:
        """Steps that windows are drawn to end at."""
        return int(self._episodes.totals.sum())

    def some_returns_to_go(self) -> np.ndarray:
        """Return the return to go of every 64th step of all stores, `(n,)` float64."""
        return self._returns.of_steps

    def sample(
        self,
        batch_size: int,
        step: int,
        part: slice = slice(None),
    ) -> WindowBatch:
        """Draw batch number `step`.

        Args:
            batch_size: number of windows.
            step: number of the batch.
            part: of the batch's windows, those to return.
        """
        picks, episodes, drawn = self._draw(batch_size, step)
        first = drawn - self.steps + 1
        begin = np.maximum(first, self._episodes.starts[episodes])
        end = np.minimum(drawn + self.future + 1, self._episodes.stops[episodes])
        num_valid = (end - begin).sum() / batch_size
        picks, episodes, drawn = picks[part], episodes[part], drawn[part]
        first, begin, end, batch_size = first[part], begin[part], end[part], len(picks)
        rows = first[:, None] + np.arange(self.steps + self.future)
        valid = (begin[:, None] <= rows) & (rows < end[:, None])
        rows = np.where(valid, rows, drawn[:, None])  # any row of the store
        batch = WindowBatch(
            frames=np.empty((*rows.shape, *self._frame_shape), np.uint8),
            actions=np.empty(rows.shape, np.int64),
            rewards=np.empty(rows.shape, np.float32),
            returns_to_go=np.empty(rows.shape, np.float32),
            terminated=np.empty(rows.shape, bool),
            valid=valid,
            games=self._game_numbers[picks],
            episode_ranks=self._episodes.ranks[episodes],
            share_valid=np.array(num_valid * batch_size),
        )
        for pick, store in enumerate(self.stores):
            windows = np.flatnonzero(picks == pick)
            drawn = rows[windows]
            batch.actions[windows] = store.actions[drawn]
            batch.rewards[windows] = store.rewards[drawn]
            batch.terminated[windows] = store.terminated[drawn]
        for column in (batch.frames, batch.actions, batch.rewards, batch.terminated):
            column[~valid] = 0
        returns = self._returns.at(picks, end, self._episodes.stops[episodes])
        for place in reversed(range(rows.shape[1])):
            clipped = batch.rewards[:, place].astype(np.float64).clip(-1, 1)
            discounted = clipped + self._returns.discount * returns
            returns = np.where(valid[:, place], discounted, returns)
            batch.returns_to_go[:, place] = returns
        readers = [store.read_frames for store in self.stores]
        places = np.stack([np.arange(batch_size), picks, begin, end, begin - first, end - first], 1)
        # Store by store, for each has a decompressor with memory of its own.
        for window, pick, start, stop, left, right in places[picks.argsort()].tolist():
            readers[pick](start, stop, batch.frames[window, left:right])
        return batch

    def drawn_rows(self, batch_size: int, step: int) -> list[tuple[Path, int]]:
        """Return where each window of a batch comes from: its store, and the drawn row there."""
        picks, _, drawn = self._draw(batch_size, step)
        return [(self.stores[pick].path, int(row)) for pick, row in zip(picks, drawn, strict=True)]

    def _draw(self, batch_size: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the stores, the episodes (numbered over all stores) and the drawn rows."""
        # Whoever trains again draws the same windows as long as these numbers stay as they are.
        rng = np.random.default_rng([self.seed, 0, step])
        picks = self._shares.searchsorted(rng.random(batch_size), side="right")
        return picks, *self._episodes.locate(picks, rng.random(batch_size))


class _Episodes:
    """The drawn episodes of all stores, one after another."""

    def __init__(
        self, stores: Sequence[ReplayStore], chosen: Sequence[np.ndarray], return_weighting: float
    ) -> None:
        lengths = [s.episode_lengths[c] for s, c in zip(stores, chosen, strict=True)]
        starts = [s.episode_starts[c] for s, c in zip(stores, chosen, strict=True)]
        ranks = [r[c] for r, c in zip(_ranks(stores), chosen, strict=True)]
        self.totals = np.array([steps.sum() for steps in lengths])  # steps of each store
        self.begins = self.totals.cumsum() - self.totals  # the number of its first step
        self.ends = np.concatenate(lengths).cumsum()  # in such numbers
        self.starts = np.concatenate(starts)
        self.stops = self.starts + np.concatenate(lengths)
        self.ranks = np.concatenate(ranks).astype(np.float32)
        # Relative to the best, so that no weighting overflows.
        masses = [
            steps * np.exp(return_weighting * (episode_ranks - 1))
            for steps, episode_ranks in zip(lengths, ranks, strict=True)
        ]
        self.weights = np.array([mass.sum() for mass in masses])  # of each store
        # For each store, shares of its weight and of its steps up to the end of each episode.
        self.shares = [
            np.array([[0, *(c / c[-1:])] for c in (mass.cumsum(), steps.cumsum())])
            for mass, steps in zip(masses, lengths, strict=True)
        ]
        self.return_weighting = return_weighting

    def locate(self, picks: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the episodes, numbered over all stores, and the drawn rows, for [0, 1)."""
        if self.return_weighting:
            places = places.copy()
            for pick, (weights, steps) in enumerate(self.shares):
                drawn = picks == pick
                places[drawn] = np.interp(places[drawn], weights, steps)
            places = np.minimum(places, np.nextafter(1, 0))  # interp may round up to 1
        numbers = self.begins[picks] + (places * self.totals[picks]).astype(np.int64)
        episodes = np.searchsorted(self.ends, numbers, side="right")
        return episodes, self.stops[episodes] + numbers - self.ends[episodes]


class _ReturnsToGo:
    """Discounted sums of the clipped rewards to the episode's end, without a table of all."""

    def __init__(self, stores: Sequence[ReplayStore], discount: float) -> None:
        self.stores, self.discount = stores, discount
        self.discounts = discount ** np.arange(_ROWS_PER_MARK + 1)
        marks = [self._marks(store) for store in stores]
        self.marks = np.concatenate(marks)  # of rows 0, 64, 128, ... of each store, and 0
        self.of_steps = np.concatenate([of_store[:-1] for of_store in marks])
        self.begins = np.cumsum([0, *map(len, marks)])[:-1]

    def _marks(self, store: ReplayStore) -> np.ndarray:
        """Return the return to go of every 64th row, float64, and 0 for the one after the last."""
        places = np.arange(_ROWS_PER_MARK)
        stops = np.append(store.episode_starts[1:], len(store))
        rows = np.arange(0, len(store), _ROWS_PER_MARK)
        near, far = np.zeros(len(rows)), np.zeros(len(rows))  # up to the next mark; weight of that
        for first in range(0, len(rows), 1 << 13):
            piece = slice(first, first + (1 << 13))
            left = stops[np.searchsorted(stops, rows[piece], side="right")] - rows[piece]
            read = store.rewards[rows[first] : rows[first] + len(left) * _ROWS_PER_MARK]
            _check_rows(store, int(rows[first]), read)
            rewards = np.zeros((len(left), _ROWS_PER_MARK))
            rewards.flat[: len(read)] = np.clip(read, -1, 1)
            near[piece] = (rewards * (places < left[:, None])) @ self.discounts[:-1]
            far[piece] = (left > _ROWS_PER_MARK) * self.discounts[-1]
        marks = [0.0]
        for return_near, weight in zip(near[::-1].tolist(), far[::-1].tolist(), strict=True):
            marks.append(return_near + weight * marks[-1])
        return np.array(marks[::-1])

    def at(self, picks: np.ndarray, rows: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return the return to go of rows of the picked stores, `(B,)` float64.

        Args:
            picks: `(B,)` the stores.
            rows: `(B,)`.
            stops: `(B,)` the row after the last of each row's episode; at it, the return is 0.
        """
        numbers = -(-rows // _ROWS_PER_MARK)  # of the next mark
        distance = numbers * _ROWS_PER_MARK - rows
        places = np.arange(_ROWS_PER_MARK)
        near = np.empty((len(rows), _ROWS_PER_MARK))
        for pick, store in enumerate(self.stores):
            drawn = np.flatnonzero(picks == pick)
            near[drawn] = store.rewards.take(rows[drawn, None] + places, mode="clip")
        near.clip(-1, 1, out=near)
        near *= places < np.minimum(distance, stops - rows)[:, None]
        within = numbers * _ROWS_PER_MARK < stops
        marks = self.marks[self.begins[picks] + np.where(within, numbers, 0)]
        return near @ self.discounts[:-1] + within * self.discounts[distance] * marks


def _check_rows(store: ReplayStore, start: int, rewards: np.ndarray) -> None:
    most = store.actions[start : start + len(rewards)].max()
    if np.isnan(rewards).any() or most > 17:
        found = f"action {most}" if most > 17 else "a reward that is NaN"
        raise ReplayError(
            f"Expected rewards that are numbers and actions 0..17 in {store.path}, found {found} "
            f"in rows {start} to {start + len(rewards) - 1}: the store is damaged."
        )


def _ranks(stores: Sequence[ReplayStore]) -> list[np.ndarray]:
    """Return `(episodes,)` of each store: its game's share of steps in episodes of lower return."""
    of_games: dict[str, list[ReplayStore]] = {}
    for store in stores:
        of_games.setdefault(store.game, []).append(store)
    tables = {}
    for game, played in of_games.items():
        returns, places = np.unique(
            np.concatenate([store.episode_returns for store in played]), return_inverse=True
        )
        steps = np.bincount(places, np.concatenate([store.episode_lengths for store in played]))
        tables[game] = returns, (steps.cumsum() - steps) / max(1, steps.sum())
    return [
        tables[store.game][1][np.searchsorted(tables[store.game][0], store.episode_returns)]
        for store in stores
    ]


def _choose(
    store: ReplayStore,
    split: Literal["train", "heldout"],
    heldout_fraction: float,
    top_fraction: float,
) -> np.ndarray:
    """Return the indices of the episodes to draw from, in their order.

    Multiples of the golden ratio, modulo 1, fill [0, 1) evenly from any index on, so each stretch
    of a learner's progress gives its share (Knuth, TAOCP 3, section 6.4).
    """
    # Numbers in the folder, so that a split holds out the episodes that the whole store does.
    first = store.first_episode
    indices = np.arange(first, first + len(store.episode_starts), dtype=np.uint64)
    places = (indices * np.uint64(0x9E3779B97F4A7C15)) / 2.0**64
    chosen = np.flatnonzero((places < heldout_fraction) == (split == "heldout"))
    if top_fraction < 1:
        count = int(np.ceil(top_fraction * len(chosen)))
        best = np.argsort(-store.episode_returns[chosen], kind="stable")[:count]
        chosen = np.sort(chosen[best])
    return chosen

"""Play as a generator; scores, traces, videos and progress bars consume it."""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.place import Place
from mgdt_envs import AtariProtocol
from mgdt_envs.seeds import EVALUATION_SEED

FEWEST_ROWS = 8
"""Of a batch that an agent is given. With fewer, libraries of linear algebra take other ways, and
round otherwise: an episode would depend on how many others are played beside it."""


class RolloutStep(NamedTuple):
    """One agent step of the n episodes that are being played."""

    games: np.ndarray
    """`(n,)` names."""
    seeds: np.ndarray
    """`(n,)` int64; game and seed together name an episode."""
    observations: np.ndarray
    """`(n, stack, size, size)` uint8, before the action."""
    actions: np.ndarray
    """`(n,)` int64 full-set ids."""
    rewards: np.ndarray
    """`(n,)` float64, unclipped."""
    terminated: np.ndarray
    """`(n,)` bool."""
    truncated: np.ndarray
    """`(n,)` bool: the protocol's `max_frames` are played, or one of the two below."""
    idle: np.ndarray
    """`(n,)` bool: given up, for `idle_steps` brought no reward."""
    capped: np.ndarray
    """`(n,)` bool: given up after `max_steps`."""


def rollout(
    agent: Agent,
    games: Sequence[str],
    *,
    episodes: int,
    seed: int = EVALUATION_SEED,
    protocol: AtariProtocol | None = None,
    deterministic: bool = False,
    batch_size: int = 64,
    max_steps: int | None = None,
    idle_steps: int | None = None,
) -> Iterator[RolloutStep]:
    """Play a fixed number of episodes of each game, many in one batch.

    Every episode is played to its end, and has an emulator and a seed of its own, so short
    episodes are not favored.

    Args:
        agent: who plays.
        games: names of games.
        episodes: per game; the seeds are `seed`, `seed + 1`, ...
        seed: of the first episode.
        protocol: the rules; None takes those the agent was trained under.
        deterministic: handed to `predict`.
        batch_size: episodes played at once, at most.
        max_steps: agent steps after which an episode is given up; None plays on.
        idle_steps: agent steps without a reward after which an episode is given up, such as one
            of Breakout that is never served; None plays on.

    Yields:
        Each step of all episodes being played.
    """
    return play(
        agent,
        [(game, number) for game in games for number in range(seed, seed + episodes)],
        protocol=protocol,
        deterministic=deterministic,
        batch_size=batch_size,
        max_steps=max_steps,
        idle_steps=idle_steps,
    )


def play(
    agent: Agent,
    episodes: Sequence[tuple[str, int]],
    *,
    protocol: AtariProtocol | None = None,
    deterministic: bool = False,
    batch_size: int = 64,
    max_steps: int | None = None,
    idle_steps: int | None = None,
) -> Iterator[RolloutStep]:
    """Play given episodes, many in one batch: what ends makes place for the next in the queue.

    An episode is a function of the agent, the rules, the game and the seed. It does not depend on
    the others, on their order or on the size of the batch.

    Args:
        agent: who plays.
        episodes: game and seed of each.
        protocol: the rules; None takes those the agent was trained under.
        deterministic: handed to `predict`.
        batch_size: episodes played at once, at most.
        max_steps: agent steps after which an episode is given up; None plays on.
        idle_steps: agent steps without a reward after which an episode is given up.

    Yields:
        Each step of all episodes being played.
    """
    rules = protocol or agent.known_protocol()
    agent.set_random_seed(0)
    queue = _Queue(episodes)
    rows = min(batch_size, len(queue))
    # On a GPU all sizes of a batch differ in how they round, on a CPU small ones alone do.
    on_gpu = torch.device(getattr(agent, "device", "cpu")).type != "cpu"
    fewest = rows if on_gpu else FEWEST_ROWS
    observations = np.zeros(
        (max(rows, fewest), rules.stack, rules.screen_size, rules.screen_size), np.uint8
    )
    places = [Place(rules, observations[row]) for row in range(rows)]
    state: tuple[np.ndarray, ...] | None = None
    with ThreadPoolExecutor(max(1, rows)) as threads:
        try:
            _begin(places, queue, threads)
            while places:
                shown = observations[: len(places)].copy()
                actions, state = _decide(agent, places, observations, state, deterministic, fewest)
                for place, action in zip(places, actions.tolist(), strict=True):
                    place.send(action)
                for place in places:
                    place.receive()
                step = _step(places, shown, actions, max_steps, idle_steps)
                yield step
                ended = np.flatnonzero(step.terminated | step.truncated)
                refilled = ended[: len(queue)]
                _begin([places[row] for row in refilled], queue, threads)
                if len(ended) > len(refilled):
                    staying = np.setdiff1d(np.arange(len(places)), ended[len(refilled) :])
                    places = [places[row] for row in staying]
                    for row, place in enumerate(places):
                        place.move(observations[row])
                    if state is not None:
                        state = tuple(part[staying] for part in state)
        finally:
            places.clear()


class _Queue:
    """Episodes that wait, by game."""

    def __init__(self, episodes: Iterable[tuple[str, int]]) -> None:
        self._waiting: dict[str, deque[int]] = {}
        for game, seed in episodes:
            self._waiting.setdefault(game, deque()).append(seed)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def take(self, game: str) -> tuple[str, int]:
        """Return the next episode of `game`, or else of the game of which most are waiting.

        An emulator that keeps its game starts in half the time.
        """
        if not self._waiting.get(game):
            game = max(self._waiting, key=lambda name: len(self._waiting[name]))
        return game, self._waiting[game].popleft()


def _begin(places: Sequence[Place], queue: _Queue, threads: ThreadPoolExecutor) -> None:
    """Begin an episode in each place; a seeded start takes as long as hundreds of steps."""
    starts = [(place, *queue.take(place.game)) for place in places]
    list(threads.map(lambda start: start[0].begin(*start[1:]), starts))


def _decide(
    agent: Agent,
    places: Sequence[Place],
    observations: np.ndarray,
    state: tuple[np.ndarray, ...] | None,
    deterministic: bool,
    fewest: int,
) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
    """Return the actions and the new state of the rows that are being played."""
    rows = len(places)
    steps = np.array([place.steps for place in places])
    rewards = np.array([place.reward for place in places])
    streams = np.array([stream_of(place.game, place.seed) for place in places])
    padding = max(0, fewest - rows)
    if padding:
        # Rows that nobody sees, each at its own beginning.
        steps, rewards, streams = (np.pad(part, (0, padding)) for part in (steps, rewards, streams))
        if state is not None:
            state = tuple(np.concatenate([part, part[:1].repeat(padding, 0)]) for part in state)
    actions, state = agent.predict(
        observations[: rows + padding],
        state,
        steps == 0,
        deterministic,
        reward=rewards,
        stream=np.stack([streams, steps], 1),
        game=[place.game for place in places] + [places[0].game] * padding,
    )
    return actions[:rows], None if state is None else tuple(part[:rows] for part in state)


def stream_of(game: str, seed: int) -> int:
    """Return the number of the random stream from which an agent draws in an episode.

    It is of the game and the episode alone, so that no other episode changes what is drawn.
    """
    return (zlib.crc32(game.encode()) << 31) + seed


def _step(
    places: Sequence[Place],
    observations: np.ndarray,
    actions: np.ndarray,
    max_steps: int | None,
    idle_steps: int | None,
) -> RolloutStep:
    ended = np.array([place.terminated or place.truncated for place in places])
    capped, idle = (
        np.array([limit is not None and count(place) >= limit for place in places]) & ~ended
        for limit, count in (
            (max_steps, lambda place: place.steps),
            (idle_steps, lambda place: place.idle_steps),
        )
    )
    return RolloutStep(
        games=np.array([place.game for place in places], object),
        seeds=np.array([place.seed for place in places], np.int64),
        observations=observations,
        actions=actions,
        rewards=np.array([place.reward for place in places]),
        terminated=np.array([place.terminated for place in places]),
        truncated=np.array([place.truncated for place in places]) | capped | idle,
        idle=idle & ~capped,
        capped=capped,
    )

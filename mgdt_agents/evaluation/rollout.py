"""Play as a generator; scores, traces, videos and progress bars consume it."""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.place import Emulators, Place
from mgdt_envs import AtariProtocol
from mgdt_envs.seeds import EVALUATION_SEED, emulator_seed

FEWEST_ROWS = 8
"""Of a batch that an agent is given. With fewer, libraries of linear algebra take other ways, and
round otherwise: an episode would depend on how many others are played beside it."""


class RolloutStep(NamedTuple):
    """One agent step of n episodes."""

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
    """`(n,)` bool: the protocol's `max_frames` are played, or the episode is given up."""
    ends: np.ndarray
    """`(n,)` str: how the episode ended, as `results.Episode` says it; "" where it goes on."""


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
    emulators: Emulators | None = None,
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
        batch_size: episodes for which the agent decides at once, at most.
        max_steps: agent steps after which an episode is given up; None plays on.
        idle_steps: agent steps without a reward after which an episode is given up, such as one
            of Breakout that is never served; None plays on.
        emulators: where emulators are taken from, and left for others.

    Yields:
        Each step of a batch, when its next one has begun.
    """
    return play(
        agent,
        [(game, number) for game in games for number in range(seed, seed + episodes)],
        protocol=protocol,
        deterministic=deterministic,
        batch_size=batch_size,
        max_steps=max_steps,
        idle_steps=idle_steps,
        emulators=emulators,
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
    emulators: Emulators | None = None,
) -> Iterator[RolloutStep]:
    """Play given episodes, many in one batch: what ends makes place for the next in the queue.

    An episode is a function of the agent, the rules, the game and the seed. It does not depend on
    the others, on their order or on the size of the batch.

    Args:
        agent: who plays.
        episodes: game and seed of each.
        protocol: the rules; None takes those the agent was trained under.
        deterministic: handed to `predict`.
        batch_size: episodes for which the agent decides at once, at most; twice as many are
            played where there are so many.
        max_steps: agent steps after which an episode is given up; None plays on.
        idle_steps: agent steps without a reward after which an episode is given up.
        emulators: where emulators are taken from, and left for others.

    Yields:
        Each step of a batch, when its next one has begun.
    """
    rules = protocol or agent.known_protocol()
    agent.set_random_seed(0)
    queue = _Queue(episodes)
    rows = min(batch_size, len(queue))
    # On a GPU all sizes of a batch differ in how they round, on a CPU small ones alone do.
    on_gpu = torch.device(getattr(agent, "device", "cpu")).type != "cpu"
    fewest = rows if on_gpu else FEWEST_ROWS
    emulators = emulators or Emulators()
    # Where there are episodes for two full batches, the emulators of one play while the agent
    # decides for the other.
    batches = deque(
        _Batch(agent, [Place(rules, emulators) for _ in range(rows)], deterministic, fewest)
        for _ in range(2 if len(queue) >= 2 * batch_size else 1)
    )
    with ThreadPoolExecutor(max(1, rows)) as threads:
        for batch in batches:
            batch.fill(range(rows), queue, threads)
        batches = deque(batch for batch in batches if batch.send())
        while batches:
            batch = batches.popleft()
            steps = [batch.receive(max_steps, idle_steps)]
            batch.replace(steps[0], queue, threads)
            if batches and len(batch) + len(batches[0]) <= batch_size:
                other = batches.popleft()
                steps.append(other.receive(max_steps, idle_steps))
                other.replace(steps[1], queue, threads)
                batch.join(other)
            if batch.send():
                batches.append(batch)
            # While the emulators are busy with the next one.
            yield from steps


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


class _Batch:
    """Episodes for which an agent decides together.

    Args:
        agent: who plays.
        places: where they are played.
        deterministic: handed to `predict`.
        fewest: rows that the agent is given at least.
    """

    def __init__(self, agent: Agent, places: list[Place], deterministic: bool, fewest: int) -> None:
        """Make a batch of which nothing has begun."""
        self._agent, self._places = agent, places
        self._deterministic, self._fewest = deterministic, fewest
        self._state: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def fill(self, rows: Iterable[int], queue: _Queue, threads: ThreadPoolExecutor) -> None:
        """Begin an episode in each of some places; a seeded start takes as long as 200 steps."""
        starts = [(place, *queue.take(place.game)) for place in map(self._places.__getitem__, rows)]
        list(threads.map(lambda start: start[0].begin(*start[1:]), starts))
        self._name()

    def _name(self) -> None:
        """Note what the agent is told in all steps of these episodes, and the rows that it gets."""
        games = [place.game for place in self._places]
        seeds = [place.seed for place in self._places]
        self._games, self._seeds = np.array(games, object), np.array(seeds, np.int64)
        # Rows that nobody sees, each at its own beginning.
        self._padding = max(0, self._fewest - len(games)) if games else 0
        self._games_of_rows = games + games[:1] * self._padding
        streams = [stream_of(game, seed) for game, seed in zip(games, seeds, strict=True)]
        self._streams = np.array(streams + [0] * self._padding)

    def send(self) -> bool:
        """Let the agent decide and the emulators begin the step; return whether there are any."""
        places, padding = self._places, self._padding
        if not places:
            return False
        shown = [place.observation for place in places]
        observations = np.stack(shown + shown[:1] * padding)
        steps = np.array([place.steps for place in places] + [0] * padding)
        rewards = np.array([place.reward for place in places] + [0.0] * padding)
        state = self._state
        if state is not None and padding:
            state = tuple(np.concatenate([part, part[:1].repeat(padding, 0)]) for part in state)
        actions, state = self._agent.predict(
            observations,
            state,
            steps == 0,
            self._deterministic,
            reward=rewards,
            stream=np.stack([self._streams, steps], 1),
            game=self._games_of_rows,
        )
        self._shown, self._actions = observations[: len(places)], actions[: len(places)]
        self._state = None if state is None else tuple(part[: len(places)] for part in state)
        for place, action in zip(places, self._actions.tolist(), strict=True):
            place.send(action)
        return True

    def receive(self, max_steps: int | None, idle_steps: int | None) -> RolloutStep:
        """Wait for the emulators and return the step."""
        # The last first: when it is done so are most of the others, and each wait is a switch of
        # threads.
        for place in reversed(self._places):
            place.receive()
        ends = np.array([place.end(max_steps, idle_steps) for place in self._places], object)
        terminated = ends == "terminated"
        # A game may be over with the last frame of the protocol.
        truncated = np.array([place.truncated for place in self._places])
        return RolloutStep(
            games=self._games,
            seeds=self._seeds,
            observations=self._shown,
            actions=self._actions,
            rewards=np.array([place.reward for place in self._places]),
            terminated=terminated,
            truncated=truncated | (ends != "") & ~terminated,
            ends=ends,
        )

    def replace(self, step: RolloutStep, queue: _Queue, threads: ThreadPoolExecutor) -> None:
        """Begin the next episodes in the places of those that have ended, or close the places."""
        ended = np.flatnonzero(step.terminated | step.truncated)
        if not len(ended):
            return
        refilled, closed = np.split(ended, [len(queue)])
        self.fill(refilled.tolist(), queue, threads)
        for row in closed:
            self._places[row].leave()
        staying = np.setdiff1d(np.arange(len(self)), closed)
        self._places = [self._places[row] for row in staying]
        if self._state is not None:
            self._state = tuple(part[staying] for part in self._state)
        self._name()

    def join(self, other: "_Batch") -> None:
        """Take the places of another batch."""
        if not other._places:
            return
        if not self._places:
            self._state = other._state
        elif self._state is not None:
            assert other._state is not None
            self._state = tuple(map(np.concatenate, zip(self._state, other._state, strict=True)))
        self._places += other._places
        self._name()


def stream_of(game: str, seed: int) -> int:
    """Return the number of the random stream from which an agent draws in an episode.

    It is of the game and the episode alone, so that no other episode changes what is drawn.
    """
    return (zlib.crc32(game.encode()) << 31) + emulator_seed(seed)

"""Play as a generator; scores, videos and progress bars consume it."""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mgdt_agents.agent import Agent
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv


class RolloutStep(NamedTuple):
    """One agent step of the n episodes that are being played."""

    games: np.ndarray
    """`(n,)` names."""
    seeds: np.ndarray
    """`(n,)` int64; game and seed together name an episode."""
    observations: np.ndarray
    """`(n, 4, 84, 84)` uint8, before the action."""
    actions: np.ndarray
    """`(n,)` int64 full-set ids."""
    rewards: np.ndarray
    """`(n,)` float64, unclipped."""
    terminated: np.ndarray
    """`(n,)` bool."""
    truncated: np.ndarray
    """`(n,)` bool."""


class _Pool:
    """The environments of one game; each plays one episode, from its own seed."""

    def __init__(self, game: str, seeds: Sequence[int], protocol: AtariProtocol) -> None:
        self.game, self.seeds = game, np.array(seeds, np.int64)
        self.envs = MultiGameAtariVectorEnv(num_envs=len(seeds), games=game, protocol=protocol)
        self.observations, _ = self.envs.reset(seed=self.seeds)
        self.playing = np.ones(len(seeds), bool)
        self.rewards = np.zeros(len(seeds))
        self.steps = 0
        # Of the game and the episode alone, so that no other episode changes what the agent draws.
        self.streams = (zlib.crc32(game.encode()) << 31) + self.seeds


def rollout(
    agent: Agent,
    games: Sequence[str],
    *,
    episodes: int,
    seed: int = 0,
    protocol: AtariProtocol | None = None,
    deterministic: bool = False,
    batch_size: int = 256,
) -> Iterator[RolloutStep]:
    """Play a fixed number of episodes of each game, many in one batch.

    Every episode is played to its end and has an environment and a seed of its own, so short
    episodes are not favored.

    Args:
        agent: who plays.
        games: names of games.
        episodes: per game; the seeds are `seed`, `seed + 1`, ...
        seed: of the first episode and of the agent's draws, which for each episode depend on this,
            the game and the episode's own seed alone.
        protocol: the rules; None takes those the agent was trained under.
        deterministic: handed to `predict`.
        batch_size: episodes played at once, at most.

    Yields:
        Each step of all episodes being played.
    """
    protocol = protocol or agent.known_protocol()
    agent.set_random_seed(seed)
    waiting = deque(
        (game, range(first, min(first + batch_size, seed + episodes)))
        for game in games
        for first in range(seed, seed + episodes, batch_size)
    )
    pools: list[_Pool] = []
    state: tuple[np.ndarray, ...] | None = None
    while waiting or pools:
        playing = sum(pool.playing.sum() for pool in pools)
        while waiting and playing + len(waiting[0][1]) <= batch_size:
            pools.append(_Pool(*waiting.popleft(), protocol))
            new = len(pools[-1].seeds)
            playing += new
            if state is not None:
                # Their content does not matter: `episode_start` is true there.
                state = tuple(np.concatenate([part, np.repeat(part[:1], new, 0)]) for part in state)

        observations = np.concatenate([pool.observations[pool.playing] for pool in pools])
        streams = np.concatenate([pool.streams[pool.playing] for pool in pools])
        steps = np.repeat([pool.steps for pool in pools], [pool.playing.sum() for pool in pools])
        actions, state = agent.predict(
            observations,
            state,
            steps == 0,
            deterministic,
            reward=np.concatenate([pool.rewards[pool.playing] for pool in pools]),
            stream=np.stack([streams, steps], 1),
            game=[pool.game for pool in pools for _ in range(pool.playing.sum())],
        )
        step = _step(pools, observations, actions)
        yield step

        going_on = ~(step.terminated | step.truncated)
        if state is not None:
            state = tuple(part[going_on] for part in state) if going_on.any() else None
        for pool in pools:
            if not pool.playing.any():
                pool.envs.close()
        pools = [pool for pool in pools if pool.playing.any()]


def _step(pools: list[_Pool], observations: np.ndarray, actions: np.ndarray) -> RolloutStep:
    """Step the environments and note which episodes have ended; ended ones press NOOP."""
    parts: list[tuple[np.ndarray, ...]] = []
    first = 0
    for pool in pools:
        playing = pool.playing
        last = first + playing.sum()
        pool_actions = np.zeros(len(playing), np.int64)
        pool_actions[playing] = actions[first:last]
        first = last
        pool.observations, pool.rewards, terminated, truncated, _ = pool.envs.step(pool_actions)
        parts.append(
            (
                np.full(playing.sum(), pool.game, object),
                pool.seeds[playing],
                pool.rewards[playing],
                terminated[playing],
                truncated[playing],
            )
        )
        pool.steps += 1
        pool.playing = playing & ~terminated & ~truncated
    games, seeds, rewards, terminated, truncated = map(np.concatenate, zip(*parts, strict=True))
    return RolloutStep(games, seeds, observations, actions, rewards, terminated, truncated)

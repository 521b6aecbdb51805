"""Fill the replay buffer of a stable-baselines3 learner from a store."""

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.buffers import ReplayBuffer

from mgdt_agents.replay.store import ReplayStore
from mgdt_envs import game
from mgdt_envs.emulator import NUM_ACTIONS, emulator_actions
from mgdt_envs.errors import InvalidArgument

ROWS_PER_BLOCK = 256


def fill_replay_buffer(
    buffer: ReplayBuffer, store: ReplayStore, *, clip_rewards: bool = True
) -> int:
    """Add the newest transitions of a store to a buffer, as if a learner had played them.

    They are added from the oldest to the newest; what the buffer holds already gives way as it
    does when a learner plays. With several environments, each gets as many transitions that follow
    one another in the store, up to the end of an episode. The first may be from the middle of one.

    A store does not have the observation after an episode's last action: there the last frame is
    repeated. It matters where a time limit ended the episode, if the buffer handles time-outs.
    Nor does it have lives, so a lost life does not end an episode.

    Args:
        buffer: of `DQN` or another learner, or of one's own. Observations are stacks, `(stack,
            height, width)` uint8; actions the 18 of the suite or the game's minimal set.
        store: recorded play.
        clip_rewards: replace rewards by their sign.

    Returns:
        The number of transitions that were added.

    Raises:
        ValueError: if the buffer's spaces do not fit the store, or the store has fewer episodes
            than the buffer has environments.

    Example:
        >>> from stable_baselines3 import DQN
        >>> from mgdt_agents.replay import ReplayStore
        >>> from mgdt_agents.replay.formats.sb3_buffer import fill_replay_buffer
        >>> from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv
        >>> env = LearnerRewards(MultiGameAtariVecEnv(2, games="Pong"))
        >>> model = DQN("CnnPolicy", env, buffer_size=100_000)  # doctest: +SKIP
        >>> store = ReplayStore("replay/Pong")  # doctest: +SKIP
        >>> fill_replay_buffer(model.replay_buffer, store)  # doctest: +SKIP
        100000
        >>> env.close()
    """
    depth = _stack_depth(buffer, store)
    index = _action_index(buffer, store)
    stops, rows = _stretches(store, buffer.n_envs, buffer.buffer_size)
    streams = [_stacks(store, stop - rows, stop, depth) for stop in stops]
    for step, pairs in enumerate(zip(*streams, strict=True)):
        before, after = zip(*pairs, strict=True)
        here = stops - rows + step
        rewards, truncated = store.rewards[here], store.truncated[here]
        buffer.add(
            np.stack(before),
            np.stack(after),
            index[store.actions[here]],
            np.sign(rewards) if clip_rewards else rewards,
            store.terminated[here] | truncated,
            [{"TimeLimit.truncated": at_limit} for at_limit in truncated.tolist()],
        )
    return rows * len(stops)


def _stack_depth(buffer: ReplayBuffer, store: ReplayStore) -> int:
    space, frame_shape = buffer.observation_space, store.frames.shape[1:]
    if isinstance(space, Box) and space.dtype == np.uint8 and space.shape[1:] == frame_shape:
        return space.shape[0]
    raise InvalidArgument(
        f"Expected a buffer of uint8 observations of shape (stack, "
        f"{', '.join(map(str, frame_shape))}), which are the frames of {store.path}, got {space}."
    )


def _action_index(buffer: ReplayBuffer, store: ReplayStore) -> np.ndarray:
    """Return the buffer's action for each of the console's 18, (18,) int64."""
    space, played = buffer.action_space, game(store.game)
    if space == Discrete(NUM_ACTIONS):
        return np.arange(NUM_ACTIONS)
    minimal = np.array(played.minimal_actions)
    if space != Discrete(len(minimal)):
        raise InvalidArgument(
            f"Expected a buffer of actions Discrete({NUM_ACTIONS}), or Discrete({len(minimal)}) "
            f"for the minimal set of {played.name}, got {space}."
        )
    index = np.full(NUM_ACTIONS, -1)
    index[minimal] = np.arange(len(minimal))
    index = index[emulator_actions(played, store.protocol)]
    if (index[np.unique(store.actions)] < 0).any():
        raise InvalidArgument(
            f"{store.path} has actions outside of the minimal set of {played.name}, and they are "
            f"not NOOP under its protocol; give the buffer actions Discrete({NUM_ACTIONS})."
        )
    return index


def _stretches(store: ReplayStore, num_stretches: int, max_rows: int) -> tuple[np.ndarray, int]:
    """Choose stretches of a store, equally long and as long as can be, that end with episodes.

    Returns:
        The row after each, `(num_stretches,)` ascending, and their length.
    """
    bounds = np.append(0, store.episode_starts + store.episode_lengths)

    def stops(rows: int) -> list[int]:
        """Return as many as there are room for, the last first."""
        found = [len(store)]
        while len(found) < num_stretches and found[-1] > rows:
            found.append(int(bounds[np.searchsorted(bounds, found[-1] - rows, side="right") - 1]))
        return found

    def is_too_long(rows: int) -> bool:
        found = stops(rows)
        return len(found) < num_stretches or found[-1] < rows

    most = min(max_rows, len(store) // num_stretches)
    rows = bisect_left(range(1, most + 1), True, key=is_too_long)
    if not rows:
        raise InvalidArgument(
            f"Expected at least one episode for each of the buffer's {num_stretches} environments, "
            f"found {len(bounds) - 1} in {store.path}."
        )
    return np.array(stops(rows)[::-1]), rows


def _stacks(
    store: ReplayStore, start: int, stop: int, depth: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what an environment shows before and after the action of each row.

    Args:
        store: recorded play.
        start: the first row.
        stop: the row after the last, which ends an episode.
        depth: frames of a stack.
    """
    episode = np.searchsorted(store.episode_starts, start, side="right") - 1
    first = max(int(store.episode_starts[episode]), start - depth + 1)
    done = store.terminated[first:stop] | store.truncated[first:stop]
    empty = np.zeros((depth, *store.frames.shape[1:]), np.uint8)
    begins, stack = first == store.episode_starts[episode], empty
    for row, frame in enumerate(_frames(store, first, stop), first):
        before, stack = stack, np.concatenate([empty[1:] if begins else stack[1:], frame])
        if row > start and not begins:
            yield before, stack
        begins = done[row - first]
        if begins:
            yield stack, np.concatenate([stack[1:], frame])


def _frames(store: ReplayStore, start: int, stop: int) -> Iterator[np.ndarray]:
    """Yield the frames of rows, `(1, height, width)` each."""
    for first in range(start, stop, ROWS_PER_BLOCK):
        frames = np.empty((min(stop - first, ROWS_PER_BLOCK), *store.frames.shape[1:]), np.uint8)
        store.read_frames(first, first + len(frames), frames)
        yield from frames[:, None]

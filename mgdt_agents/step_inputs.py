"""What agents are called with, and the checks of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mgdt_agents.random_streams import RowStreams
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import game, resolve_games

if TYPE_CHECKING:
    from mgdt_agents.agent import Agent

State = tuple[np.ndarray, ...]


class StepInputs(NamedTuple):
    """What `predict` was called with for n rows, checked and complete."""

    observations: np.ndarray
    """`(n, stack, height, width)` uint8, contiguous and writable."""
    state: State | None
    """None if every row begins an episode."""
    starts: np.ndarray
    """`(n,)` bool, rows that begin an episode."""
    rewards: np.ndarray
    """`(n,)`, what each row's last action brought; 0 if unknown."""
    games: tuple[str, ...] | None
    """The game that each row plays; None if unknown."""
    deterministic: bool
    draws: RowStreams
    """The rows' random streams at this step: whatever is random is drawn from them."""


def games_of_agent(games: str | Sequence[str]) -> tuple[str, ...]:
    """Return the games of an agent in their canonical spelling, each once.

    Args:
        games: a suite, a game, or several of either. Of several, names that are not known stay as
            they are: a saved agent may be of games that were registered where it was trained.

    Raises:
        ValueError: for a single name that is not known, or what is no name.
    """
    if isinstance(games, str):
        return resolve_games(games)
    names: list[str] = []
    for entry in games:
        if not isinstance(entry, str):
            raise InvalidArgument(f"Expected the names of games, got {entry!r}.")
        try:
            names += resolve_games(entry)
        except InvalidArgument:
            names.append(entry)
    return tuple(dict.fromkeys(names))


def checked_inputs(
    agent: "Agent",
    observation: np.ndarray | dict[str, np.ndarray],
    state: State | None,
    episode_start: np.ndarray | None,
    reward: np.ndarray | float | None,
) -> tuple[np.ndarray, State | None, np.ndarray, np.ndarray]:
    """Return the checked arguments of `predict`: batch, state, starts and rewards."""
    batch = as_batch(observation, agent.observation_space.shape)
    starts = np.full(len(batch), state is None)
    if episode_start is not None:
        starts = starts | as_row(episode_start, len(batch), "episode_start").astype(bool)
    if starts.all():
        state = None
    if state is not None:
        check_state(state, len(batch), agent.memory, agent.kind)
    rewards = np.zeros(len(batch))
    if reward is not None:
        rewards = as_row(reward, len(batch), "reward")
        if rewards.dtype.kind not in "biuf" or not np.isfinite(rewards).all():
            raise InvalidArgument(f"Expected finite numbers as reward, got {reward!r}.")
    return batch, state, starts, rewards


def check_state(state: State, rows: int, memory: tuple[int, ...] | None, kind: str) -> None:
    """Raise `InvalidArgument` unless the state is of `rows` rows, and of `memory`'s columns."""
    shapes = [np.shape(part) for part in state]
    if memory is not None and [shape[1:] for shape in shapes] != [(columns,) for columns in memory]:
        expected = [f"(n, {columns})" for columns in memory]
        raise InvalidArgument(
            f"The state is not of this {kind} agent: expected arrays of shapes "
            f"[{', '.join(expected)}], got {shapes}. Pass what its predict() last returned."
        )
    if any(shape[:1] != (rows,) for shape in shapes):
        raise InvalidArgument(
            f"The state is of {len(state[0])} rows and the observation of {rows}. When the "
            "number of environments changes, pass state=None, or an episode_start that is "
            "true for every row."
        )


def as_batch(observation: np.ndarray | dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return one observation of `shape`, or n of them, as `(n, *shape)`."""
    if isinstance(observation, tuple) and len(observation) == 2:
        raise InvalidArgument(
            "The observation is a tuple of two: `env.reset()` returns (observation, info) and "
            "predict() takes the observation alone: `obs, info = env.reset()`."
        )
    if not isinstance(observation, np.ndarray):
        raise TypeError(
            f"Expected the observation to be a numpy array of uint8 and shape {shape} or "
            f"(n, *{shape}), got {type(observation).__name__}."
        )
    if observation.dtype != np.uint8:
        raise InvalidArgument(
            f"Expected an observation of dtype uint8 with values 0 to 255, got "
            f"{observation.dtype}. Frames are not scaled before predict()."
        )
    if observation.shape != shape and observation.shape[1:] != shape:
        frames_last = (*shape[1:], shape[0])
        raise InvalidArgument(
            f"Unexpected observation shape {observation.shape}: expected {shape} "
            f"(frames first, oldest first) or (n, {', '.join(map(str, shape))})."
            + " np.moveaxis(observation, -1, -3) puts frames that are last first."
            * (observation.shape[-3:] == frames_last)
        )
    if not len(observation):
        raise InvalidArgument("Expected at least one observation, got an empty batch.")
    # PyTorch takes neither negative strides nor, without a warning, read-only memory.
    observation = np.require(observation, requirements=["C", "W"])
    return observation if observation.ndim == 4 else observation[None]


def as_given(rows: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """Return an array of a row for each observation of the batch, or for the only one."""
    return rows if observation.ndim == 4 else rows[0, ...]


def as_row(values: np.ndarray | float, size: int, name: str) -> np.ndarray:
    """Return values of `size` rows; a single one is a row's."""
    row = np.atleast_1d(np.asarray(values))
    if row.shape != (size,):
        raise InvalidArgument(f"Expected {name} of shape ({size},), got {row.shape}.")
    return row


def as_games(names: str | Sequence[str], size: int) -> tuple[str, ...]:
    """Return the names of the games of `size` rows."""
    rows = [names] * size if isinstance(names, str) else list(names)
    if len(rows) != size:
        raise InvalidArgument(f"Expected one game or {size}, got {len(rows)}.")
    return tuple(game(name).name for name in rows)


def as_streams(streams: np.ndarray | None, size: int, calls: int) -> np.ndarray:
    """Return the random streams of `size` rows, `(size, 2)` integers: each one's number and step.

    None is the number of the row and that of the call, `calls`.
    """
    if streams is None:
        return np.stack([np.arange(size), np.full(size, calls)], 1)
    rows = np.asarray(streams)
    if rows.shape != (size, 2) or rows.dtype.kind not in "iu":
        raise InvalidArgument(
            f"Expected integers as stream of shape ({size}, 2), got {rows.shape} of {rows.dtype}."
        )
    return rows

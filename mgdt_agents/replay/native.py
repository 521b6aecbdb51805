"""Frames that other papers use, of the same play: the console's own picture, or its memory.

- `rgb` `(210, 160, 3)` uint8 and `gray-native` `(210, 160)` uint8: what the protocol's screens are
  made of, the maximum over the last two frames where the protocol says so, but not resized, in
  color or in ale-py's gray. `gray-native` resized by area (OpenCV's INTER_AREA) is the screen, bit
  for bit. Some games are up to 250 pixels high.
- `ram` `(128,)` uint8: the console's memory after the last frame of a step.

A second set of emulators with the same seeds plays the same actions beside the first, so this takes
twice the time; rewards of both must be equal at each step.
"""

from collections.abc import Iterator

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from mgdt_agents.errors import TraceDivergedError
from mgdt_agents.replay.trace import Trace, TraceStep
from mgdt_envs import game
from mgdt_envs.emulator import Emulator, emulator_arguments, minimal_action_index
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean
from mgdt_envs.screens import screen_size

OBS_TYPES = ("rgb", "gray-native", "ram")
RAM_BYTES = 128

Play = Iterator[tuple[np.ndarray, np.ndarray]]
"""Of each step the frames before it, `(N, *shape)` uint8, and the rewards, `(N,)`."""


def native_shape(name: str, obs_type: str) -> tuple[int, ...]:
    """Return the shape of a frame of the game called `name`.

    Raises:
        ValueError: for an unknown type.
    """
    if obs_type not in OBS_TYPES:
        raise InvalidArgument(f"Unknown type {obs_type!r}. {did_you_mean(obs_type, OBS_TYPES)}")
    if obs_type == "ram":
        return (RAM_BYTES,)
    return (*screen_size(name), 3) if obs_type == "rgb" else screen_size(name)


def with_native_frames(
    play: Iterator[TraceStep], trace: Trace, obs_type: str, num_threads: int, environments: int
) -> Iterator[TraceStep]:
    """Yield the steps of a play with other frames.

    Args:
        play: of `Trace.play`.
        trace: what is played.
        obs_type: one of `OBS_TYPES`.
        num_threads: emulator threads; memory is read from emulators in one thread.
        environments: how many of the trace's are played.

    Raises:
        TraceDivergedError: if the rewards of the two plays differ.
    """
    seeds, actions = trace.seeds[:environments], trace.actions[:, :environments]
    if obs_type == "ram":
        beside = _play_memory(trace, seeds, actions)
    else:
        beside = _play_pictures(trace, seeds, actions, obs_type, num_threads)
    for number, (step, (frames, rewards)) in enumerate(zip(play, beside, strict=True)):
        if not np.array_equal(rewards, step.rewards):
            raise TraceDivergedError(
                f"The emulators of {trace.game} whose {obs_type} is kept diverged at step {number} "
                "from those that are compared with the trace."
            )
        yield step._replace(frames=frames)


def _play_pictures(
    trace: Trace, seeds: np.ndarray, actions: np.ndarray, obs_type: str, num_threads: int
) -> Play:
    played = game(trace.game)
    height, width = screen_size(played.name)
    arguments = emulator_arguments(trace.protocol) | {
        "stack_num": 1,
        "grayscale": obs_type == "gray-native",
        "img_height": height,
        "img_width": width,
    }
    envs = AtariVectorEnv(played.rom, len(seeds), num_threads=num_threads, **arguments)
    index = minimal_action_index(played, trace.protocol)
    frames, _ = envs.reset(seed=seeds)
    for row in actions:
        before = frames[:, -1]
        frames, rewards, *_ = envs.step(index[row])
        yield before, rewards


def _play_memory(trace: Trace, seeds: np.ndarray, actions: np.ndarray) -> Play:
    emulators = [Emulator(game(trace.game), trace.protocol, int(seed)) for seed in seeds]
    for emulator in emulators:
        emulator.reset()
    begins = [False] * len(emulators)
    for row in actions.tolist():
        memory, rewards = np.stack([it.ale.getRAM() for it in emulators]), np.zeros(len(row))
        for env, emulator in enumerate(emulators):
            if begins[env]:  # the action is ignored
                emulator.reset()
            else:
                rewards[env] = emulator.step(row[env])
            begins[env] = emulator.terminated or emulator.truncated
        yield memory, rewards

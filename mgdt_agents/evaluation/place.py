"""One of the places in a batch: an emulator that plays one episode after the other."""

from collections import defaultdict

import numpy as np
from ale_py import AtariVectorEnv

from mgdt_envs import AtariProtocol
from mgdt_envs.emulator import emulator_arguments, jpeg_round_trip, minimal_action_index
from mgdt_envs.games import game as game_of
from mgdt_envs.seeds import emulator_seed

FULL_STRENGTH = np.ones(1, np.float32)
"""Of the action; the games' paddles could be moved by less."""


class Emulators:
    """Emulators that nobody plays on, kept for whoever is next.

    To make one takes as long as to start an episode from its seed, which is as long as about 200
    steps: in either, ale-py loads the ROM, and five sixths of that are a table of colors that the
    gray observations do not use. So a benchmark makes them once for all agents.
    """

    def __init__(self) -> None:
        """Begin without any; each takes 1.7 MB and a thread that sleeps."""
        self._idle: defaultdict[tuple[str, AtariProtocol], list[AtariVectorEnv]] = defaultdict(list)

    def take(self, game: str, protocol: AtariProtocol) -> AtariVectorEnv:
        """Return an emulator of a game under the rules; what it played before is to be reset."""
        try:
            return self._idle[game, protocol].pop()
        except IndexError:
            arguments = emulator_arguments(protocol)
            return AtariVectorEnv(game_of(game).rom, 1, num_threads=1, **arguments)

    def give_back(self, emulator: AtariVectorEnv, game: str, protocol: AtariProtocol) -> None:
        """Keep an emulator that `take` returned, and that is not in the middle of a step."""
        self._idle[game, protocol].append(emulator)


class Place:
    """An emulator in a thread of its own, whose episodes may be of different games.

    The pools of `MultiGameAtariVectorEnv` step together: one that waits for its last episode would
    go on emulating all that have ended. A place emulates what is played, and nothing else; it
    plays what that environment plays with its seed and actions.

    Attributes:
        game: name of the game that is being played.
        seed: of the episode.
        observation: `(stack, screen_size, screen_size)` uint8, what is seen; each step has an
            array of its own.
        steps: agent steps since the episode began.
        idle_steps: agent steps since the last reward, or since the episode began.
        reward: what the last step brought; 0 before the first.
        terminated: whether the game is over.
        truncated: whether the protocol's `max_frames` are played.
    """

    def __init__(self, protocol: AtariProtocol, emulators: Emulators) -> None:
        """Make a place in which nothing is played yet.

        Args:
            protocol: the rules.
            emulators: where the place has its emulators from.
        """
        self.game = ""
        self._protocol, self._emulators = protocol, emulators

    def begin(self, game: str, seed: int) -> None:
        """Begin an episode from its own seed, whatever was played before."""
        if game != self.game:
            self.leave()
            self._index = minimal_action_index(game_of(game), self._protocol)
            self._emulator = self._emulators.take(game, self._protocol)
            self.game = game
        self.seed = seed
        self.steps = self.idle_steps = 0
        self.reward = 0.0
        self.terminated = self.truncated = False
        observations, _ = self._emulator.reset(seed=np.array([emulator_seed(seed)]))
        self.observation = np.zeros_like(observations[0])
        self._see(observations[0])

    def leave(self) -> None:
        """Give the emulator back, which has received what was sent."""
        if self.game:
            self._emulators.give_back(self._emulator, self.game, self._protocol)
            self.game = ""

    def send(self, action: int) -> None:
        """Let the emulator begin a step with an action, a full-set id."""
        # What `AtariVectorEnv.send` does, without a new array of strengths.
        self._emulator.ale.send(self._index[action : action + 1], FULL_STRENGTH)

    def receive(self) -> None:
        """Wait for the step."""
        observations, rewards, terminated, truncated, _ = self._emulator.recv()
        self.reward = float(rewards[0])
        self.terminated, self.truncated = bool(terminated[0]), bool(truncated[0])
        self.steps += 1
        self.idle_steps = 0 if self.reward else self.idle_steps + 1
        self._see(observations[0])

    def end(self, max_steps: int | None = None, idle_steps: int | None = None) -> str:
        """Return how the episode has ended, as `results.Episode` says it; "" while it goes on.

        Args:
            max_steps: agent steps after which it is given up.
            idle_steps: agent steps without a reward after which it is given up.
        """
        if self.terminated:
            return "terminated"
        if self.truncated:
            return "truncated"
        if max_steps is not None and self.steps >= max_steps:
            return "step limit"
        return "idle" if idle_steps is not None and self.idle_steps >= idle_steps else ""

    def _see(self, observation: np.ndarray) -> None:
        if self._protocol.jpeg:
            frame = jpeg_round_trip(observation[-1])
            observation = np.concatenate([self.observation[1:], frame[None]])
        self.observation = observation

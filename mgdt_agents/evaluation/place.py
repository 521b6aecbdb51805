"""One of the places in a batch: an emulator that plays one episode after the other."""

import numpy as np
from ale_py import AtariVectorEnv

from mgdt_envs import AtariProtocol
from mgdt_envs.emulator import emulator_arguments, jpeg_round_trip, minimal_action_index
from mgdt_envs.games import game as game_of


class Place:
    """An emulator in a thread of its own, whose episodes may be of different games.

    The pools of `MultiGameAtariVectorEnv` step together: one that waits for its last episode would
    go on emulating all that have ended. A place emulates what is played, and nothing else; it
    plays what that environment plays with its seed and actions.

    Attributes:
        game: name of the game that is being played.
        seed: of the episode.
        steps: agent steps since the episode began.
        idle_steps: agent steps since the last reward, or since the episode began.
        reward: what the last step brought; 0 before the first.
        terminated: whether the game is over.
        truncated: whether the protocol's `max_frames` are played.
    """

    game: str
    seed: int
    steps: int
    idle_steps: int
    reward: float
    terminated: bool
    truncated: bool

    def __init__(self, protocol: AtariProtocol, observation: np.ndarray) -> None:
        """Make a place in which nothing is played yet.

        Args:
            protocol: the rules.
            observation: `(stack, screen_size, screen_size)` uint8, where what is seen is written.
        """
        self.game = ""
        self._protocol, self._observation = protocol, observation

    def begin(self, game: str, seed: int) -> None:
        """Begin an episode from its own seed, whatever was played before."""
        if game != self.game:
            entry = game_of(game)
            self._index = minimal_action_index(entry, self._protocol)
            self._envs = AtariVectorEnv(
                entry.rom, 1, num_threads=1, **emulator_arguments(self._protocol)
            )
            self.game = game
        self.seed = seed
        self.steps = self.idle_steps = 0
        self.reward = 0.0
        self.terminated = self.truncated = False
        observations, _ = self._envs.reset(seed=np.array([seed]))
        self._observation[:] = 0
        self._see(observations[0])

    def send(self, action: int) -> None:
        """Let the emulator begin a step with an action, a full-set id."""
        self._envs.send(self._index[action : action + 1])

    def receive(self) -> None:
        """Wait for the step."""
        observations, rewards, terminated, truncated, _ = self._envs.recv()
        self.reward = float(rewards[0])
        self.terminated, self.truncated = bool(terminated[0]), bool(truncated[0])
        self.steps += 1
        self.idle_steps = 0 if self.reward else self.idle_steps + 1
        self._see(observations[0])

    def move(self, observation: np.ndarray) -> None:
        """Write what is seen to another array from here on, beginning with what is seen now."""
        observation[:] = self._observation
        self._observation = observation

    def _see(self, observation: np.ndarray) -> None:
        if self._protocol.jpeg:
            self._observation[:-1] = self._observation[1:].copy()
            self._observation[-1] = jpeg_round_trip(observation[-1])
        else:
            self._observation[:] = observation

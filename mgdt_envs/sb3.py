"""The suite for stable-baselines3: many games as one `VecEnv`, and the learner's view of them.

This imports stable-baselines3 and torch, so `import mgdt_envs` does not import it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol
from mgdt_envs.screens import of_one_height
from mgdt_envs.vector_env import COUNTERS, MultiGameAtariVectorEnv


class MultiGameAtariVecEnv(VecEnv):
    """`MultiGameAtariVectorEnv` as a stable-baselines3 `VecEnv`.

    Rewards are the games' own; `LearnerRewards` clips them. An environment's info has "game",
    "lives", "frame_number", "episode_frame_number" and "TimeLimit.truncated"; at an episode's
    end also "terminal_observation" and "episode" with "r", "l", "t" and "hns" or "hns_missing",
    so that stable-baselines3 logs scores without `VecMonitor`.

    Attributes:
        envs: the vector environment.
        last_actions: what the emulators were last given, whatever the actions of wrappers are:
            (num_envs,) full-set ids; there is none before the first step.

    Example:
        >>> from stable_baselines3 import PPO
        >>> from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv
        >>> env = LearnerRewards(MultiGameAtariVecEnv(4, games=["Pong", "Breakout"]))
        >>> model = PPO("CnnPolicy", env, n_steps=4, batch_size=8, n_epochs=1, device="cpu")
        >>> model.learn(16).num_timesteps
        16
        >>> env.close()
    """

    def __init__(
        self,
        num_envs: int | None = None,
        games: str | Iterable[str] = "atari57",
        protocol: AnyProtocol = None,
        **options: Any,
    ) -> None:
        """Start the emulators.

        Args:
            num_envs: number of environments; by default one a game.
            games: a suite, a game, or several of either; see `mgdt_envs.resolve_games`.
            protocol: preprocessing and episode rules; see `MultiGameAtariVectorEnv`.
            options: other arguments of `MultiGameAtariVectorEnv`, except `autoreset_mode`.

        Raises:
            ValueError: as `MultiGameAtariVectorEnv`.
        """
        self.envs = MultiGameAtariVectorEnv(
            num_envs, games, protocol, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )
        super().__init__(
            self.envs.num_envs, self.envs.single_observation_space, self.envs.single_action_space
        )

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments at the next reset, the first with `seed`, the next `seed + 1`."""
        if seed is None:
            seed = int(np.random.default_rng().integers(MAX_SEED - self.num_envs))
        return super().seed(seed)

    def reset(self) -> NDArray[np.uint8]:
        """Start an episode in every environment.

        Returns:
            Observations, (num_envs, stack, screen_size, screen_size) uint8.
        """
        if any(options := self._options):
            self._reset_options()  # or every later reset would fail, too
            raise InvalidArgument(f"reset() understands no options, got {options}")
        observations, infos = self.envs.reset(seed=self._seeds)
        self._reset_seeds()
        self.reset_infos = self._listed(infos)
        return observations

    def step_async(self, actions: NDArray[np.integer]) -> None:
        """Keep `actions`, (num_envs,), for `step_wait`."""
        self.last_actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play the actions of `step_async`.

        Returns:
            Observations, (num_envs, stack, screen_size, screen_size) uint8; rewards, (num_envs,)
            float32; whether episodes ended, (num_envs,) bool; and one info an environment.
        """
        observations, rewards, terminated, truncated, infos = self.envs.step(self.last_actions)
        ended = terminated | truncated
        listed = self._listed(infos)
        if ended.any():
            final = self._listed(infos["final_info"])
            for row in np.flatnonzero(ended):
                self.reset_infos[row], listed[row] = listed[row], final[row]
                listed[row]["terminal_observation"] = infos["final_obs"][row]
                listed[row]["episode"] = {
                    name: values.tolist()[row]
                    for name, values in infos["episode"].items()
                    if not name.startswith("_") and infos["episode"][f"_{name}"][row]
                }
        for info, at_limit in zip(listed, truncated.tolist(), strict=True):
            info["TimeLimit.truncated"] = at_limit
        return observations, rewards.astype(np.float32), ended, listed

    def get_images(self) -> list[Any]:
        """Return the environments' screens, (height, width, 3) uint8 each, all of one height.

        Some games have higher screens than others; below the lower ones it is black.
        """
        screens = self.envs.render()
        return [None] * self.num_envs if screens is None else of_one_height(screens)

    def close(self) -> None:
        """Stop the emulators."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the vector environment, once for each of `indices`."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: there are no objects behind the single environments."""
        raise NotImplementedError(f"{type(self).__name__} cannot set {attr_name!r} of emulators")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Refuse: there are no objects behind the single environments."""
        raise NotImplementedError(f"{type(self).__name__} cannot call {method_name!r} of emulators")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return that none is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _listed(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the game and the counters of `infos`, one dictionary an environment."""
        columns = [infos[name].tolist() for name in ("game", *COUNTERS)]
        return [
            dict(zip(("game", *COUNTERS), row, strict=True)) for row in zip(*columns, strict=True)
        ]


class LearnerRewards(VecEnvWrapper):
    """What DQN and its successors learn from: clipped rewards, and lost lives as ends.

    Scores stay true: `info["episode"]` and `VecMonitor`, if it is inside of this wrapper, are of
    whole games and raw rewards. A lost life is an end for the learner alone: the game goes on,
    and the observation is also the "terminal_observation".

    Example:
        >>> from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv
        >>> env = LearnerRewards(MultiGameAtariVecEnv(2, games="Breakout"), life_loss_ends=False)
        >>> env.reset().shape
        (2, 4, 84, 84)
        >>> env.close()
    """

    def __init__(self, venv: VecEnv, *, clip: bool = True, life_loss_ends: bool = True) -> None:
        """Wrap `venv`.

        Args:
            venv: `MultiGameAtariVecEnv`, wrapped or not, or another; infos have "lives" where
                lives matter.
            clip: replace rewards by their sign.
            life_loss_ends: report an episode's end when a life is lost and others are left.
        """
        super().__init__(venv)
        self.clip = clip
        self.life_loss_ends = life_loss_ends
        self._lives = np.zeros(self.num_envs, np.int64)

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment and return the observations.

        Returns:
            `(num_envs, stack, size, size)` uint8.
        """
        observations = self.venv.reset()
        if self.life_loss_ends:
            self._lives[:] = [info["lives"] for info in self.unwrapped.reset_infos]
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the environments return, as the learner is to see it.

        Returns:
            Observations as from `reset`, `(num_envs,)` float32 rewards and bool ends, and a
            dictionary for each environment.
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        if self.clip:
            rewards = np.sign(rewards)
        if self.life_loss_ends:
            assert isinstance(observations, np.ndarray)
            infos = list(infos)
            lives = np.array([info["lives"] for info in infos])
            lost = ~dones & (lives > 0) & (lives < self._lives)
            for row in np.flatnonzero(lost):
                infos[row] = infos[row] | {"terminal_observation": observations[row].copy()}
            for row in np.flatnonzero(dones):
                lives[row] = self.unwrapped.reset_infos[row]["lives"]
            self._lives = lives
            dones = dones | lost
        return observations, rewards, dones, infos

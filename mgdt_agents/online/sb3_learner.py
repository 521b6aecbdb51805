"""stable-baselines3's DQN and PPO as learners.

Their networks, losses, buffers and schedules are the library's; what its `learn` does between two
environment steps is done here, because the environments are stepped by whoever records them. On
play without ends both come to the same weights, which a test holds.

stable-baselines3 begins an episode in the step that ended the one before, and has no row for it.
Environments of a trace take a step for that. Its row is one to learn nothing from: for DQN an end
that brings 0, which is the value of what is over, and for PPO an end that brings what was expected,
with the advantage of the mean row, which is none once advantages are normalized.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from mgdt_agents.config_checks import check_interval
from mgdt_agents.online.learner import Learner, PlayedStep
from mgdt_agents.sb3_agent import SB3Agent
from mgdt_envs import AtariProtocol
from mgdt_envs.emulator import MAX_SEED


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOLearnerConfig:
    """How PPO plays; all else is rl-baselines3-zoo's for Atari (`hyperparams/ppo.yml`)."""

    num_envs: int = 8
    """Environments played together (the zoo: 8)."""
    seed: int = 0
    """Of the network, the exploration and the environments."""

    def __post_init__(self) -> None:
        check_interval(self, "[1, inf)", "num_envs")
        check_interval(self, f"[0, {MAX_SEED - self.num_envs}]", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNLearnerConfig:
    """How DQN learns; the defaults are rl-baselines3-zoo's for Atari (`hyperparams/dqn.yml`)."""

    num_envs: int = 8
    """Environments played together (the zoo: 1)."""
    buffer_size: int = 100_000
    """Agent steps that the replay buffer holds, 28 kB each."""
    learning_starts: int | None = None
    """Agent steps before the first gradient step; by default 100,000 (the zoo), or a tenth of all
    steps where that is less."""
    learning_rate: float = 1e-4
    """Of Adam."""
    seed: int = 0
    """Of the network, the exploration and the environments."""

    def __post_init__(self) -> None:
        check_interval(self, "[1, inf)", "num_envs")
        # A row must have a successor.
        check_interval(self, f"[{2 * self.num_envs}, inf)", "buffer_size")
        check_interval(self, "[0, inf)", "learning_rate", "learning_starts")
        check_interval(self, f"[0, {MAX_SEED - self.num_envs}]", "seed")


class _Spaces(gym.Env):
    """What stable-baselines3 must know of environments that others step."""

    def __init__(self, protocol: AtariProtocol, num_actions: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, protocol.observation_shape, np.uint8)
        self.action_space = gym.spaces.Discrete(num_actions)


class SB3Learner(Learner):
    """A learner around a stable-baselines3 model, which plays the games' minimal actions.

    As in the zoo, rewards are their sign to it, and a lost life is an end. The rules of play are
    the protocol's, by default not those of the zoo's `AtariWrapper`: sticky actions, no no-op
    starts, no FIRE at a reset.
    """

    can_resume = False
    """A replay buffer takes gigabytes."""
    model: BaseAlgorithm

    def _setup(self) -> None:
        spaces = partial(_Spaces, self.protocol, len(self.actions))
        self.model = self._make_model(DummyVecEnv([spaces] * self.num_envs))
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.agent = SB3Agent(
            self.model, games=self.games, protocol=self.protocol, actions=self.actions.tolist()
        )

    @abstractmethod
    def _make_model(self, env: DummyVecEnv) -> BaseAlgorithm:
        """Return the algorithm of `self.config`."""

    def _count(self) -> None:
        """Count a step of all environments, and let the schedules follow."""
        self.steps_played += self.num_envs
        self.model.num_timesteps = self.steps_played
        self.model._update_current_progress_remaining(self.steps_played, self.steps)


class DQNLearner(SB3Learner):
    """stable-baselines3's DQN."""

    name = "dqn"
    config_class = DQNLearnerConfig
    model: DQN

    def _make_model(self, env: DummyVecEnv) -> DQN:
        config = self.config
        starts = config.learning_starts
        # The zoo takes a gradient step every 4 agent steps. stable-baselines3 counts `train_freq`
        # in steps of all environments, and `target_update_interval` in agent steps.
        common = math.gcd(self.num_envs, 4)
        self._train_interval = 4 // common * self.num_envs  # agent steps
        return DQN(
            "CnnPolicy",
            env,
            learning_rate=config.learning_rate,
            buffer_size=config.buffer_size,
            learning_starts=min(100_000, self.steps // 10) if starts is None else starts,
            batch_size=32,
            train_freq=4 // common,
            gradient_steps=self.num_envs // common,
            target_update_interval=1000,
            exploration_fraction=0.1,
            exploration_final_eps=0.01,
            # Not the zoo's: next observations are taken from the following row, which halves the
            # memory, and a time limit therefore counts as an end.
            optimize_memory_usage=True,
            replay_buffer_kwargs={"handle_timeout_termination": False},
            seed=config.seed,
            device=self.device,
        )

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return an epsilon-greedy full-set action for each observation; random ones at first."""
        self.model.policy.set_training_mode(False)
        self.model._last_obs = observations
        _, self._chosen = self.model._sample_action(
            self.model.learning_starts, n_envs=self.num_envs
        )
        return self.actions[self._chosen]

    def learn(self, step: PlayedStep) -> dict[str, float]:
        """Keep the step, and take the gradient steps that are due."""
        model = self.model
        ends = step.terminated | step.truncated | step.life_lost | ~step.is_transition
        assert model.replay_buffer is not None
        model.replay_buffer.add(
            step.observations,
            step.next_observations,
            self._chosen,
            np.sign(step.rewards),
            ends,
            [{}] * self.num_envs,
        )
        self._count()
        model._on_step()  # the target network and the exploration
        figures = {"epsilon": float(model.exploration_rate)}
        is_due = self.steps_played % self._train_interval == 0
        if is_due and self.steps_played > model.learning_starts:
            model.train(model.gradient_steps, model.batch_size)
            figures["loss"] = float(model.logger.name_to_value["train/loss"])
        return figures


class PPOLearner(SB3Learner):
    """stable-baselines3's PPO."""

    name = "ppo"
    config_class = PPOLearnerConfig
    model: PPO

    def _make_model(self, env: DummyVecEnv) -> PPO:
        self._begins = np.ones(self.num_envs, bool)
        self._learned: list[NDArray[np.bool_]] = []  # rows of this rollout that are transitions
        return PPO(
            "CnnPolicy",
            env,
            n_steps=128,
            n_epochs=4,
            batch_size=256,
            learning_rate=lambda share_left: 2.5e-4 * share_left,
            clip_range=lambda share_left: 0.1 * share_left,
            vf_coef=0.5,
            ent_coef=0.01,
            seed=self.config.seed,
            device=self.device,
        )

    @torch.no_grad()
    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return a full-set action for each observation, drawn from the policy."""
        self.model.policy.set_training_mode(False)
        actions, self._values, self._log_probs = self.model.policy(self._to_device(observations))
        self._chosen = actions.cpu().numpy()
        return self.actions[self._chosen]

    @torch.no_grad()
    def _predict_values(self, observations: NDArray[np.uint8]) -> torch.Tensor:
        return self.model.policy.predict_values(self._to_device(observations))

    def _to_device(self, observations: NDArray[np.uint8]) -> torch.Tensor:
        return torch.as_tensor(observations, device=self.device)

    def learn(self, step: PlayedStep) -> dict[str, float] | None:
        """Keep the step; with the last of a rollout, learn the rollout."""
        buffer = self.model.rollout_buffer
        rewards = np.sign(step.rewards)
        if step.truncated.any():
            values = self._predict_values(step.next_observations[step.truncated])
            rewards[step.truncated] += self.model.gamma * values.cpu().numpy()[:, 0]
        expected = self._values.cpu().numpy()[:, 0]
        rewards = np.where(step.is_transition, rewards, expected)
        ends = step.terminated | step.truncated | step.life_lost | ~step.is_transition
        buffer.add(
            step.observations,
            self._chosen[:, None],
            rewards,
            self._begins,
            self._values,
            self._log_probs,
        )
        self._begins = ends
        self._learned.append(step.is_transition)
        self._count()
        if not buffer.full:
            return None
        last_values = self._predict_values(step.next_observations)
        buffer.compute_returns_and_advantage(last_values, ends)
        learned, self._learned = np.array(self._learned), []
        buffer.advantages[~learned] = buffer.advantages[learned].mean()
        self.model.train()
        buffer.reset()
        return {"loss": float(self.model.logger.name_to_value["train/loss"])}

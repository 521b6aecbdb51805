"""The online baseline: stable-baselines3's DQN on the suite."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
from stable_baselines3 import DQN
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from mgdt_envs import AtariProtocol, MultiGameAtariEnv


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNConfig:
    """How to train DQN; the defaults are rl-baselines3-zoo's for Atari (`hyperparams/dqn.yml`)."""

    games: tuple[str, ...]
    """Games to play; each reset draws one."""
    steps: int
    """Agent steps."""
    num_envs: int = 8
    """Environments stepped in turn."""
    buffer_size: int = 100_000
    """Agent steps that the replay buffer holds, 28 kB each."""
    learning_starts: int = 100_000
    """Agent steps before the first gradient step."""
    learning_rate: float = 1e-4
    """Of Adam."""
    seed: int = 0
    """Of the network, the exploration and the environments."""


def train_dqn(
    config: DQNConfig,
    output: Path,
    *,
    device: str = "auto",
    on_step: Callable[[int, float | None], object] = lambda steps, mean_return: None,
) -> None:
    """Train DQN on the suite and save it as `model.zip` in `output`.

    Rewards are clipped for the learner; the reported returns are of the game's own rewards.

    Args:
        config: how.
        output: folder for the model.
        device: where to compute.
        on_step: called with the number of steps taken and the mean return of the last episodes.
    """

    def make_env() -> gym.Env:
        return ClipRewardEnv(Monitor(MultiGameAtariEnv(config.games, AtariProtocol())))

    class Report(BaseCallback):
        def _on_step(self) -> bool:
            returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            on_step(self.num_timesteps, sum(returns) / len(returns) if returns else None)
            return True

    model = DQN(
        "CnnPolicy",
        DummyVecEnv([make_env] * config.num_envs),
        learning_rate=config.learning_rate,
        buffer_size=config.buffer_size,
        learning_starts=config.learning_starts,
        batch_size=32,
        train_freq=4,
        gradient_steps=1,
        target_update_interval=1000,
        exploration_fraction=0.1,
        exploration_final_eps=0.01,
        # Next observations are taken from the following row, which halves the memory.
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        seed=config.seed,
        device=device,
    )
    model.learn(config.steps, callback=Report())
    output.mkdir(parents=True, exist_ok=True)
    model.save(output / "model.zip")

"""The online baseline: stable-baselines3's DQN on the suite."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNConfig:
    """How to train DQN; the defaults are rl-baselines3-zoo's for Atari (`hyperparams/dqn.yml`)."""

    games: tuple[str, ...]
    """Games to play, with equally many environments each."""
    steps: int
    """Agent steps."""
    num_envs: int = 8
    """Environments stepped together; one a game where that is more."""
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
    num_envs = max(config.num_envs, len(config.games))
    env = LearnerRewards(MultiGameAtariVecEnv(num_envs, config.games), life_loss_ends=False)

    class Report(BaseCallback):
        def _on_step(self) -> bool:
            returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            on_step(self.num_timesteps, sum(returns) / len(returns) if returns else None)
            return True

    model = make_dqn(config, env, device)
    model.learn(config.steps, callback=Report())
    output.mkdir(parents=True, exist_ok=True)
    model.save(output / "model.zip")


def make_dqn(config: DQNConfig, env: VecEnv, device: str) -> DQN:
    """Return a DQN that knows nothing yet."""
    return DQN(
        "CnnPolicy",
        env,
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

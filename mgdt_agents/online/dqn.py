"""The online baseline: stable-baselines3's DQN, trained on the suite."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mgdt_agents.online.learner import Play, updates
from mgdt_agents.online.sb3_learner import DQNLearner, DQNLearnerConfig
from mgdt_envs import MultiGameAtariVectorEnv


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNConfig(DQNLearnerConfig):
    """What DQN plays, and how it learns: rl-baselines3-zoo's settings for Atari."""

    games: tuple[str, ...]
    """Games to play, with equally many environments each; at least one a game."""
    steps: int
    """Agent steps."""


def train_dqn(
    config: DQNConfig,
    output: Path,
    *,
    device: str = "auto",
    on_step: Callable[[int, float | None], object] = lambda steps, mean_return: None,
) -> None:
    """Train DQN on the suite and save it as `model.zip` in `output`.

    Args:
        config: how.
        output: folder for the model.
        device: where to compute.
        on_step: called with the number of steps taken and the mean of the games' mean returns,
            each of the last 100 episodes.
    """
    num_envs = max(config.num_envs, len(config.games))
    envs = MultiGameAtariVectorEnv(num_envs, config.games)
    try:
        learner = DQNLearner(config, envs.games_of_envs, config.steps, device=device)
        play = Play(envs, envs.games_of_envs, config.seed)
        for _ in updates(learner, play):
            means = [mean for mean in play.mean_returns().values() if mean is not None]
            on_step(learner.steps_played, sum(means) / len(means) if means else None)
            if learner.steps_played >= config.steps:
                break
    finally:
        envs.close()
    learner.agent.save(output)

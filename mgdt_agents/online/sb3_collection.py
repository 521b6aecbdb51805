"""Collect replay with stable-baselines3's learners: see `collection`, whose folders these are."""

import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from mgdt_agents.online.collection import (
    LOG_INTERVAL,
    RECENT_EPISODES,
    SB3Config,
    begin_folder,
    describe,
    source_of,
)
from mgdt_agents.online.dqn import DQNConfig, make_dqn
from mgdt_agents.replay.sb3_recorder import RecordingCallback
from mgdt_agents.training.metrics import open_log
from mgdt_envs import game
from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv


def make_ppo(env: VecEnv, seed: int, device: str) -> PPO:
    """Return a PPO that knows nothing yet, of rl-baselines3-zoo's Atari settings.

    They are in the zoo's `hyperparams/ppo.yml`.
    """
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
        seed=seed,
        device=device,
    )


def collect_with_sb3(
    learner: str,
    name: str,
    steps: int,
    config: SB3Config,
    output: Path,
    *,
    device: str = "auto",
    num_threads: int = 0,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Let stable-baselines3 learn a game under the default protocol and record it.

    As `collection.collect`, but the trace is written at the end, and what was stopped cannot go
    on: a replay buffer takes gigabytes.

    Args:
        learner: "dqn" or "ppo".
        name: of the game.
        steps: agent steps, rounded up to what the learner plays between two updates.
        config: environments and seed.
        output: folder of the collection, which must not exist.
        device: where to compute.
        num_threads: emulator threads; 0 takes one a core.
        on_log: called with the figures of about every 10,000 steps.
        should_stop: asked after each step; where true, what was played is saved.

    Returns:
        Whether all steps are played.

    Raises:
        FileExistsError: if the folder exists.
    """
    name = game(name).name
    description = describe(name, steps, learner, config)
    begin_folder(output, description)
    env = LearnerRewards(
        MinimalActions(MultiGameAtariVecEnv(config.num_envs, name, num_threads=num_threads))
    )
    model: BaseAlgorithm
    if learner == "ppo":
        model = make_ppo(env, config.seed, device)
    else:
        dqn = DQNConfig(
            games=(name,),
            steps=steps,
            num_envs=config.num_envs,
            buffer_size=config.buffer_size,
            learning_starts=min(100_000, steps // 10),
            seed=config.seed,
        )
        model = make_dqn(dqn, env, device)
    recording = RecordingCallback(output / f"{name}.npz", source_of(description), seed=config.seed)
    try:
        with open_log(output / "metrics.jsonl", 0) as log:
            report = _CollectionReport(steps, log, on_log, should_stop)
            model.learn(steps, callback=[recording, report])
    finally:
        env.close()
    return model.num_timesteps >= steps


class MinimalActions(VecEnvWrapper):
    """The actions that do something in the game that all environments play, instead of all 18."""

    def __init__(self, venv: MultiGameAtariVecEnv) -> None:
        """Wrap `venv`."""
        (name,) = venv.envs.games
        self.actions = np.array(game(name).minimal_actions)
        super().__init__(venv, action_space=gym.spaces.Discrete(len(self.actions)))

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Begin to play the actions of these indices."""
        self.venv.step_async(self.actions[actions])

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step."""
        return self.venv.step_wait()


class _CollectionReport(BaseCallback):
    """Log about every 10,000 steps, and stop the learner when told to."""

    def __init__(
        self,
        steps: int,
        log: TextIO,
        on_log: Callable[[dict[str, Any]], object],
        should_stop: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.steps, self.log, self.on_log, self.should_stop = steps, log, on_log, should_stop
        self.episodes, self.steps_logged, self.logged = 0, 0, time.monotonic()
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)

    def _on_step(self) -> bool:
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self.episodes += len(ended)
        self.returns.extend(episode["r"] for episode in ended)
        stops = self.should_stop()
        ends = stops or self.num_timesteps >= self.steps
        if ends or self.num_timesteps - self.steps_logged >= LOG_INTERVAL:
            now = time.monotonic()
            line = {
                "step": self.num_timesteps,
                "episodes": self.episodes,
                "mean_return": float(np.mean(self.returns)) if self.returns else None,
                "steps_per_second": round(
                    (self.num_timesteps - self.steps_logged) / (now - self.logged)
                ),
            }
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()
            self.on_log(line)
            self.steps_logged, self.logged = self.num_timesteps, now
        return not stops

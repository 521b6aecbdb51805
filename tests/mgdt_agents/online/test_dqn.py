"""The online baseline: stable-baselines3's DQN."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from mgdt_agents.online import dqn
from mgdt_agents.online.dqn import DQNConfig, train_dqn

EPISODE_STEPS = 10


class TenStepsEnv(gym.Env):
    """Episodes of ten steps that bring 7 each; the suite's spaces and its `info["episode"]`."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(18)

    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((4, 84, 84), np.uint8), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == EPISODE_STEPS
        info = {"episode": {"r": 7.0 * self.steps, "l": self.steps, "t": 0.0}} if done else {}
        return np.zeros((4, 84, 84), np.uint8), 7.0, done, False, info


def ten_steps_envs(num_envs, games):
    assert games == ("Pong", "Breakout")
    return DummyVecEnv([TenStepsEnv] * num_envs)


@pytest.fixture
def models(monkeypatch):
    """The models that are made, where environments are short."""
    made = []

    class KeptDQN(DQN):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(dqn, "DQN", KeptDQN)
    monkeypatch.setattr(dqn, "MultiGameAtariVecEnv", ten_steps_envs)
    return made


def config(**changes):
    arguments = {"num_envs": 3, "buffer_size": 96, "learning_starts": 70} | changes
    return DQNConfig(games=("Pong", "Breakout"), steps=96, **arguments)


def test_returns_are_the_game_s_and_the_learner_s_rewards_are_clipped(models, tmp_path):
    reports = []
    train_dqn(config(), tmp_path, device="cpu", on_step=lambda *report: reports.append(report))
    steps, returns = zip(*reports, strict=True)
    assert steps == tuple(range(3, 97, 3))
    # An episode is known one step after its end.
    assert returns == (None,) * EPISODE_STEPS + (70.0,) * (32 - EPISODE_STEPS)
    (model,) = models
    rewards = model.replay_buffer.rewards
    assert set(np.unique(rewards)) == {1.0}
    assert rewards.size == 96


def test_learning_begins_after_learning_starts(models, tmp_path):
    weights = []
    for learning_starts in (70, 100, 1000):
        changed = config(learning_starts=learning_starts)
        train_dqn(changed, tmp_path / str(learning_starts), device="cpu")
        weights.append(models[-1].policy.state_dict())
    assert models[0]._n_updates > 0
    assert models[1]._n_updates == models[2]._n_updates == 0
    # The same seed, so that the networks were the same at first.
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_saved_model_is_the_trained_one(models, tmp_path):
    train_dqn(config(), tmp_path / "new" / "folder", device="cpu")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["model.zip"]
    loaded = DQN.load(tmp_path / "new" / "folder" / "model.zip", device="cpu")
    trained = models[0].policy.state_dict()
    assert all(torch.equal(trained[name], w) for name, w in loaded.policy.state_dict().items())


def test_every_game_is_played_where_environments_are_fewer(models, tmp_path):
    train_dqn(config(num_envs=1), tmp_path, device="cpu")
    assert models[0].n_envs == 2


def test_dqn_trains_on_the_suite(dqn_zip):
    model = DQN.load(dqn_zip, device="cpu")
    assert model._n_updates > 0
    assert model.num_timesteps == 120
    assert model.observation_space.shape == (4, 84, 84)
    assert model.action_space == gym.spaces.Discrete(18)

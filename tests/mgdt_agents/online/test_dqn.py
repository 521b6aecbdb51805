"""The online baseline: stable-baselines3's DQN."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3 import DQN

from mgdt_agents.online import dqn
from mgdt_agents.online.dqn import DQNConfig, train_dqn

EPISODE_STEPS = 10


class TenStepsEnvs(VectorEnv):
    """Episodes of ten steps that bring 7 each; the suite's spaces, games and infos."""

    def __init__(self, num_envs, games):
        assert games == ("Pong", "Breakout")
        self.num_envs = num_envs
        self.games_of_envs = ["Pong"] * (num_envs - 1) + ["Breakout"]
        self.single_action_space = gym.spaces.Discrete(18)
        self.frames = np.zeros((num_envs, 4, 84, 84), np.uint8)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        return self.frames, {"lives": np.zeros(self.num_envs, int)}

    def step(self, actions):
        self.steps += 1
        begins = self.steps % (EPISODE_STEPS + 1) == 0
        ends = np.full(self.num_envs, self.steps % (EPISODE_STEPS + 1) == EPISODE_STEPS)
        infos = {"lives": np.zeros(self.num_envs, int)}
        infos["episode"] = {"r": np.full(self.num_envs, 7.0 * EPISODE_STEPS)}
        rewards = np.full(self.num_envs, 0.0 if begins else 7.0)
        return self.frames, rewards, ends, np.zeros(self.num_envs, bool), infos


@pytest.fixture
def learners(monkeypatch):
    """The learners that are made, where environments are short."""
    made = []

    class KeptLearner(dqn.DQNLearner):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(dqn, "DQNLearner", KeptLearner)
    monkeypatch.setattr(dqn, "MultiGameAtariVectorEnv", TenStepsEnvs)
    return made


def config(**changes):
    arguments = {"num_envs": 3, "buffer_size": 96, "learning_starts": 70} | changes
    return DQNConfig(games=("Pong", "Breakout"), steps=96, **arguments)


def test_returns_are_the_game_s_and_the_learner_s_rewards_are_clipped(learners, tmp_path):
    reports = []
    train_dqn(config(), tmp_path, device="cpu", on_step=lambda *report: reports.append(report))
    steps, returns = zip(*reports, strict=True)
    assert steps == tuple(range(3, 97, 3))
    known = EPISODE_STEPS - 1
    assert returns == (None,) * known + (70.0,) * (32 - known)
    (learner,) = learners
    rewards = learner.model.replay_buffer.rewards
    assert rewards.size == 96
    assert sorted(np.unique(rewards, return_counts=True)[1]) == [2 * 3, 96 - 2 * 3]
    assert set(np.unique(rewards)) == {0.0, 1.0}  # 0 where the step only begins an episode


def test_learning_begins_after_learning_starts(learners, tmp_path):
    weights = []
    for learning_starts in (70, 100, 1000):
        changed = config(learning_starts=learning_starts)
        train_dqn(changed, tmp_path / str(learning_starts), device="cpu")
        weights.append(learners[-1].model.policy.state_dict())
    assert learners[0].model._n_updates > 0
    assert learners[1].model._n_updates == learners[2].model._n_updates == 0
    # The same seed, so that the networks were the same at first.
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_saved_model_is_the_trained_one(learners, tmp_path):
    train_dqn(config(), tmp_path / "new" / "folder", device="cpu")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["model.zip"]
    loaded = DQN.load(tmp_path / "new" / "folder" / "model.zip", device="cpu")
    trained = learners[0].model.policy.state_dict()
    assert all(torch.equal(trained[name], w) for name, w in loaded.policy.state_dict().items())


def test_every_game_is_played_where_environments_are_fewer(learners, tmp_path):
    train_dqn(config(num_envs=1), tmp_path, device="cpu")
    assert learners[0].num_envs == 2
    assert learners[0].games == ("Pong", "Breakout")


def test_dqn_trains_on_the_suite(dqn_zip):
    model = DQN.load(dqn_zip, device="cpu")
    assert model._n_updates > 0
    assert model.num_timesteps == 120
    assert model.observation_space.shape == (4, 84, 84)
    assert model.action_space == gym.spaces.Discrete(4)  # those of Breakout

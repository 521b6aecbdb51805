"""stable-baselines3's learners: as the library's own loop, and in collections."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from mgdt_agents import load_agent
from mgdt_agents.online import online_run
from mgdt_agents.online.collection import LEARNERS, collect
from mgdt_agents.online.learner import PlayedStep
from mgdt_agents.online.sb3_learner import DQNLearnerConfig, PPOLearnerConfig
from mgdt_agents.replay import Trace
from mgdt_envs import AtariProtocol

PROTOCOL = AtariProtocol(stack=1, screen_size=36)
PONG_ACTIONS = [0, 1, 3, 4, 11, 12]


def show(env, step, action):
    """Return what an environment shows after an action, and what that brings."""
    random = np.random.default_rng([env, step, action])
    return random.integers(256, size=(1, 36, 36)).astype(np.uint8), float(random.integers(-1, 2))


class EndlessEnv(gym.Env):
    """An environment of `show`."""

    observation_space = gym.spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = gym.spaces.Discrete(len(PONG_ACTIONS))

    def __init__(self, number):
        self.number, self.steps = number, 0

    def reset(self, *, seed=None, options=None):
        return show(self.number, 0, 0)[0], {}

    def step(self, action):
        self.steps += 1
        observation, reward = show(self.number, self.steps, PONG_ACTIONS[action])
        return observation, reward, False, False, {}


def make_learner(name, num_envs, steps, **fields):
    config = LEARNERS[name].config_class(num_envs=num_envs, seed=3, **fields)
    return LEARNERS[name](config, ["Pong"] * num_envs, steps, protocol=PROTOCOL)


@pytest.mark.parametrize(
    ("name", "num_envs", "steps", "fields"),
    [
        ("dqn", 1, 40, {"buffer_size": 30, "learning_starts": 8}),
        ("dqn", 6, 120, {"buffer_size": 90, "learning_starts": 24}),
        ("dqn", 8, 160, {"buffer_size": 1000}),
        ("ppo", 2, 512, {}),
    ],
)
def test_learns_what_the_library_s_loop_learns(name, num_envs, steps, fields):
    learner = make_learner(name, num_envs, steps, **fields)
    observations = np.stack([show(env, 0, 0)[0] for env in range(num_envs)])
    never = np.zeros(num_envs, bool)
    step = 0
    while learner.steps_played < steps:
        step += 1
        actions = learner.act(observations)
        played = [show(env, step, action) for env, action in enumerate(actions)]
        shown, rewards = zip(*played, strict=True)
        before, observations = observations, np.stack(shown)
        learner.learn(
            PlayedStep(before, np.array(rewards), never, never, never, ~never, observations)
        )

    other = make_learner(name, num_envs, steps, **fields)
    envs = [lambda number=number: EndlessEnv(number) for number in range(num_envs)]
    model = other._make_model(DummyVecEnv(envs)).learn(steps)
    assert model._n_updates == learner.model._n_updates > 0
    learned = learner.model.policy.state_dict()
    for key, weights in model.policy.state_dict().items():
        assert torch.equal(weights, learned[key]), key


@pytest.mark.parametrize("num_envs", [1, 2, 3, 4, 6, 8])
def test_dqn_takes_a_gradient_step_every_4_agent_steps(num_envs):
    model = make_learner("dqn", num_envs, 100, buffer_size=100).model
    assert model.train_freq.frequency * num_envs == 4 * model.gradient_steps
    assert model.target_update_interval == 1000


def events(num_envs, **changes):
    """Return a step on which the learner acts, with the named events in some environments."""
    never = np.zeros(num_envs, bool)
    frames = np.stack([show(env, 0, 0)[0] for env in range(num_envs)])
    step = PlayedStep(frames, np.zeros(num_envs), never, never, never, ~never, frames)
    return step._replace(**changes)


def test_what_dqn_keeps_of_a_step():
    learner = make_learner("dqn", 5, 100, buffer_size=100)
    rows = np.eye(5, dtype=bool)
    step = events(
        5,
        rewards=np.array([-5.0, 0, 9, 0, 0]),
        terminated=rows[0],
        truncated=rows[1],
        life_lost=rows[2],
        is_transition=~rows[3],
    )
    actions = learner.act(step.observations)
    learner.learn(step)
    buffer = learner.model.replay_buffer
    assert buffer.rewards[0].tolist() == [-1, 0, 1, 0, 0]
    assert buffer.dones[0].tolist() == [1, 1, 1, 1, 0]
    assert np.array(PONG_ACTIONS)[buffer.actions[0, :, 0]].tolist() == actions.tolist()


def test_what_ppo_keeps_of_a_step():
    learner = make_learner("ppo", 4, 1000)
    rows = np.eye(4, dtype=bool)
    step = events(
        4,
        rewards=np.array([-5.0, 0, 0, 0]),
        terminated=rows[0],
        truncated=rows[1],
        is_transition=~rows[2],
    )
    learner.act(step.observations)
    values = learner._values.numpy()[:, 0]
    learner.learn(step)
    buffer = learner.model.rollout_buffer
    # After a time limit the rest is expected; what only begins an episode brings what it should.
    expected = [-1, learner.model.gamma * values[1], values[2], 0]
    np.testing.assert_allclose(buffer.rewards[0], expected, rtol=1e-5)
    learner.act(step.observations)
    learner.learn(step)
    assert buffer.episode_starts[:2].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_ppo_learns_nothing_from_what_only_begins_an_episode(monkeypatch):
    learner = make_learner("ppo", 4, 10_000)
    advantages = []
    monkeypatch.setattr(
        learner.model, "train", lambda: advantages.append(learner.model.rollout_buffer.advantages)
    )
    learner.model.logger.record("train/loss", 0.0)
    learned = []
    random = np.random.default_rng(0)
    while not advantages:
        is_transition = random.random(4) > 0.1
        learned.append(is_transition)
        step = events(4, rewards=random.integers(-1, 2, 4) * 1.0, is_transition=is_transition)
        learner.act(step.observations)
        learner.learn(step)
    learned = np.array(learned)
    found = advantages[0]
    normalized = (found - found.mean()) / found.std()
    assert (~learned).sum() > 10
    np.testing.assert_allclose(normalized[~learned], 0, atol=1e-5)
    assert normalized[learned].std() > 0.5


def collect_small(learner, output, steps, **arguments):
    config = DQNLearnerConfig(num_envs=2, buffer_size=200, seed=4)
    if learner == "ppo":
        config = PPOLearnerConfig(num_envs=2, seed=4)
    return collect(
        learner, ["Pong"], steps, config, output, device="cpu", num_threads=1, **arguments
    )


@pytest.mark.parametrize(("learner", "played"), [("dqn", 64), ("ppo", 256)])
def test_collection(learner, played, tmp_path, monkeypatch):
    monkeypatch.setattr(online_run, "LOG_INTERVAL", 40)
    figures = []
    output = tmp_path / "Pong"
    assert collect_small(learner, output, 64, on_log=figures.append)
    trace = Trace.load(output / "Pong.npz")
    assert trace.actions.shape == (played // 2, 2)
    assert trace.seeds.tolist() == [4, 5]
    assert trace.source["learner"] == learner
    assert trace.source["config"]["num_envs"] == 2
    assert set(np.unique(trace.actions)) <= set(PONG_ACTIONS)
    assert len(set(np.unique(trace.actions))) > 2
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert lines == figures
    assert [line["step"] for line in lines] == ([40, 64] if learner == "dqn" else [256])
    agent = load_agent(output, device="cpu")
    assert (agent.games, agent.protocol, agent.protocol_is_assumed) == (
        ("Pong",),
        trace.protocol,
        False,
    )
    assert agent.actions.tolist() == PONG_ACTIONS
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert collect_small(learner, output, 64)  # nothing is left to do
    assert before == {path.name: path.stat().st_mtime_ns for path in output.iterdir()}


def test_stopped_collection_keeps_what_was_played_and_learned(tmp_path):
    answers = iter([False] * 4)
    output = tmp_path / "Pong"
    assert not collect_small("dqn", output, 64, should_stop=lambda: next(answers, True))
    assert len(Trace.load(output / "Pong.npz").actions) == 4
    assert load_agent(output, device="cpu").kind == "sb3"
    with pytest.raises(FileExistsError, match="unfinished collection of dqn, which cannot resume"):
        collect_small("dqn", output, 64)


def test_killed_before_the_first_checkpoint(tmp_path):
    answers = iter([False] * 4)
    output = tmp_path / "Pong"
    with pytest.raises(StopIteration):
        collect_small("dqn", output, 64, should_stop=lambda: next(answers))
    assert not (output / "checkpoint.pt").exists()
    assert collect_small("dqn", output, 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"buffer_size": 15}, "buffer_size must be at least 16, got 15"),
        ({"learning_starts": -1}, "learning_starts must be at least 0, got -1"),
    ],
)
def test_wrong_field(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DQNLearnerConfig(), **fields)

"""The wall: many games at once, of which people may take some over."""

import numpy as np
import pytest
import torch

from mgdt_agents.agent import Agent
from mgdt_agents.behavioral_cloning import BehavioralCloningAgent
from mgdt_agents.decision_transformer import (
    DecisionTransformerAgent,
    DecisionTransformerConfig,
    TargetReturn,
)
from mgdt_agents.planning import TrajectoryTransformerAgent
from mgdt_agents.play import Wall
from mgdt_agents.random_agent import RandomAgent
from mgdt_envs import AtariProtocol, MultiGameAtariEnv

SHORT = AtariProtocol(max_frames=80)
PATCHES = DecisionTransformerConfig(
    layers=1, width=64, patch_size=42, return_tokens="none", dropout=0
)


class Fire(Agent):
    """Fires, and notes what it is told."""

    kind = "fire"

    def __init__(self):
        super().__init__()
        self.begins, self.rewards = [], []

    def predict(self, observation, state=None, episode_start=None, *args, reward=None, **kwargs):
        self.begins.append(episode_start.copy())
        self.rewards.append(np.array(reward))
        return np.ones(len(observation), np.int64), None

    def _act(self, *args, **kwargs):
        raise NotImplementedError


def test_plays_what_the_single_environment_plays():
    agent = Fire()
    wall = Wall(agent, ["Breakout", "Pong"], protocol=SHORT, seed=4)
    single = MultiGameAtariEnv("Pong", SHORT, render_mode="rgb_array")
    single.reset(seed=5)
    total = 0.0
    for number in range(45):
        step = wall.step()
        _, reward, terminated, truncated, _ = single.step(1)
        total += reward
        assert step.scores[1] == total
        if terminated or truncated:
            assert step.last_scores[1] == total
            total = 0.0
            single.reset()
        else:
            assert (step.screens[1] == single.render()).all(), number
    begins = np.flatnonzero([b.all() for b in agent.begins])
    assert begins.tolist() == [0, 20, 40]
    wall.close()


def test_a_person_plays_instead_of_the_agent():
    wall, other = (Wall(Fire(), ["Pong", "Boxing"], seed=1) for _ in range(2))
    for _ in range(40):
        step = wall.step({0: 2})
        expected = other.step({0: 2, 1: 1})
        assert step.actions.tolist() == [2, 1]
        assert (step.screens[0] == expected.screens[0]).all()
        assert (step.screens[1] == expected.screens[1]).all()


def test_the_agent_remembers_what_was_played():
    agent = DecisionTransformerAgent("tiny", device="cpu")
    wall = Wall(agent, ["Pong", "Breakout"])
    for _ in range(3):
        wall.step({1: 3})
    assert wall._state[0][1].tolist() == [3, 3, 3]
    # What a game does not have, it plays as another: Breakout has no RIGHTFIRE, Pong has it.
    assert wall.step({0: 11, 1: 11}).actions.tolist() == [11, 11]
    assert wall._state[0][:, -1].tolist() == [11, 0]
    assert agent.with_actions(None, np.array([1, 2])) is None


def test_explanations_are_those_of_the_agent():
    wall = Wall(DecisionTransformerAgent("tiny", device="cpu"), ["Pong"], explain=True)
    step = wall.step()
    assert step.returns.shape == (1, 121)
    np.testing.assert_allclose(step.returns.sum(1), 1, rtol=1e-5)
    assert step.attention is None  # a frame is one token
    wall.agent = BehavioralCloningAgent(PATCHES, device="cpu")
    step = wall.step()
    assert step.returns is None
    assert step.attention.shape == (1, 4, 2, 2)
    wall.agent = RandomAgent()
    step = wall.step()
    assert step.returns is None
    assert step.attention is None


def test_a_step_is_one_decision(monkeypatch):
    agent = DecisionTransformerAgent("tiny", device="cpu")
    decisions = []
    decide = agent._decide
    monkeypatch.setattr(
        agent, "_decide", lambda *args, **kwargs: decisions.append(1) or decide(*args, **kwargs)
    )
    wall = Wall(agent, ["Pong", "Breakout"], explain=True)
    wall.step()  # finds out that frames are single tokens
    decisions.clear()
    asked = wall._observations, wall._state, wall._begins, wall._rewards.copy()
    step = wall.step()
    assert len(decisions) == 1
    # With one return token a window there is one prediction.
    expected = agent.return_distribution(*asked[:3], reward=asked[3])
    np.testing.assert_allclose(step.returns, expected, rtol=1e-5)


def test_returns_of_a_rule_that_gives_them():
    agent = DecisionTransformerAgent("tiny", rule=TargetReturn(target=7), device="cpu")
    step = Wall(agent, ["Pong"], explain=True).step()
    np.testing.assert_allclose(step.returns.sum(1), 1, rtol=1e-5)


def test_imagined_frames_are_those_of_what_was_played():
    agent = TrajectoryTransformerAgent("tiny", device="cpu")
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.mul_(3)  # so that actions matter
    wall = Wall(agent, ["Pong", "Breakout"], explain=True)
    wall.step()
    asked = wall._observations, wall._state, wall._begins
    step = wall.step({1: 3})
    assert (step.imagined.shape, step.imagined.dtype) == ((2, 84, 84), np.uint8)
    assert step.actions[1] == 3
    expected = agent.imagine(asked[0], step.actions[:, None], *asked[1:], reward=np.zeros(2))
    assert np.array_equal(step.imagined, expected.frames[:, 0])
    wall.agent = RandomAgent()
    assert wall.step().imagined is None


def test_another_agent_begins_without_memory():
    wall = Wall(DecisionTransformerAgent("tiny", device="cpu"), ["Pong"])
    wall.step()
    wall.agent = RandomAgent()
    wall.step()
    with pytest.raises(ValueError, match=r"The agent sees .*\(2, 84, 84\).* played with"):
        wall.agent = RandomAgent(protocol=AtariProtocol(stack=2))

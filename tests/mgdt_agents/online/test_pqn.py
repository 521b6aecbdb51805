"""PQN: its returns by definition, learning, going on."""

import io

import numpy as np
import pytest
import torch

from mgdt_agents.online.pqn import PQN, PQNConfig, Rollout, lambda_returns

SMALL = PQNConfig(
    num_envs=32,
    rollout_steps=2,
    minibatches=2,
    learning_rate=1e-2,
    exploration_fraction=0.5,
    channels=(4, 4, 4),
    hidden=16,
)


def make_rollout(learner, random):
    """Return a rollout in which action 1 is right where the frame is bright, and else action 0."""
    shape = SMALL.rollout_steps, SMALL.num_envs
    bright = random.random(shape) < 0.5
    actions = random.integers(2, size=shape)
    frames = np.where(bright, 255, 0).astype(np.uint8)
    observations = np.broadcast_to(frames[..., None, None, None], (*shape, 36, 36, 1)).copy()
    return Rollout(
        observations=observations,
        actions=actions,
        rewards=(actions == bright).astype(np.float32),
        ends=np.ones(shape, bool),
        cuts=np.zeros(shape, bool),
        is_transition=np.ones(shape, bool),
        values=np.zeros((shape[0] + 1, shape[1]), np.float32),
    )


def make_learner(**changes):
    return PQN(PQNConfig(**SMALL_FIELDS | changes), num_actions=2, steps=1000, stack=1, size=36)


SMALL_FIELDS = {name: getattr(SMALL, name) for name in SMALL.__slots__}


def return_by_definition(rollout, step, env, discount, trace_decay):
    """Return the mean of the n-step returns, weighted with (1 - lambda) lambda^(n - 1)."""
    total, result, weight = 0.0, 0.0, 1.0
    length = len(rollout.rewards)
    for later in range(step, length):
        total += discount ** (later - step) * rollout.rewards[later, env]
        rest = discount ** (later - step + 1) * rollout.values[later + 1, env]
        if rollout.ends[later, env]:
            return result + weight * total
        if rollout.cuts[later, env] or later == length - 1:
            return result + weight * (total + rest)
        result += weight * (1 - trace_decay) * (total + rest)
        weight *= trace_decay
    raise AssertionError


@pytest.mark.parametrize("trace_decay", [0.0, 0.65, 1.0])
def test_lambda_returns(trace_decay):
    random = np.random.default_rng(0)
    shape = 9, 6
    ends, cuts = random.random((2, *shape)) < 0.15
    assert ends.any()
    assert cuts.any()
    rollout = Rollout(
        observations=np.empty(0),
        actions=np.empty(0),
        rewards=random.normal(size=shape).astype(np.float32),
        ends=ends,
        cuts=cuts,
        is_transition=np.ones(shape, bool),
        values=random.normal(size=(10, 6)).astype(np.float32),
    )
    returns = lambda_returns(rollout, 0.9, trace_decay)
    expected = [
        [return_by_definition(rollout, step, env, 0.9, trace_decay) for env in range(6)]
        for step in range(9)
    ]
    np.testing.assert_allclose(returns, expected, rtol=1e-4, atol=1e-5)


def test_learner_learns_what_is_right():
    learner, random = make_learner(), np.random.default_rng(1)
    losses = [learner.learn(make_rollout(learner, random))["loss"] for _ in range(40)]
    assert losses[-1] < 0.02 < losses[0]
    frames = np.array([0, 255], np.uint8)[:, None, None, None].repeat(36, 1).repeat(36, 2)
    with torch.inference_mode():
        q_values = learner.network(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(q_values, [[1, 0], [0, 1]], atol=0.3)


def test_steps_that_only_begin_episodes_are_not_learned():
    learner, random = make_learner(), np.random.default_rng(1)
    rollout = make_rollout(learner, random)
    wrong = rollout.rewards.copy()
    wrong[0] = 1e6
    begins = rollout.is_transition.copy()
    begins[0] = False
    loss = learner.learn(rollout._replace(rewards=wrong, is_transition=begins))["loss"]
    assert loss < 10


def test_actions_are_random_at_first_and_greedy_later():
    learner = make_learner(final_epsilon=0.0)
    frames = np.zeros((400, 36, 36, 1), np.uint8)
    assert [learner.epsilon(steps) for steps in (0, 250, 500, 1000)] == [1, 0.5, 0, 0]
    assert 150 < learner.act(frames, 0)[0].sum() < 250
    actions, values = learner.act(frames, 1000)
    assert len(set(actions)) == 1
    assert np.array_equal(values, learner.values(frames))


def test_learner_goes_on_from_its_state():
    learner, random = make_learner(), np.random.default_rng(1)
    rollouts = [make_rollout(learner, random) for _ in range(3)]
    learner.learn(rollouts[0])
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = make_learner(seed=5)
    other.load_state_dict(torch.load(file, weights_only=True))
    for rollout in rollouts[1:]:
        assert learner.learn(rollout) == other.learn(rollout)
    observations = rollouts[0].observations[0]
    for mine, its in zip(learner.act(observations, 100), other.act(observations, 100), strict=True):
        assert np.array_equal(mine, its)


def test_seed_decides():
    random = np.random.default_rng(1)
    rollout = make_rollout(make_learner(), random)
    losses = [make_learner(seed=seed).learn(rollout)["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]

"""PQN: its returns by definition, learning, resuming."""

import io
import re

import numpy as np
import pytest
import torch

from mgdt_agents.frames import to_pixels
from mgdt_agents.online.learner import PlayedStep
from mgdt_agents.online.pqn import PQN, PQNConfig, Rollout, lambda_returns
from mgdt_envs import AtariProtocol

SMALL = PQNConfig(
    num_envs=32,
    rollout_steps=2,
    minibatches=2,
    learning_rate=1e-2,
    exploration_fraction=0.5,
    channels=(4, 4, 4),
    hidden=16,
    precision="fp32",
)


def make_rollout(learner, random):
    """Return a rollout in which action 1 is right where the frame is bright, and else action 0."""
    shape = SMALL.rollout_steps, SMALL.num_envs
    bright = random.random(shape) < 0.5
    actions = random.integers(2, size=shape)
    frames = np.where(bright, 255, 0).astype(np.uint8)
    pixels = np.broadcast_to(frames[..., None, None, None], (*shape, 18, 18, 1)).copy()
    return Rollout(
        pixels=pixels,
        actions=actions,
        rewards=(actions == bright).astype(np.float32),
        terminated=np.ones(shape, bool),
        truncated=np.zeros(shape, bool),
        is_transition=np.ones(shape, bool),
        values=np.zeros((shape[0] + 1, shape[1]), np.float32),
    )


def make_learner(**changes):
    config = PQNConfig(**SMALL_FIELDS | changes)
    protocol = AtariProtocol(stack=1, screen_size=36)
    return PQN(config, ["Pong"] * config.num_envs, 1000, protocol=protocol)


SMALL_FIELDS = {name: getattr(SMALL, name) for name in SMALL.__slots__}


def return_by_definition(rollout, step, env, discount, trace_decay):
    """Return the mean of the n-step returns, weighted with (1 - lambda) lambda^(n - 1)."""
    total, result, weight = 0.0, 0.0, 1.0
    length = len(rollout.rewards)
    for later in range(step, length):
        total += discount ** (later - step) * rollout.rewards[later, env]
        rest = discount ** (later - step + 1) * rollout.values[later + 1, env]
        if rollout.terminated[later, env]:
            return result + weight * total
        if rollout.truncated[later, env] or later == length - 1:
            return result + weight * (total + rest)
        result += weight * (1 - trace_decay) * (total + rest)
        weight *= trace_decay
    raise AssertionError


@pytest.mark.parametrize("trace_decay", [0.0, 0.65, 1.0])
def test_lambda_returns(trace_decay):
    random = np.random.default_rng(0)
    shape = 9, 6
    terminated, truncated = random.random((2, *shape)) < 0.15
    assert terminated.any()
    assert truncated.any()
    rollout = Rollout(
        pixels=np.empty(0),
        actions=np.empty(0),
        rewards=random.normal(size=shape).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
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
    learner, random = make_learner(seed=2), np.random.default_rng(1)
    losses = [learner.update(make_rollout(learner, random))["loss"] for _ in range(40)]
    assert losses[-1] < 0.02 < losses[0]
    frames = np.array([0, 255], np.uint8)[:, None, None, None].repeat(18, 1).repeat(18, 2)
    with torch.inference_mode():
        q_values = learner.network(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(q_values[:, :2], [[1, 0], [0, 1]], atol=0.3)


def test_steps_that_only_begin_episodes_are_not_learned():
    learner, random = make_learner(), np.random.default_rng(1)
    rollout = make_rollout(learner, random)
    wrong = rollout.rewards.copy()
    wrong[0] = 1e6
    begins = rollout.is_transition.copy()
    begins[0] = False
    loss = learner.update(rollout._replace(rewards=wrong, is_transition=begins))["loss"]
    assert loss < 10


def played(learner, random, **changes):
    """Return a step that the learner may have been shown."""
    num_envs = learner.num_envs
    frames = random.integers(256, size=(2, num_envs, 1, 36, 36)).astype(np.uint8)
    never = np.zeros(num_envs, bool)
    step = PlayedStep(frames[0], np.zeros(num_envs), never, never, never, ~never, frames[1])
    return step._replace(**changes)


def test_actions_are_random_at_first_and_greedy_later():
    small = {"channels": (1, 1, 1), "hidden": 2, "max_repeats": 1}
    learner = make_learner(num_envs=400, final_epsilon=0.0, **small)
    frames = np.zeros((400, 1, 36, 36), np.uint8)
    minimal, counts = np.unique(learner.act(frames), return_counts=True)
    assert minimal.tolist() == [0, 1, 3, 4, 11, 12]
    assert counts.min() > 40
    epsilons = []
    for learner.steps_played in (0, 250, 500, 1000):
        epsilons.append(learner.epsilon)
    assert epsilons == [1, 0.5, 0, 0]
    assert len(set(learner.act(frames))) == 1
    greedy, _ = learner.agent.predict(frames, deterministic=True)
    assert np.array_equal(learner.act(frames), greedy)


def test_exploring_keeps_to_an_action():
    learner = make_learner(num_envs=500, final_epsilon=0.0, max_repeats=5)
    frames = np.zeros((500, 1, 36, 36), np.uint8)
    learner.act(frames)
    lengths = np.bincount(learner.explores_for + 1)
    # Of 500 draws: n^-2 / zeta(2), and all the rest at 5.
    np.testing.assert_allclose(lengths[1:], [304, 76, 34, 19, 67], atol=35)
    first = learner.rollout.actions[0].copy()
    learner.steps_played = 1000
    (greedy,) = set(learner.values(to_pixels(frames))[1])
    keeping = learner.explores_for > 0
    learner.row = 1
    learner.act(frames)
    assert np.array_equal(learner.rollout.actions[1], np.where(keeping, first, greedy))


def test_learning_rate_falls_to_zero():
    learner, random = make_learner(), np.random.default_rng(1)
    rates = []
    while learner.steps_played < learner.steps:
        step = played(learner, random)
        learner.act(step.observations)
        if learner.learn(step):
            rates.append(learner.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [1e-2 * (1 - 64 * i / 1000) for i in range(16)])


def test_learning_rate_is_that_of_the_rollout_given():
    learner, random = make_learner(), np.random.default_rng(1)
    learner.steps_played = 96
    half = Rollout(*(part[:, :16] for part in make_rollout(learner, random)))
    learner.update(half)  # of 32 steps: 64 were played before it
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * (1 - 64 / 1000))


def test_values_are_the_network_s_after_an_update():
    learner, random = make_learner(precision="bf16"), np.random.default_rng(1)
    learner.update(make_rollout(learner, random))
    pixels = random.integers(256, size=(50, 18, 18, 1)).astype(np.uint8)
    values, _ = learner.values(pixels)
    with torch.inference_mode():
        expected = learner.network(torch.from_numpy(pixels)).amax(1)
    np.testing.assert_allclose(values, expected, rtol=0.05, atol=0.02)
    assert len(np.unique(values)) > 10  # of bf16 there are four between them


def test_what_the_learner_is_shown():
    learner, random = make_learner(num_envs=4), np.random.default_rng(2)
    rows = np.eye(4, dtype=bool)
    events = {
        "rewards": np.array([-3.0, 0, 7, 1]),
        "terminated": rows[0],
        "life_lost": rows[1],
        "truncated": rows[2],
        "is_transition": ~rows[3],
    }
    step = played(learner, random, **events)
    actions = learner.act(step.observations)
    assert learner.learn(step) is None
    rollout = learner.rollout
    assert np.array_equal(rollout.pixels[0], to_pixels(step.observations))
    assert learner.actions[rollout.actions[0]].tolist() == actions.tolist()
    assert rollout.rewards[0].tolist() == [-1, 0, 1, 1]
    assert rollout.terminated[0].tolist() == [True, True, False, False]
    assert rollout.truncated[0].tolist() == [False, False, True, False]
    assert rollout.is_transition[0].tolist() == [True, True, True, False]
    step = played(learner, random)
    learner.act(step.observations)
    expected, _ = learner.values(to_pixels(step.next_observations))
    figures = learner.learn(step)
    assert set(figures) == {"loss", "value", "epsilon"}
    assert np.array_equal(rollout.values[-1], expected)
    assert learner.steps_played == 8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learner_resumes_from_its_state(precision):
    learner, random = make_learner(precision=precision), np.random.default_rng(1)
    steps = [played(learner, random) for _ in range(6)]

    def show(learner, steps):
        shown = []
        for step in steps:
            shown.append(learner.act(step.observations).tolist())
            shown.append(learner.learn(step))
        return shown

    show(learner, steps[:2])
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = make_learner(seed=5, precision=precision)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert show(learner, steps[2:]) == show(other, steps[2:])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_envs", 0, "num_envs must be at least 1, got 0"),
        ("rollout_steps", 1, "rollout_steps must be at least 2, got 1"),
        ("minibatches", 33, "minibatches must be in [1, 32], got 33"),
        ("learning_rate", float("nan"), "learning_rate must be at least 0, got nan"),
        ("exploration_fraction", 1.5, "exploration_fraction must be in [0, 1], got 1.5"),
        ("channels", (4, 0, 4), "channels must be at least 1, got (4, 0, 4)"),
        ("seed", -1, "seed must be in [0, 21474836"),
    ],
)
def test_wrong_field(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_learner(**{field: value})


def test_seed_decides():
    random = np.random.default_rng(1)
    rollout = make_rollout(make_learner(), random)
    losses = [make_learner(seed=seed).update(rollout)["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]

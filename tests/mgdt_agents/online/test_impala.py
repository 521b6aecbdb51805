"""IMPALA: what it keeps and learns, the lag of its actors, resuming."""

import copy
import dataclasses
import doctest
import io
import re

import numpy as np
import pytest
import torch

from mgdt_agents.online import impala
from mgdt_agents.online.impala import Impala, ImpalaLearnerConfig, Unroll
from mgdt_agents.online.learner import PlayedStep
from mgdt_envs import AtariProtocol
from mgdt_envs.games import game

SMALL = ImpalaLearnerConfig(
    num_envs=16,
    unroll_length=5,
    batch_size=8,
    learning_rate=2e-3,
    rmsprop_epsilon=0.01,
    discount=0.5,
    precision="fp32",
)
PROTOCOL = AtariProtocol(stack=1, screen_size=20)
GAMES = ["Pong"] * 8 + ["Boxing"] * 8


@pytest.fixture(scope="module", autouse=True)
def _torchrl():
    pytest.importorskip("torchrl")


def make_learner(steps=8000, games=GAMES, **changes):
    config = dataclasses.replace(SMALL, **changes)
    games = games if len(games) == config.num_envs else ["Pong"] * config.num_envs
    return Impala(config, games, steps, protocol=PROTOCOL, device="cpu")


class BrightnessWorld:
    """Environments where FIRE is right in bright frames and NOOP in dark ones, 40 steps long."""

    def __init__(self, num_envs, seed=0):
        self.random, self.num_envs = np.random.default_rng(seed), num_envs
        self.ages = self.random.integers(40, size=num_envs)
        self.ends = np.zeros(num_envs, bool)
        self.observations = self.draw()

    def draw(self):
        self.bright = self.random.random(self.num_envs) < 0.5
        frames = np.where(self.bright, 200, 20).astype(np.uint8)
        return np.broadcast_to(frames[:, None, None, None], (self.num_envs, 1, 20, 20)).copy()

    def step(self, actions):
        before, begins, bright = self.observations, self.ends, self.bright
        rewards = np.where(begins, 0.0, actions == bright)
        self.ages = np.where(begins, 0, self.ages + 1)
        self.ends = (self.ages >= 40) & ~begins
        self.observations = self.draw()
        never = np.zeros(self.num_envs, bool)
        return PlayedStep(before, rewards, self.ends, never, never, ~begins, self.observations)


def mean_reward(learner, world, updates):
    """Let the learner play and learn; return what a transition brought."""
    rewards = []
    while updates:
        step = world.step(learner.act(world.observations))
        rewards.append(step.rewards[step.is_transition])
        updates -= learner.learn(step) is not None
    return float(np.concatenate(rewards).mean())


def test_example():
    # Skipped where it stands, since it needs an extra.
    text = Impala.__doc__.replace("# doctest: +SKIP", "")
    example = doctest.DocTestParser().get_doctest(text, vars(impala), "Impala", None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(
    "changes",
    [{}, {"actor_lag": 4}, {"lstm": 16}, {"rewards": "clipped"}, {"precision": "bf16"}],
    ids=str,
)
def test_learner_learns_what_is_right(changes):
    learner, world = make_learner(**changes), BrightnessWorld(16)
    before = mean_reward(learner, world, 2)
    assert before < 0.4  # of six actions and of eighteen
    mean_reward(learner, world, 60)
    assert mean_reward(learner, world, 15) > 0.85
    actions, _ = learner.agent.predict(world.observations, deterministic=True)
    assert np.mean(actions == world.bright) > 0.9


def test_actions_are_those_of_each_game():
    learner, world = make_learner(), BrightnessWorld(16)
    actions = np.array([learner.act(world.observations) for _ in range(20)])
    assert set(actions[:, :8].flat) == set(game("Pong").minimal_actions)
    assert set(actions[:, 8:].flat) <= set(game("Boxing").minimal_actions)
    assert len(set(actions[:, 8:].flat)) > 12


def weights_of(network):
    return torch.cat([parameter.detach().float().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_actors_lag(lag):
    learner, world = make_learner(actor_lag=lag), BrightnessWorld(16)
    learned = [weights_of(learner.network)]
    for _ in range(6):
        mean_reward(learner, world, 1)
        learned.append(weights_of(learner.network))
        assert torch.equal(weights_of(learner.player), learned[max(0, len(learned) - 1 - lag)])


def test_ratios_are_of_the_lag():
    learner, world = make_learner(actor_lag=0, batch_size=16), BrightnessWorld(16)
    ratios = []
    for _ in range(3):
        while (figures := learner.learn(world.step(learner.act(world.observations)))) is None:
            pass
        ratios.append(figures["ratio"])
    np.testing.assert_allclose(ratios, 1, atol=1e-5)
    stale = make_learner(actor_lag=5, batch_size=16)
    mean_reward(stale, world, 5)
    while (figures := stale.learn(world.step(stale.act(world.observations)))) is None:
        pass
    assert abs(figures["ratio"] - 1) > 1e-3


def played(learner, random, **changes):
    """Return a step that the learner may have been shown."""
    num_envs = learner.num_envs
    frames = random.integers(256, size=(2, num_envs, 1, 20, 20)).astype(np.uint8)
    never = np.zeros(num_envs, bool)
    step = PlayedStep(frames[0], np.zeros(num_envs), never, never, never, ~never, frames[1])
    return step._replace(**changes)


@pytest.mark.parametrize(
    ("life_loss_ends", "rewards"), [(True, "clipped"), (False, "clipped"), (True, "popart")]
)
def test_what_the_learner_is_shown(life_loss_ends, rewards):
    learner = make_learner(num_envs=4, batch_size=4, life_loss_ends=life_loss_ends, rewards=rewards)
    random, rows = np.random.default_rng(2), np.eye(4, dtype=bool)
    step = played(
        learner,
        random,
        rewards=np.array([-3.0, 0, 7, 1]),
        terminated=rows[0],
        life_lost=rows[1],
        truncated=rows[2],
        is_transition=~rows[3],
    )
    actions = learner.act(step.observations)
    assert learner.learn(step) is None
    unroll = learner.unroll
    assert np.array_equal(unroll.pixels[0], learner.agent.config.pixels(step.observations))
    assert unroll.actions[0].tolist() == unroll.last_actions[1].tolist() == actions.tolist()
    learned = [-1, 0, 1, 1] if rewards == "clipped" else [-3, 0, 7, 1]
    assert unroll.rewards[0].tolist() == learned
    assert unroll.last_rewards[1].tolist() == [-1, 0, 1, 1]
    assert unroll.terminated[0].tolist() == [True, life_loss_ends, False, False]
    assert unroll.truncated[0].tolist() == [False, False, True, False]
    assert unroll.is_transition[0].tolist() == [True, True, True, False]
    # After the step that only begins an episode.
    assert unroll.starts[1].tolist() == [False, False, False, True]
    for _ in range(4):
        step = played(learner, random)
        actions = learner.act(step.observations)
        figures = learner.learn(step)
    assert set(figures) == {"loss", "entropy", "value", "ratio"}
    assert np.array_equal(unroll.pixels[5], learner.agent.config.pixels(step.next_observations))
    assert unroll.last_actions[0].tolist() == actions.tolist()  # of the next unroll
    assert not unroll.starts[0].any()
    assert learner.steps_played == 20


def test_log_probabilities_are_the_player_s():
    learner, random = make_learner(lstm=8), np.random.default_rng(0)
    steps = [played(learner, random) for _ in range(5)]
    for step in steps:
        learner.act(step.observations)
        figures = learner.learn(step)
    # The player had the weights of the first gradient step's learner.
    other = make_learner(lstm=8)
    with torch.no_grad():
        outputs = other.network(
            learner.unroll.pixels,
            None,
            torch.zeros_like(learner.unroll.starts),
            torch.cat([torch.full((1, 16), -1), learner.unroll.actions]),
            learner.unroll.last_rewards * 0,
        )
    log_probs = outputs.logits.masked_fill(~other.allowed, -torch.inf).log_softmax(-1)[:5]
    expected = log_probs.gather(-1, learner.unroll.actions[..., None])[..., 0]
    torch.testing.assert_close(learner.unroll.log_probs, expected)
    assert figures is not None


def test_steps_that_only_begin_episodes_are_not_learned():
    random = np.random.default_rng(0)
    steps = [played(make_learner(), random) for _ in range(5)]
    resets = np.arange(16) % 2 == 0
    steps[1] = steps[1]._replace(terminated=resets)
    weights = []
    for reward in (0.0, 1.0):
        learner = make_learner()
        steps[2] = steps[2]._replace(is_transition=~resets, rewards=np.where(resets, reward, 0.0))
        for step in steps:
            learner.act(step.observations)
            learner.learn(step)
        weights.append(weights_of(learner.network))
    assert torch.equal(*weights)


def test_figures_of_a_batch_that_only_begins_an_episode():
    learner, random = (
        make_learner(num_envs=2, unroll_length=1, batch_size=1),
        np.random.default_rng(0),
    )
    step = played(learner, random, is_transition=np.array([False, True]))
    learner.act(step.observations)
    assert np.isfinite(list(learner.learn(step).values())).all()


def test_popart_has_the_scale_of_each_game():
    learner = make_learner(rewards="popart", popart_rate=0.1)
    random = np.random.default_rng(0)
    rewards = np.where(np.array(GAMES) == "Pong", 1.0, 500.0)
    for _ in range(200):
        step = played(learner, random)
        step = step._replace(rewards=rewards * random.normal(size=16), terminated=~step.terminated)
        learner.act(step.observations)
        learner.learn(step)
    assert learner.games == ("Pong", "Boxing")
    np.testing.assert_allclose(learner.network.value.scale, [1, 500], rtol=0.3)
    assert learner.agent.config.value_games == 2


def test_learning_rate_falls_to_zero():
    learner, random = make_learner(steps=800), np.random.default_rng(1)
    rates = []
    while learner.steps_played < learner.steps:
        step = played(learner, random)
        learner.act(step.observations)
        if learner.learn(step):
            rates.append(learner.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [2e-3 * (1 - 80 * i / 800) for i in range(10)])


def test_learning_rate_is_that_of_the_unroll_given():
    learner = make_learner(steps=800)
    unroll = learner.unroll
    short = Unroll(*(part[: len(part) - 2] for part in unroll))  # 3 steps of 16 environments
    learner.steps_played = 128
    learner.update(short, learner.first_memory)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * (1 - 80 / 800))


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bf16", "actor_lag": 3}, {"lstm": 8, "rewards": "clipped"}],
    ids=str,
)
def test_learner_resumes_from_its_state(changes):
    learner, world = make_learner(**changes), BrightnessWorld(16)

    def play(learner, world):
        shown = []
        for _ in range(25):
            step = world.step(learner.act(world.observations))
            shown += [learner.unroll.actions.tolist(), learner.learn(step)]
        return shown

    play(learner, world)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other, same_world = make_learner(seed=5, **changes), copy.deepcopy(world)
    other.load_state_dict(torch.load(file, weights_only=True))
    expected, resumed = play(learner, world), play(other, same_world)
    assert resumed[9:] == expected[9:]  # before, the unroll holds what is overwritten
    assert torch.equal(weights_of(other.network), weights_of(learner.network))


@pytest.mark.parametrize(
    "changes", [{"lstm": 8}, {"rewards": "clipped"}, {"size": "deep"}], ids=str
)
def test_state_of_another_network(changes):
    state = make_learner(**changes).state_dict()
    with pytest.raises(
        ValueError, match="The state is of another network; expected that of Impala"
    ):
        make_learner().load_state_dict(state)


def test_games_of_another_protocol():
    with pytest.raises(ValueError, match=r"shape \(16, 1, 20, 20\), got \(16, 4, 84, 84\)\. All"):
        make_learner().act(np.zeros((16, 4, 84, 84), np.uint8))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_envs", 0, "num_envs must be at least 1, got 0"),
        ("batch_size", 17, "batch_size must be in [1, 16], got 17"),
        ("actor_lag", -1, "actor_lag must be at least 0, got -1"),
        ("learning_rate", float("nan"), "learning_rate must be at least 0, got nan"),
        ("discount", 1.5, "discount must be in [0, 1], got 1.5"),
        ("rewards", "raw", "rewards must be 'clipped' or 'popart', got 'raw'"),
        ("size", "smal", "Unknown size 'smal' of impala. Did you mean 'small'"),
        ("seed", -1, "seed must be in [0, 21474836"),
    ],
)
def test_wrong_field(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_learner(**{field: value})


def test_seed_decides():
    results = []
    for seed in (0, 0, 1):
        learner = make_learner(seed=seed)
        mean_reward(learner, BrightnessWorld(16), 2)
        results.append(weights_of(learner.network))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])

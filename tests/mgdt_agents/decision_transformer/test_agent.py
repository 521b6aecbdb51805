"""Rules, distributions and maps of attention."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from mgdt_agents import load_agent
from mgdt_agents.behavioral_cloning import BehavioralCloningAgent
from mgdt_agents.decision_transformer import (
    PRESETS,
    ActingRule,
    BestOfSamples,
    DecisionTransformerAgent,
    DecisionTransformerConfig,
    ExpertReturn,
    Greedy,
    PredictedReturn,
    TargetReturn,
)
from mgdt_agents.decision_transformer.rules import GUIDANCE_LIMIT
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.random_streams import RowStreams, sample
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_envs import AtariProtocol
from tests.mgdt_agents.decision_transformer.plain import PlainDecisionTransformer

TINY = PRESETS["tiny"]


RULES = [ExpertReturn(), BestOfSamples(), TargetReturn(target=7), Greedy(), PredictedReturn()]


def make_agent(return_tokens="single", **options):
    config = dataclasses.replace(TINY, return_tokens=return_tokens)
    torch.manual_seed(0)
    agent = (BehavioralCloningAgent if return_tokens == "none" else DecisionTransformerAgent)(
        config, device="cpu", **options
    )
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.mul_(3)  # so that returns matter to actions
    return agent


def observations(rows):
    return np.random.default_rng(0).integers(256, size=(rows, 4, 84, 84), dtype=np.uint8)


def history(agent, rows=3):
    """Return the state after two steps that brought rewards."""
    _, state = agent.predict(observations(rows))
    _, state = agent.predict(observations(rows), state, reward=np.array([1.0, 0.0, -5.0])[:rows])
    return state


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("return_tokens", ["single", "every", "none"])
def test_every_rule_with_every_model(return_tokens, rule):
    agent = make_agent(return_tokens, rule=rule)
    rewards = np.array([0.0, 2.0, 0.0])
    plain = PlainDecisionTransformer(agent.config).eval()
    plain.parts.load_state_dict(agent.model.state_dict())
    state = history(agent)
    actions, after = agent.predict(observations(3), state, deterministic=True, reward=rewards)
    # Before the episode's two steps: nothing. The current action and reward are not seen.
    past = np.concatenate([state[0], np.zeros((3, 1), int)], 1)
    signs = np.array([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 3, 0, 0]])[:, 1:]
    window = [torch.from_numpy(part) for part in (observations(3), past, signs)]

    # What is left of the target at each step: rewards count as 1, and the first step as the last
    # before the episode.
    left = iter(torch.tensor([[7, 7, 7], [7, 7, 7], [6, 7, 8], [6, 6, 8]]) + 20)

    def choose(logits):
        if isinstance(rule, TargetReturn):
            return next(left)
        return rule.return_logits(logits).argmax(-1)

    logits, *_ = plain.decide(*window, choose)
    np.testing.assert_array_equal(actions, rule.action_logits(logits).argmax(-1))
    np.testing.assert_array_equal(after[0], np.c_[state[0][:, 1:], actions])
    distribution = agent.action_distribution(observations(3), state, reward=rewards)
    expected = rule.action_logits(logits).softmax(-1)
    np.testing.assert_allclose(distribution, expected, atol=1e-5)


def test_target_is_reduced_by_the_rewards_that_come():
    agent = make_agent(rule=TargetReturn(target=10))
    state, returns = None, []
    for reward, starts in [
        (0, False),
        (3.0, False),
        (-1, False),
        (0, False),
        (1, False),
        (1, True),
    ]:
        _, state = agent.predict(
            observations(2), state, np.array([starts, False]), reward=np.array([reward, 0.5])
        )
        returns.append(state[3].tolist())
    assert [row[0] for row in returns] == [
        [10, 10, 10, 10],
        [10, 10, 10, 9],
        [10, 10, 9, 10],
        [10, 9, 10, 10],
        [9, 10, 10, 9],
        [10, 10, 10, 10],
    ]
    assert [row[1][-1] for row in returns] == [10, 9.5, 9, 8.5, 8, 7.5]


def test_one_step_is_a_window_too():
    config = dataclasses.replace(TINY, steps=1)
    agent = DecisionTransformerAgent(config, protocol=AtariProtocol(stack=1), device="cpu")
    state = None
    for _ in range(2):
        _, state = agent.predict(observations(2)[:, :1], state, reward=np.ones(2))
        state = agent.with_actions(state, np.array([2, 3]))
    assert [part.shape for part in state] == [(2, 0)] * 3


def test_state_of_another_rule():
    agent = make_agent()
    state = history(agent)
    agent.rule = TargetReturn(target=10)
    shapes = r"\[\(n, 3\), \(n, 3\), \(n, 0\), \(n, 4\)\]"
    message = rf"of this dt agent: expected arrays of shapes {shapes}, got "
    with pytest.raises(ValueError, match=message + r"\[\(3, 3\), \(3, 3\), \(3, 0\)\]"):
        agent.predict(observations(3), state)
    agent.predict(observations(3), state, np.ones(3, bool))


@pytest.mark.parametrize("return_tokens", ["single", "every", "none"])
def test_rows_draw_the_same_in_any_company(return_tokens):
    agent = make_agent(return_tokens)
    batch = observations(4)
    stream = np.array([[5, 0], [6, 0], [5, 1], [7, 3]])
    together, _ = agent.predict(batch, stream=stream)
    alone = [int(agent.predict(batch[[row]], stream=stream[[row]])[0][0]) for row in (3, 1, 0, 2)]
    assert together[[3, 1, 0, 2]].tolist() == alone
    with pytest.raises(ValueError, match=r"stream of shape \(4, 2\), got \(4,\)"):
        agent.predict(batch, stream=np.arange(4))


@pytest.mark.parametrize("return_tokens", ["single", "every"])
@torch.no_grad()
def test_return_distribution_is_the_model_s(return_tokens):
    for rule in (PredictedReturn(), TargetReturn(target=7)):
        agent = make_agent(return_tokens, rule=rule)
        batch = observations(2)
        found = agent.return_distribution(batch)
        assert (found.shape, found.dtype) == ((2, 121), np.float32)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(agent.return_distribution(batch[1]), found[1], atol=1e-5)
        plain = PlainDecisionTransformer(agent.config).eval()
        plain.parts.load_state_dict(agent.model.state_dict())
        zeros = torch.zeros(2, 4, dtype=torch.int64)
        _, logits, _ = plain.decide(
            torch.from_numpy(batch),
            zeros,
            zeros,
            lambda logits, rule=rule: (
                torch.full((2,), 27) if isinstance(rule, TargetReturn) else logits.argmax(-1)
            ),
        )
        np.testing.assert_allclose(found, logits[:, -1].softmax(-1), atol=1e-5)


@torch.no_grad()
def test_predicted_returns_are_those_before_a_return_is_chosen():
    for return_tokens in ("single", "every"):
        agent = make_agent(return_tokens)
        assert agent.predicted_returns is None
        batch = observations(2)
        agent.predict(batch)
        zeros = torch.zeros(2, 4, dtype=torch.int64)
        logits = agent.model(torch.from_numpy(batch), zeros, zeros, zeros)["return"][:, 0]
        np.testing.assert_allclose(agent.predicted_returns, logits.softmax(-1), atol=1e-5)
        agent.rule = TargetReturn(target=7)
        agent.predict(batch)
        assert agent.predicted_returns is None


def test_distributions_draw_nothing_and_take_what_predict_takes():
    agent, other = make_agent(), make_agent()
    batch = observations(3)
    for look in (agent.return_distribution, agent.action_distribution, agent.attention_maps):
        look(batch)
        with pytest.raises(ValueError, match=r"expected \(4, 84, 84\)"):
            look(batch[0, 0])
    np.testing.assert_array_equal(agent.predict(batch)[0], other.predict(batch)[0])
    with pytest.raises(ValueError, match="bc has return_tokens='none'"):
        make_agent("none").return_distribution(batch)


def test_actions_are_drawn_from_the_distribution():
    # With a given return, the action's is the only draw.
    agent = make_agent(rule=TargetReturn(target=30))
    batch = observations(40)
    stream = np.stack([np.arange(40), np.full(40, 9)], 1)
    agent.set_random_seed(3)
    drawn, _ = agent.predict(batch, stream=stream)
    logits = torch.from_numpy(np.log(agent.action_distribution(batch)))
    expected = sample(logits, RowStreams(3, np.arange(40), np.full(40, 9)))
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("config", "places"),
    [(TINY, (1, 1)), (DecisionTransformerConfig(layers=2, width=128, patch_size=21), (4, 4))],
    ids=["conv", "patch"],
)
def test_attention_maps(config, places):
    agent = DecisionTransformerAgent(config, device="cpu")
    maps = agent.attention_maps(observations(2))
    assert maps.shape == (2, config.layers, config.heads, 4, *places)
    np.testing.assert_allclose(agent.attention_maps(observations(2)[1]), maps[1], atol=1e-5)
    assert (maps >= 0).all()
    assert (maps.sum((-1, -2, -3)) <= 1).all()


def test_rule_is_saved_and_may_be_replaced(tmp_path):
    agent = make_agent(rule=ExpertReturn(kappa=3.0))
    agent.save(tmp_path)
    assert load_agent(tmp_path, device="cpu").rule == ExpertReturn(kappa=3.0)
    replaced = load_agent(tmp_path, device="cpu", rule=BestOfSamples())
    assert replaced.rule == BestOfSamples()
    content = json.loads((tmp_path / "config.json").read_text())
    # As agents were saved that knew no rules, or of a rule of one's own.
    del content["rule"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_agent(tmp_path, device="cpu").rule == ExpertReturn()
    content["rule"] = {"name": "ExpertRetrun"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(AgentLoadError, match="Did you mean 'ExpertReturn'"):
        load_agent(tmp_path)


def test_rules_of_one_s_own():
    class NoOp(ActingRule):
        def action_logits(self, logits_BA):
            return torch.where(torch.arange(18) == 0, logits_BA, -torch.inf)

    agent = make_agent(rule=NoOp())
    assert agent.predict(observations(4))[0].tolist() == [0] * 4
    assert agent._options_to_save() == {}
    with pytest.raises(TypeError, match=r"such as ExpertReturn\(.*kappa=10.0\), got 'greedy'"):
        make_agent(rule="greedy")


def test_a_rule_remembers_what_it_needs():
    class CountsSteps(ActingRule):
        """Aims at the number of the step."""

        def memory(self, steps):
            return (1,)

        def remember(self, memory, starts, rewards):
            return (np.where(starts[:, None], 0, memory[0] + 1),)

        def given_returns(self, memory):
            given.append(memory[0].repeat(4, 1))
            return given[-1]

    given = []
    agent = make_agent(rule=CountsSteps())
    state = None
    for starts in ([True, True], [False, False], [False, True]):
        _, state = agent.predict(observations(2), state, np.array(starts))
    assert [part.shape for part in state] == [(2, 3), (2, 3), (2, 0), (2, 1)]
    assert [rows[:, 0].tolist() for rows in given] == [[0, 0], [1, 1], [2, 0]]


def test_model_and_protocol_must_agree() -> None:
    with pytest.raises(ValueError, match="reads 2 frames of 84 pixels, the protocol gives 4 of 84"):
        DecisionTransformerAgent(dataclasses.replace(TINY, steps=2))


@pytest.mark.parametrize("return_tokens", ["single", "every"])
def test_guidance_favors_what_is_likelier_under_the_returns_aimed_at(return_tokens):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, return_tokens=return_tokens)
    agent = DecisionTransformerAgent(config, device="cpu")
    frames = observations(3)

    def distribution(**options):
        agent.rule = TargetReturn(**options)
        return agent.action_distribution(frames)

    least, aimed = distribution(target=config.min_return), distribution(target=50)
    guided = distribution(target=50, guidance=2.0, action_temperature=0.5)
    gain = np.clip(np.log(aimed / least), -GUIDANCE_LIMIT, GUIDANCE_LIMIT)
    expected = (aimed * np.exp(2 * gain)) ** 2
    np.testing.assert_allclose(guided, expected / expected.sum(-1, keepdims=True), rtol=1e-4)
    assert np.abs(guided - aimed**2 / (aimed**2).sum(-1, keepdims=True)).max() > 1e-3


def test_guidance_does_nothing_without_return_tokens():
    torch.manual_seed(0)
    agent = BehavioralCloningAgent("tiny", device="cpu")
    frames = observations(3)
    expected = agent.action_distribution(frames)
    agent.rule = dataclasses.replace(agent.rule, guidance=3.0)
    np.testing.assert_array_equal(agent.action_distribution(frames), expected)


@pytest.mark.parametrize("return_tokens", ["single", "every"])
@torch.no_grad()
def test_return_outside_of_attention(return_tokens):
    config = dataclasses.replace(TINY, return_tokens=return_tokens, return_at_action=True)
    torch.manual_seed(0)
    agent = DecisionTransformerAgent(config, device="cpu", rule=TargetReturn(target=7))
    model = agent.model
    with torch.no_grad():
        for block in model.blocks:
            block.attention_output.weight.zero_()  # attention carries nothing
    frames = observations(2)
    near = agent.action_distribution(frames)
    agent.rule = TargetReturn(target=40)
    far = agent.action_distribution(frames)
    assert np.abs(near - far).max() > 1e-3
    # The decision, computed in stretches, is the whole window's.
    zeros = torch.zeros(2, 4, dtype=torch.int64)
    logits = model(torch.from_numpy(frames), zeros, zeros, zeros + 60)["action"][:, -1]
    np.testing.assert_allclose(far, logits.softmax(-1), atol=1e-5)
    with pytest.raises(ValueError, match="return_at_action needs return tokens"):
        dataclasses.replace(config, return_tokens="none")


def test_windows_longer_than_the_observation_are_remembered():
    config = dataclasses.replace(TINY, steps=6, return_tokens="every")
    torch.manual_seed(0)
    agent = DecisionTransformerAgent(config, device="cpu", rule=Greedy())
    assert agent.memory == (5, 5, 2 * 84 * 84)
    seen = []
    agent.model.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    frames = np.random.default_rng(1).integers(256, size=(2, 9, 84, 84), dtype=np.uint8)
    padded = np.pad(frames, ((0, 0), (6, 0), (0, 0), (0, 0)))
    state = None
    for step in range(9):
        # Row 1 begins anew at step 5; what the environment shows it then is padded with zeros.
        starts = np.array([step == 0, step in (0, 5)])
        row = padded.copy()
        if step >= 5:
            row[1, :11] = 0
        observation = row[:, step + 3 : step + 7]
        _, state = agent.predict(observation, state, starts)
        np.testing.assert_array_equal(seen[-1], row[:, step + 1 : step + 7])
    with pytest.raises(ValueError, match="reads 3 frames of 84 pixels, the protocol gives 4"):
        DecisionTransformerAgent(dataclasses.replace(TINY, steps=3), device="cpu")


def test_small_agents_sharpen_their_actions_and_published_ones_do_not():
    for kind, size in itertools.product(("dt", "bc"), ("small", "10m")):
        with torch.device("meta"):
            rule = NETWORK_AGENTS[kind](size, device="meta").rule
        assert rule.action_temperature == (0.5 if size == "small" else 1.0), (kind, size)

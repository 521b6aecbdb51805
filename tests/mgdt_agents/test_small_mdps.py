"""What the agents learn of small problems, beside the exact answers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgdt_agents import NetworkAgent
from mgdt_agents.behavioral_cloning import BehavioralCloningAgent
from mgdt_agents.convolutional_cloning import (
    ConvolutionalCloningAgent,
)
from mgdt_agents.decision_transformer import (
    DecisionTransformerAgent,
    DecisionTransformerConfig,
    ExpertReturn,
    PredictedReturn,
    ValueTransformerAgent,
    ValueTransformerConfig,
)
from mgdt_agents.q_learning import CQLAgent, CQLConfig, losses
from mgdt_agents.q_learning.networks import ImpalaConfig
from tests.mgdt_agents.small_mdps import (
    ACTIONS,
    CHAIN,
    GAMBLE,
    GAME,
    SIDE,
    TREE,
    WAIT,
    Problem,
    Row,
    pictures,
    protocol,
)

DISCOUNT = 0.9
TRANSFORMER: dict[str, Any] = {
    "layers": 1,
    "width": 64,
    "steps": 1,
    "frame_size": 12,
    "patch_size": 12,
    "dropout": 0.0,
}
IMPALA: dict[str, Any] = {
    "stages": (8,),
    "blocks": 1,
    "hidden": 32,
    "frame_stack": 1,
    "frame_size": 12,
}
CQL = CQLConfig(
    **IMPALA, max_value=2.0, n_steps=1, discount=DISCOUNT, target_period=10, exploration=0.0
)
DTQ = ValueTransformerConfig(
    **TRANSFORMER,
    max_value=2.0,
    n_steps=1,
    value_discount=DISCOUNT,
    target_period=10,
    likely=0.0,
)
DT = DecisionTransformerConfig(**TRANSFORMER, min_return=-1, max_return=2)
UNIFORM = np.full((9, 3), 1 / 3)


@pytest.fixture
def record(write_store, tmp_path):
    """Return a function that writes a store of a policy's play of a problem."""

    def write(problem: Problem, policy: np.ndarray, episodes: int) -> Path:
        played = problem.record(policy, episodes)
        rows = [Row(*episode) for episode in played]
        return write_store(tmp_path / "store", GAME, rows, stack=1, screen_size=SIDE)

    return write


def learned(
    agent_class: type[NetworkAgent],
    config: Any,
    store: Path,
    steps: int,
    *,
    learning_rate: float = 5e-3,
) -> Any:
    torch.manual_seed(0)
    agent = agent_class(config, protocol=protocol(), device="cpu")
    return agent.learn(
        [str(store)],
        steps=steps,
        batch_size=32,
        optimizer="adamw",
        learning_rate=learning_rate,
        warmup_steps=20,
        decay="linear",
    )


def values_of(agent: Any, states: int) -> np.ndarray:
    """Return `(states, 3)` what the agent thinks the actions are worth."""
    frames = torch.from_numpy(pictures(range(states))[:, None])
    nothing = torch.zeros(states, 1, dtype=torch.int64)
    with torch.no_grad():
        if isinstance(agent, CQLAgent):
            logits = agent.model(frames)
        else:
            logits = agent.model(frames, nothing, nothing)["value"][:, 0]
    values = losses.expected_values(logits, agent.config.max_value)
    return values.numpy()[:, list(ACTIONS)]


def policy_of(agent: Any, states: int) -> np.ndarray:
    """Return `(states, 3)` the probabilities of the agent's actions."""
    return agent.action_distribution(pictures(range(states))[:, None])[:, list(ACTIONS)]


@pytest.mark.parametrize(
    ("agent_class", "config"),
    [
        pytest.param(CQLAgent, CQL, id="cql"),
        pytest.param(
            CQLAgent,
            dataclasses.replace(CQL, loss="hl_gauss"),
            id="cql hl_gauss",
            marks=pytest.mark.slow,
        ),
        pytest.param(ValueTransformerAgent, DTQ, id="dtq"),
        pytest.param(
            ValueTransformerAgent,
            dataclasses.replace(DTQ, value_loss="c51"),
            id="dtq c51",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_values_are_those_of_dynamic_programming(agent_class, config, record):
    store = record(CHAIN, UNIFORM, 300)
    exact = CHAIN.q_values(DISCOUNT)
    config = dataclasses.replace(config, conservative_weight=0.0)
    found = values_of(learned(agent_class, config, store, 400), len(exact))
    np.testing.assert_allclose(found, exact, atol=0.06)
    np.testing.assert_array_equal(found.argmax(1), exact.argmax(1))


@pytest.mark.parametrize(
    ("agent_class", "config"), [(CQLAgent, CQL), (ValueTransformerAgent, DTQ)], ids=["cql", "dtq"]
)
def test_conservative_values_lie_below(agent_class, config, record):
    store = record(CHAIN, UNIFORM, 300)
    exact = CHAIN.q_values(DISCOUNT)
    config = dataclasses.replace(config, conservative_weight=1.0)
    found = values_of(learned(agent_class, config, store, 200), len(exact))
    # Of the policy that the values make, as Kumar et al. 2020, theorem 3.2, has it.
    policy = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    assert ((policy * found).sum(1) < (policy * exact).sum(1)).all()


@pytest.mark.parametrize(
    ("agent_class", "config"),
    [
        (
            BehavioralCloningAgent,
            DecisionTransformerConfig(**TRANSFORMER, return_tokens="none"),
        ),
        (ConvolutionalCloningAgent, ImpalaConfig(**IMPALA)),
    ],
    ids=["bc", "bc_conv"],
)
def test_cloning_recovers_the_behavior(agent_class, config, record):
    policy = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.05, 0.9, 0.05]])
    agent = learned(agent_class, config, record(CHAIN, policy, 400), 250)
    if isinstance(agent, ConvolutionalCloningAgent):
        with torch.no_grad():
            logits = agent.model(torch.from_numpy(pictures(range(4))[:, None]))[..., 0]
        found = logits.softmax(-1).numpy()[:, list(ACTIONS)]
    else:
        found = policy_of(agent, 4)
    np.testing.assert_allclose(found, policy, atol=0.06)


@pytest.mark.parametrize("definition", ["to_go", "episode_rank", "rank_and_to_go"])
def test_dt_with_a_high_return_is_better_than_the_behavior(definition, record):
    store = record(TREE, UNIFORM, 400)
    config = dataclasses.replace(DT, return_definition=definition, rank_bins=10)
    agent = learned(DecisionTransformerAgent, config, store, 300, learning_rate=2e-3)
    agent.rule = ExpertReturn(kappa=9.0)
    assert TREE.value(UNIFORM[:4]) == pytest.approx(1 / 3)  # of 2
    assert TREE.value(policy_of(agent, 4)) > 1.5


def test_luck_misleads_dt_and_not_the_value_agent(record):
    store = record(GAMBLE, UNIFORM, 500)
    dt = learned(DecisionTransformerAgent, DT, store, 300)
    dt.rule = ExpertReturn(kappa=9.0)
    assert policy_of(dt, 3)[0, 1] > 0.9  # gambles: only those who did ever got 2
    assert GAMBLE.value(policy_of(dt, 3)) < -0.2
    dtq = learned(ValueTransformerAgent, dataclasses.replace(DTQ, likely=0.1), store, 300)
    dtq.rule = PredictedReturn()  # the likelihoods as they are, not sharpened
    dtq.beta = 10.0
    assert policy_of(dtq, 3)[0, 2] > 0.9
    assert GAMBLE.value(policy_of(dtq, 3)) > 0.8
    dtq.beta = 0.0
    np.testing.assert_allclose(policy_of(dtq, 3)[0], 1 / 3, atol=0.08)


def test_the_value_agent_does_not_wait_for_ever(record):
    # Waiting leads to waiting, so that an error of its value feeds itself; serving is rare.
    policy = np.array([[0.95, 0.02, 0.03], [1 / 3] * 3])
    config = dataclasses.replace(DTQ, likely=0.1, max_value=10.0)
    agent = learned(ValueTransformerAgent, config, record(WAIT, policy, 300), 300)
    agent.beta = 0.0
    assert policy_of(agent, 2)[0, 1] < 0.06
    agent.beta = 3.0
    assert policy_of(agent, 2)[0, 1] > 0.9


def test_strong_conservatism_repeats_the_most_frequent_action(record):
    # The best action is rarer than one that is worth nearly as much.
    policy = np.array([[0.7, 0.2, 0.1]] * 4)
    store = record(CHAIN, policy, 300)
    exact = CHAIN.q_values(DISCOUNT)
    for weight, expected in ((1.0, policy), (0.02, exact)):
        config = dataclasses.replace(CQL, conservative_weight=weight)
        found = values_of(learned(CQLAgent, config, store, 300), len(exact))
        np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))

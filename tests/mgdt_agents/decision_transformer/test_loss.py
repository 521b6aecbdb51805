"""The loss against its definition, and what return tokens say."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mgdt_agents.behavioral_cloning import BehavioralCloningAgent
from mgdt_agents.decision_transformer import (
    PRESETS,
    DecisionTransformerAgent,
    ExpertReturn,
    TargetReturn,
)
from mgdt_agents.replay import WindowBatch, WindowSampler

TINY = PRESETS["tiny"]


def make_batch(seed: int = 0) -> WindowBatch:
    rng = np.random.default_rng(seed)
    shape = (6, 4)
    valid = np.ones(shape, bool)
    valid[0, :3] = False  # an episode's first step
    return WindowBatch(
        frames=rng.integers(256, size=(*shape, 84, 84), dtype=np.uint8) * valid[..., None, None],
        actions=rng.integers(18, size=shape) * valid,
        rewards=(rng.integers(-2, 3, size=shape) * valid).astype(np.float32),
        returns_to_go=rng.integers(-30, 120, size=shape).astype(np.float32),
        terminated=np.zeros(shape, bool),
        valid=valid,
        games=np.zeros(6, np.int64),
        episode_ranks=rng.random(6, np.float32),
    )


@pytest.mark.parametrize("return_tokens", ["single", "every", "none"])
@pytest.mark.parametrize("loss_weights", ["equal", "vocabulary"])
@torch.no_grad()
def test_loss_is_its_definition(return_tokens, loss_weights) -> None:
    config = dataclasses.replace(
        TINY, return_tokens=return_tokens, loss_weights=loss_weights, dropout=0.0
    )
    agent = DecisionTransformerAgent(config, device="cpu")
    batch = make_batch()
    tokens = np.select([batch.rewards > 0, batch.rewards < 0], [1, 3], 0)
    inputs = [torch.from_numpy(x) for x in (batch.frames, batch.actions, tokens)]
    # Lee et al. 2022, footnote 2: in -20..100, in bins of 1.
    bins = torch.from_numpy(batch.returns_to_go.clip(-20, 100).astype(int) + 20)
    logits = agent.model(*inputs, *([] if return_tokens == "none" else [bins]))

    def mean_cross_entropy(name: str, targets: np.ndarray, rows: np.ndarray) -> float:
        logs = F.log_softmax(logits[name], -1).numpy()
        losses = -np.take_along_axis(logs, np.asarray(targets)[..., None], -1)[..., 0]
        return losses[rows].mean()

    terms = {
        18: mean_cross_entropy("action", batch.actions, batch.valid),
        4: mean_cross_entropy("reward", tokens, batch.valid),
    }
    if return_tokens != "none":
        # Padded steps count: it is there that an episode's first returns are predicted from.
        first = np.zeros((6, 4), bool)
        first[:, : 1 if return_tokens == "single" else 4] = True
        terms[121] = mean_cross_entropy("return", bins.numpy(), first)
    weights = [1 / size if loss_weights == "vocabulary" else 1 for size in terms]
    expected = np.mean(
        [weight * term for weight, term in zip(weights, terms.values(), strict=True)]
    )
    assert agent.loss(batch)[0].item() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_weights_of_the_loss():
    weights = {"return_weight": 2.0, "action_weight": 0.5, "reward_weight": 0.0}
    agent = DecisionTransformerAgent(
        dataclasses.replace(TINY, dropout=0.0, **weights), device="cpu"
    )
    loss, terms = agent.loss(make_batch())
    expected = (2 * terms["return_loss"] + 0.5 * terms["action_loss"]) / 3
    assert loss.item() == pytest.approx(expected.item())


def test_the_release_s_120_bins_hold_the_return_of_100():
    agent = DecisionTransformerAgent(dataclasses.replace(TINY, max_return=99), device="cpu")
    batch = make_batch()
    batch.returns_to_go[:] = 100
    assert agent.model.return_head.out_features == 120
    assert torch.isfinite(agent.loss(batch)[0])


@pytest.mark.parametrize("return_tokens", ["single", "every"])
@torch.no_grad()
def test_discounted_returns_and_their_bins(return_tokens):
    config = dataclasses.replace(
        TINY, return_tokens=return_tokens, discount=0.5, min_return=-1, max_return=2, return_bin=0.5
    )
    agent = DecisionTransformerAgent(config, device="cpu")
    agent.model.eval()  # no dropout
    assert (config.returns, agent.windows) == (7, {"steps": 4, "discount": 0.5})
    batch = make_batch()
    batch.returns_to_go[:] = np.array([-3.0, -0.3, 0.26, 1.9])
    expected = batch._replace(returns_to_go=np.array([-1.0, -0.5, 0.5, 2.0])[None].repeat(6, 0))
    assert agent.loss(batch)[0] == agent.loss(expected)[0]
    assert agent._return_bins(batch)[0].tolist() == [0, 1, 3, 6]
    assert agent.return_distribution(make_batch().frames[0]).shape == (7,)


@torch.no_grad()
def test_episode_ranks_are_return_tokens():
    config = dataclasses.replace(TINY, return_tokens="every", return_definition="episode_rank")
    agent = DecisionTransformerAgent(config, device="cpu")
    agent.model.eval()  # no dropout
    rule = ExpertReturn(kappa=100.0, action_temperature=0.5, guidance=1.0)
    assert (config.returns, agent.rule) == (20, rule)
    batch = make_batch()._replace(episode_ranks=np.array([0, 0.049, 0.05, 0.5, 0.95, 0.999]))
    bins = agent._return_bins(batch)
    assert bins[:, 0].tolist() == [0, 0, 1, 10, 19, 19]
    assert (bins == bins[:, :1]).all()
    other = batch._replace(returns_to_go=batch.returns_to_go * 0)
    assert agent.loss(batch)[0] == agent.loss(other)[0]
    agent.predict(make_batch().frames[:2])
    agent.rule = TargetReturn(target=3)
    with pytest.raises(ValueError, match=r"gives returns to go, and .* are episode ranks"):
        agent.predict(make_batch().frames[:2])


@torch.no_grad()
def test_ranks_and_returns_to_go_together():
    pairs = {"return_definition": "rank_and_to_go", "rank_bins": 5, "min_return": -1}
    config = dataclasses.replace(TINY, return_tokens="every", max_return=2, **pairs)
    agent = DecisionTransformerAgent(config, device="cpu")
    agent.model.eval()  # no dropout
    assert (config.returns, config.return_range, agent.rule.kappa) == (20, (0.0, 1.0), 100.0)
    batch = make_batch()._replace(episode_ranks=np.array([0, 0.19, 0.2, 0.5, 0.8, 0.999]))
    batch.returns_to_go[:] = np.array([-3.0, -0.3, 1.1, 2.0])
    to_go, ranks = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 2, 4, 4])
    assert agent._return_bins(batch).tolist() == (4 * ranks[:, None] + to_go).tolist()
    assert agent.return_distribution(make_batch().frames[0]).shape == (20,)
    # Guidance is away from the lowest rank, at the same return to go.
    decided = []
    decide = agent.model.acting_logits
    agent.model.acting_logits = lambda x, returns: decided.append(returns) or decide(x, returns)
    agent.predict(make_batch().frames[:2])
    aimed_at, least = decided
    assert (aimed_at >= 4).any()
    assert torch.equal(least, aimed_at % 4)


@pytest.mark.parametrize("kind", [DecisionTransformerAgent, BehavioralCloningAgent])
def test_without_action_tokens_what_was_done_is_not_seen(kind):
    config = dataclasses.replace(kind.presets["small"], action_tokens=False)
    torch.manual_seed(0)
    agent = kind(config, device="cpu")
    frames = make_batch().frames[:2]
    _, state = agent.predict(frames)
    expected = agent.action_distribution(frames, state)
    others = agent.with_actions(state, np.array([7, 11]))
    np.testing.assert_array_equal(agent.action_distribution(frames, others), expected)
    # Actions and rewards are learned all the same.
    loss, terms = agent.loss(make_batch())
    loss.backward()
    assert {"action_loss", "reward_loss"} <= set(terms)
    assert all(weight.grad.any() for weight in agent.model.parameters())


def test_returns_that_the_bins_cannot_hold(make_random_episodes, write_store, tmp_path):
    episodes = [
        episode._replace(rewards=np.ones(300)) for episode in make_random_episodes([300] * 4)
    ]
    sampler = WindowSampler([write_store(tmp_path / "Pong", "Pong", episodes)])
    agent = DecisionTransformerAgent("tiny", device="cpu")
    message = r"% of the replay's returns, 4?\d to 300, are outside of the bins, -20 to 100: widen"
    with pytest.raises(ValueError, match=message):
        agent.begin_training(sampler)
    ranks = dataclasses.replace(TINY, return_definition="episode_rank")
    DecisionTransformerAgent(ranks, device="cpu").begin_training(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 0.0}, r"discount must be in \(0, 1\], got 0.0"),
        ({"return_bin": 0}, "return_bin must be above 0"),
        (
            {"return_definition": "best"},
            "return_definition must be 'to_go', 'episode_rank' or 'rank_and_to_go'",
        ),
    ],
)
def test_return_definitions_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **options)

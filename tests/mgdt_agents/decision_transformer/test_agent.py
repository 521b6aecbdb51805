"""The loss against the release's and against its definition; how returns are chosen."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mgdt_agents.decision_transformer import (
    PRESETS,
    DecisionTransformerAgent,
    DecisionTransformerConfig,
    ExpertReturn,
)
from mgdt_agents.decision_transformer.inference import sample
from mgdt_agents.replay import WindowBatch

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
        returns_to_go=rng.integers(-20, 101, size=shape),
        terminated=np.zeros(shape, bool),
        valid=valid,
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
    bins = torch.from_numpy(batch.returns_to_go + 20)
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


def test_expert_return_is_tilted_by_kappa() -> None:
    # Lee et al. 2022, section 3.4: P(R) exp(kappa (R - low) / (high - low)).
    logits = torch.randn(1, TINY.returns, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    returns = np.arange(TINY.min_return, TINY.max_return + 1)
    expected = logits[0].softmax(-1).numpy() * np.exp(10 * (returns + 20) / 120)
    expected /= expected.sum()
    drawn = ExpertReturn().choose_return(
        logits.expand(100_000, -1), TINY, generator, deterministic=False
    )
    found = np.bincount(drawn.numpy(), minlength=TINY.returns) / 100_000
    assert np.abs(found - expected).sum() < 0.05
    best = ExpertReturn().choose_return(logits, TINY, generator, deterministic=True)
    assert best.item() == expected.argmax()


def test_sample_follows_the_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, -1e9]]).expand(50_000, -1)
    drawn = sample(logits, torch.Generator().manual_seed(0), deterministic=False)
    shares = np.bincount(drawn.numpy(), minlength=3) / 50_000
    np.testing.assert_allclose(shares, [0.269, 0.731, 0], atol=0.01)
    assert sample(logits[:1], torch.Generator(), deterministic=True).item() == 1


@pytest.mark.parametrize("return_tokens", ["single", "every"])
@torch.no_grad()
def test_each_return_is_predicted_from_what_comes_before(return_tokens) -> None:
    config = DecisionTransformerConfig(layers=1, width=64, return_tokens=return_tokens, dropout=0.0)
    agent = DecisionTransformerAgent(config, device="cpu")
    agent.model.eval()
    batch = make_batch()
    window = [torch.from_numpy(x) for x in (batch.frames, batch.actions, batch.actions % 4)]
    returns = agent._choose_returns(window, deterministic=True)
    # Given the chosen returns, each is the likeliest under the rule where it is predicted.
    logits = agent.model(*window, returns)["return"]
    tilted = logits + torch.linspace(0, 10, config.returns)
    chosen = slice(0, 1 if return_tokens == "single" else 4)
    assert torch.equal(tilted.argmax(-1)[:, chosen], returns[:, chosen])


def test_model_and_protocol_must_agree() -> None:
    with pytest.raises(ValueError, match="reads 2 frames of 84 pixels, the protocol gives 4 of 84"):
        DecisionTransformerAgent(dataclasses.replace(TINY, steps=2))

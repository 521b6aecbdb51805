"""Rules: their distributions against what they were published as."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from mgdt_agents.decision_transformer import (
    BestOfSamples,
    ExpertReturn,
    Greedy,
    PredictedReturn,
    TargetReturn,
)
from mgdt_agents.decision_transformer.rules import RULES, rule_from_dict, rule_to_dict
from mgdt_agents.random_streams import RowStreams, sample


def logits(size: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(1, size, generator=torch.Generator().manual_seed(0))


def shares(logits_1v: Tensor, draws: int = 30_000) -> np.ndarray:
    """Return how often each id is drawn."""
    streams = RowStreams(0, np.arange(draws), np.zeros(draws, int))
    drawn = sample(logits_1v.expand(draws, -1), streams)
    return np.bincount(drawn.numpy(), minlength=logits_1v.shape[-1]) / draws


def test_expert_return_is_tilted_by_kappa() -> None:
    # Lee et al. 2022, section 3.4: P(R) exp(kappa (R - low) / (high - low)).
    predicted = logits(121)
    returns = np.arange(-20, 101)
    expected = predicted[0].softmax(-1).numpy() * np.exp(10 * (returns + 20) / 120)
    expected /= expected.sum()
    tilted = ExpertReturn().return_logits(predicted)
    assert np.abs(shares(tilted) - expected).sum() < 0.05
    assert sample(tilted, None).item() == expected.argmax()


def test_best_of_samples_is_the_released_rule() -> None:
    # The released notebook: the largest of 128 samples at logits times 0.75.
    predicted = logits(121, scale=4.0)
    probabilities = (0.75 * predicted[0]).double().softmax(-1).numpy()
    rng = np.random.default_rng(0)
    best = rng.choice(121, size=(10_000, 128), p=probabilities / probabilities.sum()).max(1)
    expected = np.bincount(best, minlength=121) / len(best)
    assert np.abs(shares(BestOfSamples().return_logits(predicted)) - expected).sum() < 0.05
    # And actions above the 50th percentile.
    actions = logits(18)
    kept = actions[0] > torch.quantile(actions[0], 0.5)
    expected = torch.where(kept, actions[0], -torch.inf).softmax(-1).numpy()
    np.testing.assert_allclose(shares(BestOfSamples().action_logits(actions)), expected, atol=0.015)
    assert kept.sum() == 9


def test_greedy_takes_the_likeliest() -> None:
    for change in (Greedy().return_logits, Greedy().action_logits):
        changed = change(logits(30))
        assert shares(changed, 100)[logits(30).argmax()] == 1


@pytest.mark.parametrize("rule", [PredictedReturn(), TargetReturn(target=3)], ids=str)
def test_other_rules_leave_the_logits(rule) -> None:
    assert torch.equal(rule.return_logits(logits(9)), logits(9))
    assert torch.equal(rule.action_logits(logits(9)), logits(9))


def test_low_temperatures_make_likely_actions_likelier() -> None:
    for rule in (PredictedReturn(action_temperature=0.5), ExpertReturn(action_temperature=0.5)):
        probabilities = rule.action_logits(logits(9)).softmax(-1)
        squares = logits(9).softmax(-1) ** 2  # p^(1 / temperature), normalized
        torch.testing.assert_close(probabilities, squares / squares.sum(-1, keepdim=True))
    cold = BestOfSamples(action_temperature=0.01).action_logits(logits(9)).softmax(-1)
    assert cold[0, logits(9)[0].argmax()] > 0.99
    for rule_class in (PredictedReturn, ExpertReturn, BestOfSamples):
        with pytest.raises(ValueError, match="must be above 0 and finite, got 0; determ"):
            rule_class(action_temperature=0)
        with pytest.raises(ValueError, match="guidance must be at least 0, got -1"):
            rule_class(guidance=-1)


@pytest.mark.parametrize(
    "rule",
    [
        ExpertReturn(kappa=3.0, action_temperature=0.5),
        TargetReturn(target=20),
        *(BestOfSamples(), Greedy()),
    ],
    ids=str,
)
def test_rules_as_json(rule) -> None:
    assert rule_from_dict(rule_to_dict(rule) or {}) == rule


def test_rules_that_are_not_there() -> None:
    assert set(RULES) == {
        "ExpertReturn",
        "BestOfSamples",
        "TargetReturn",
        "Greedy",
        "PredictedReturn",
    }

    class Mine(Greedy):
        pass

    assert rule_to_dict(Mine()) is None
    with pytest.raises(ValueError, match=r"Unknown rule 'Gredy'\. Did you mean 'Greedy'"):
        rule_from_dict({"name": "Gredy"})
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        BestOfSamples(samples=0)


def test_a_target_must_be_a_number():
    with pytest.raises(ValueError, match="target must be above -inf, got nan"):
        TargetReturn(target=float("nan"))


@pytest.mark.parametrize("rule", RULES.values())
def test_fields_are_finite(rule):
    given = {"target": 1.0} if rule is TargetReturn else {}
    for field in dataclasses.fields(rule):
        for number in (np.nan, np.inf, -np.inf):
            with pytest.raises(ValueError, match=f"{field.name} must be .*got {number}"):
                rule(**given | {field.name: number})

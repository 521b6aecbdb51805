"""The search: equal to a plain loop, and its bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from mgdt_agents.planning import PRESETS, Search
from mgdt_agents.planning.search import search
from mgdt_agents.planning.world_model import WorldModel
from tests.mgdt_agents.planning.plain_search import plain_search

CONFIG = dataclasses.replace(PRESETS["tiny"], layers=2, context=2, horizon=3)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that actions, rewards and ends differ
        model.reward_head.bias.zero_()
    return model


def inputs(envs: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return tokens, actions, rewards and allowed actions of some environments."""
    draws = np.random.default_rng(seed)
    shape = (envs, CONFIG.context)
    allowed = np.zeros((envs, CONFIG.actions), bool)
    for row, number in enumerate(draws.integers(1, 6, envs)):
        allowed[row, draws.choice(CONFIG.actions, number, replace=False)] = True
    return tuple(
        map(
            torch.from_numpy,
            (
                draws.integers(CONFIG.levels, size=(*shape, 4, CONFIG.token_numbers)),
                draws.integers(CONFIG.actions, size=shape),
                draws.choice([0, 1, 3], shape),
                allowed,
            ),
        )
    )


@pytest.mark.parametrize("horizon", [0, 1, 2, 3])
@pytest.mark.parametrize("likely", [0.0, 0.3])
def test_search_equals_a_plain_loop(world, horizon, likely):
    plan = Search(horizon=horizon, beam=3, likely=likely)
    given = inputs(6, seed=horizon)
    found = search(world, *given, plan)
    expected = [plain_search(world, *row, plan) for row in zip(*given, strict=True)]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(expected).any(1).all()
    if horizon > 1:
        # The beam had to choose: with room for all plans, more actions have one.
        all_plans = search(world, *given, dataclasses.replace(plan, beam=1000))
        more = all_plans.scores.isfinite() & ~found.scores.isfinite()
        assert more.any() == (likely == 0.0)


def test_a_narrow_beam_leaves_one_action(world):
    tokens, actions, rewards, _ = inputs(4)
    allowed = torch.ones(4, CONFIG.actions, dtype=torch.bool)
    plan = Search(horizon=2, beam=1, likely=0.0)
    found = search(world, tokens, actions, rewards, allowed, plan)
    assert found.scores.isfinite().sum(1).tolist() == [1] * 4
    one_step = search(world, tokens, actions, rewards, allowed, Search(horizon=1, likely=0.0))
    assert torch.equal(found.scores.argmax(1), one_step.scores.argmax(1))


def test_candidates_are_likely_and_of_the_game(world):
    given = inputs(8)
    for horizon in (0, 1):
        found = search(world, *given, Search(horizon=horizon, likely=0.3))
        policy = found.policy.masked_fill(~given[3], -torch.inf).softmax(-1)
        likely = policy >= 0.3 * policy.amax(1, keepdim=True)
        assert torch.equal(found.scores.isfinite(), likely & given[3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": -1}, "horizon must be at least 0, got -1"),
        ({"beam": 0}, "beam must be at least 1, got 0"),
        ({"likely": 1.5}, r"likely must be in \[0, 1\], got 1.5"),
        ({"horizon": 1.5}, "horizon must be a whole number, got 1.5"),
        ({"beam": "2"}, "beam must be a whole number, got '2'"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Search(**fields)


def test_horizon_beyond_the_model(world):
    with pytest.raises(ValueError, match=r"at most 3 imagined steps after 2 real ones.*horizon=4"):
        search(world, *inputs(2), Search(horizon=4))


def test_no_candidate(world):
    tokens, actions, rewards, allowed = inputs(3)
    allowed[1] = False
    with pytest.raises(ValueError, match=r"No action is left for row 1.* game has, \[\]"):
        search(world, tokens, actions, rewards, allowed, Search())

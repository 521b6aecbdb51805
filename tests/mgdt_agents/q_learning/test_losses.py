"""Targets, losses and their gradients against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mgdt_agents.q_learning import losses

ATOMS = np.linspace(-2.0, 2.0, 9)
RETURNS = np.array([0.3, -1.0, 1.75, 5.0, 0.0])
DISCOUNTS = np.array([0.9, 0.0, 0.5, 0.9, 1.0])


@pytest.fixture
def atoms() -> torch.Tensor:
    return losses.atoms(2.0, 9)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def c51_by_hand(probabilities: np.ndarray) -> np.ndarray:
    """Bellemare et al. 2017, algorithm 1, one sample and one atom at a time."""
    target = np.zeros((len(RETURNS), len(ATOMS)))
    for row, (value, discount) in enumerate(zip(RETURNS, DISCOUNTS, strict=True)):
        for atom, probability in zip(ATOMS, probabilities[row], strict=True):
            place = (min(max(value + discount * atom, -2.0), 2.0) + 2.0) / 0.5
            low, high = math.floor(place), math.ceil(place)
            if low == high:
                target[row, low] += probability
            else:
                target[row, low] += probability * (high - place)
                target[row, high] += probability * (place - low)
    return target


def hl_gauss_by_hand(values: np.ndarray) -> np.ndarray:
    """The normal distribution's mass in each bin of width 0.5, over that in all of them."""
    target = np.zeros((len(values), len(ATOMS)))
    for row, value in enumerate(values):
        mean = min(max(value, -2.0), 2.0)

        def below(x: float, mean: float = mean) -> float:
            return 0.5 * (1 + math.erf((x - mean) / (0.75 * 0.5) / math.sqrt(2)))

        for column, atom in enumerate(ATOMS):
            target[row, column] = below(atom + 0.25) - below(atom - 0.25)
        target[row] /= below(2.25) - below(-2.25)
    return target


def test_gradients_of_the_distributional_losses(atoms: torch.Tensor) -> None:
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(5, 9)))
    returns, discounts = torch.tensor(RETURNS).float(), torch.tensor(DISCOUNTS).float()
    values = probabilities @ ATOMS
    targets = {
        "c51": (
            losses.c51_target(torch.tensor(probabilities).float(), returns, discounts, atoms),
            c51_by_hand(probabilities),
        ),
        "hl_gauss": (
            losses.hl_gauss_target(returns + discounts * torch.tensor(values).float(), atoms),
            hl_gauss_by_hand(RETURNS + DISCOUNTS * values),
        ),
    }
    for name, (found, expected) in targets.items():
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
        logits = rng.normal(size=(5, 9))
        tensor = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
        F.cross_entropy(tensor, found).backward()
        # Of the cross-entropy with a distribution: softmax less the distribution.
        np.testing.assert_allclose(
            gradient_of(tensor), (softmax(logits) - expected) / 5, atol=1e-6, err_msg=name
        )


def gradient_of(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.grad is not None
    return tensor.grad.numpy()


def test_gradient_of_the_conservative_loss() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 6, 9))
    actions, allowed = np.array([0, 2, 5, 2]), rng.random((4, 6)) < 0.5
    allowed[np.arange(4), actions] = True
    tensor = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    found = losses.conservative_loss(
        losses.expected_values(tensor, 2.0), torch.tensor(actions), torch.tensor(allowed)
    )
    found.sum().backward()
    probabilities = softmax(logits)
    values = probabilities @ ATOMS
    policy = softmax(np.where(allowed, values, -np.inf))
    np.testing.assert_allclose(found.detach(), -np.log(policy[np.arange(4), actions]), atol=1e-6)
    of_values = policy - np.eye(6)[actions]
    of_logits = of_values[..., None] * probabilities * (ATOMS - values[..., None])
    np.testing.assert_allclose(gradient_of(tensor), of_logits, atol=1e-6)


def test_a_sure_value_is_the_mean_of_its_target(atoms: torch.Tensor) -> None:
    values = torch.linspace(-1.2, 1.2, 7)
    target = losses.hl_gauss_target(values, atoms)
    torch.testing.assert_close((target * atoms).sum(-1), values, atol=0.02, rtol=0)
    sure = torch.eye(9)[[4] * 7]  # of 0
    target = losses.c51_target(sure, values, torch.ones(7), atoms)
    torch.testing.assert_close((target * atoms).sum(-1), values, atol=1e-6, rtol=0)


def test_n_step_returns() -> None:
    rewards = torch.tensor([[1.0, -3.0, 0.5], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    terminated = torch.tensor([[False] * 3, [False, True, False], [False] * 3])
    continues = torch.tensor([True, False, False])  # the last was cut by a time limit
    returns, discounts, known = losses.n_step_returns(rewards, terminated, continues, 0.5)
    assert returns.tolist() == [1 - 0.5 + 0.125, 1.5, 1.0]
    assert discounts.tolist() == [0.125, 0, 0]
    assert known.tolist() == [True, True, False]


def test_best_actions_are_allowed_ones() -> None:
    values = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    allowed = torch.tensor([[True] * 3, [False, False, True]])
    assert losses.best_actions(values, allowed).tolist() == [0, 2]

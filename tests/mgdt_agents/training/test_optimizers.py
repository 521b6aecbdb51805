"""LAMB, against its formula and against timm's."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from mgdt_agents.training import LAMB

ARGUMENTS = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def make_parameters(generator):
    """Return a matrix, a vector, and one that is zero, as biases are at first."""
    return [
        torch.nn.Parameter(torch.randn(3, 4, generator=generator)),
        torch.nn.Parameter(torch.randn(5, generator=generator)),
        torch.nn.Parameter(torch.zeros(4)),
    ]


def lamb_by_hand(weights, gradients, lr, betas, eps, weight_decay):
    """Return the weights after a step for each of `gradients` (You et al. 2020, algorithm 2)."""
    weights = weights.copy()
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        unbiased_mean = mean / (1 - betas[0] ** step)
        unbiased_square = square / (1 - betas[1] ** step)
        update = unbiased_mean / (np.sqrt(unbiased_square) + eps) + weight_decay * weights
        sizes = np.linalg.norm(weights), np.linalg.norm(update)
        trust = sizes[0] / sizes[1] if sizes[0] > 0 and sizes[1] > 0 else 1.0
        weights = weights - lr * trust * update
    return weights


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_is_its_formula(weight_decay):
    generator = torch.Generator().manual_seed(0)
    # In float64, for 200 steps add up what fp32 rounds.
    parameters = [torch.nn.Parameter(p.double()) for p in make_parameters(generator)]
    arguments = {**ARGUMENTS, "weight_decay": weight_decay}
    optimizer = LAMB(parameters, **arguments)
    start = [parameter.detach().numpy().copy() for parameter in parameters]
    gradients: list[list] = [[], [], []]
    for _ in range(200):
        for parameter, kept in zip(parameters, gradients, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator).double()
            kept.append(parameter.grad.numpy())
        optimizer.step()
    for parameter, weights, kept in zip(parameters, start, gradients, strict=True):
        expected = lamb_by_hand(weights, kept, **arguments)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)
        assert not np.allclose(expected, weights)


def test_lamb_knows_weights_that_are_laid_out_anew():
    # As the transformer's blocks do between training and deciding.
    generator = torch.Generator().manual_seed(0)
    moving, staying = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    optimizers = [LAMB([parameter], **ARGUMENTS) for parameter in (moving, staying)]
    for step in range(4):
        if step == 2:
            moving.data = moving.data.t().contiguous().t()
        gradient = torch.randn(3, 4, generator=generator)
        for parameter, optimizer in zip((moving, staying), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert moving.stride() == (1, 3)
    torch.testing.assert_close(moving, staying)


def test_lamb_does_not_change_its_gradients():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, -2.0, 3.0])
    LAMB([parameter]).step()
    assert parameter.grad.tolist() == [1, -2, 3]


def test_lamb_leaves_what_has_no_gradient():
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    used.grad = torch.ones(2)
    LAMB([used, unused], lr=0.1).step()
    assert unused.tolist() == [1, 1]
    assert used.tolist() == pytest.approx([0.9, 0.9], rel=1e-5)


def test_lamb_survives_a_zero_gradient():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.zeros(2)
    LAMB([parameter], weight_decay=0.0).step()
    assert parameter.tolist() == [1, 1]


def test_lamb_calls_the_closure():
    parameter = torch.nn.Parameter(torch.full((2,), 3.0))
    optimizer = LAMB([parameter], lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(20)]
    assert losses[0] == 18
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 18 * 0.99**19


@pytest.fixture
def timm_lamb(monkeypatch):
    """`timm.optim.lamb` by itself: whole packages of timm need torchvision."""
    if (spec := importlib.util.find_spec("timm")) is None:
        pytest.skip("could not import 'timm'")
    folder = Path(spec.submodule_search_locations[0])
    for name, path in ("timm", folder), ("timm.optim", folder / "optim"):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    return importlib.import_module("timm.optim.lamb")


def test_lamb_equals_timm_s(timm_lamb):
    ours = make_parameters(torch.Generator().manual_seed(0))
    theirs = make_parameters(torch.Generator().manual_seed(0))
    optimizers = [
        LAMB(ours, **ARGUMENTS),
        timm_lamb.Lamb(theirs, **ARGUMENTS, max_grad_norm=None, always_adapt=True),
    ]
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        for first, second in zip(ours, theirs, strict=True):
            first.grad = torch.randn(first.shape, generator=generator)
            second.grad = first.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)

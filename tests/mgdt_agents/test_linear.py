"""The linear map of fp32 on AMD's processors against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents import linear as module
from mgdt_agents.linear import FEWEST_ROWS, Linear, linear

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN"
)


@pytest.fixture
def as_if_on_amd(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Have the map computed as on AMD's processors; return what it was asked for."""
    seen: list[Tensor] = []
    product = module._product

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(x)
        return product(x, weight, bias)

    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(module, "_product", watched)
    return seen


@needs_onednn
@pytest.mark.parametrize("layout", ["plain", "inputs first", "sliced", "inputs first, sliced"])
@pytest.mark.parametrize("shape", [(32,), (4, 9)], ids=str)
def test_values_and_gradients_are_pytorch_s(
    as_if_on_amd: list[Tensor], shape: tuple[int, ...], layout: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 24, generator=generator)
    weight, bias = torch.randn(40, 24, generator=generator), torch.randn(40, generator=generator)
    if layout.startswith("inputs first"):
        weight = weight.t().contiguous().t()
    if layout.endswith("sliced"):
        weight, bias = weight[8:], bias[8:]
    x = torch.stack([x, x], -1)[..., 0]
    results = []
    for function in (linear, F.linear):
        inputs = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        out = function(*inputs)
        out.square().sum().backward()
        results.append([out, *(tensor.grad for tensor in inputs)])
    assert len(as_if_on_amd) == 3
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


@needs_onednn
def test_only_what_is_asked_for_gets_a_gradient(as_if_on_amd: list[Tensor]) -> None:
    layer = Linear(24, 40)
    layer.weight.requires_grad_(False)
    layer(torch.ones(FEWEST_ROWS, 24)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.full((40,), float(FEWEST_ROWS)))
    assert len(as_if_on_amd) == 1


def test_other_numbers_are_pytorch_s(as_if_on_amd: list[Tensor]) -> None:
    layer = Linear(24, 40)
    assert layer(torch.ones(FEWEST_ROWS - 1, 24)).shape == (FEWEST_ROWS - 1, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(FEWEST_ROWS, 24)).dtype == torch.bfloat16
    assert layer.bfloat16()(torch.ones(FEWEST_ROWS, 24).bfloat16()).dtype == torch.bfloat16
    assert not as_if_on_amd

"""Linear maps that are as fast in fp32 on AMD's processors as on Intel's.

PyTorch multiplies fp32 matrices with Intel's MKL, which uses half the width of AMD's AVX-512.
oneDNN, which PyTorch has for its convolutions, uses all of it.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.devices import without_autocast

FEWEST_ROWS = 16
"""With fewer, the weights are read from memory for little work, and MKL is as fast."""


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the map of the last dimension."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `torch.nn.functional.linear` does, to rounding.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`.
    """
    suits_onednn = (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= FEWEST_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
    if suits_onednn and onednn_is_faster():
        return _OneDNNLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def fp32_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the layer's map in fp32, whatever the dtype of its weights or of autocast."""
    multiply = linear if isinstance(layer, Linear) else F.linear
    with without_autocast(x.device):
        return multiply(x.float(), layer.weight.float(), layer.bias.float())


@cache
def onednn_is_faster() -> bool:
    """Return whether this is an AMD processor with AVX-512, and PyTorch has oneDNN."""
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return amd and wide and torch.backends.mkldnn.is_available()


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(rows, weight.t()).unflatten(0, x.shape[:-1]) if of_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias`, as compiled models compute it."""
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")


def _dense(matrix: Tensor) -> Tensor:
    """Return the matrix without gaps in memory; with them, oneDNN would take a plain loop."""
    return matrix.t().contiguous().t() if matrix.stride(0) == 1 else matrix.contiguous()

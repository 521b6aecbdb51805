"""Where networks compute."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mgdt_envs.errors import InvalidArgument


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ValueError: if PyTorch has no such device, or this machine has none.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = "Expected 'auto', 'cpu', or, on a machine with a GPU, 'cuda'."
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InvalidArgument(
            f"Cannot compute on device {str(device)!r}, which PyTorch does not know. {expected}"
        ) from error
    try:
        torch.empty(0, device=found)
    # A build of PyTorch without the device's code raises an AssertionError.
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InvalidArgument(
            f"Cannot compute on device {str(device)!r}: {reason}. {expected}"
        ) from error
    return found


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which an operation keeps its inputs' precision, whatever is around it.

    The "meta" device, on which costs are counted, knows no autocast.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to compute in bf16: "bf16", "fp32", or "auto" for where it pays."""
    return precision == "bf16" or (precision == "auto" and bf16_pays(device))


def bf16_pays(device: torch.device) -> bool:
    """Return whether a device computes faster in bf16 than in fp32."""
    if device.type != "cpu":
        return device.type == "cuda"
    # Before 2.11, PyTorch does not say what the processor can do.
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))

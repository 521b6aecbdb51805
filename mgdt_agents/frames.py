"""What the small convolutional networks see of frames: the newest, and the changes before it.

The networks' first layer sees that of every step. It is linear, so the layer can be given the first
frame of a window and the changes after it, each once, if its weights are combined to fit: see
`first_and_changes` and `channel_makeup`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANGE_SCALE = 4.0
"""Weight of changes beside pixels; most changes are zero, so they may be larger.

What matters in Atari games moves and is small: docs/agents.md has what changes save in samples.
"""


def first_and_changes(frames_BTYX: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the first frame of each window and the changes between one frame and the next.

    They are whole numbers of -255 to 255, which even bf16 holds exactly.

    Args:
        frames_BTYX: uint8, oldest first.
        dtype: of the result.

    Returns:
        `(B, T, height, width)`.
    """
    pixels_BTYX = frames_BTYX.to(dtype)
    return torch.cat([pixels_BTYX[:, :1], pixels_BTYX.diff(dim=1)], 1)


def channel_makeup(steps: int, stack: int) -> Tensor:
    """Return what the input channels of each step are made of, `(T, S, C)`.

    The channels of a step are its frame and the `stack - 1` changes up to it, oldest first,
    weighted by `CHANGE_SCALE`. Changes from outside the window are zero.

    Args:
        steps: T, frames of a window.
        stack: C, channels of a step.

    Returns:
        `makeup_TSC`, whole numbers: channel c of step t is the sum over s of `makeup_TSC[t, s, c]`
        times what `first_and_changes` gives for s.
    """
    makeup_TSC = torch.zeros(steps, steps, stack)
    for step in range(steps):
        makeup_TSC[step, : step + 1, 0] = 1  # a frame is the first one and all changes since
        for ago in range(min(step, stack - 1)):
            makeup_TSC[step, step - ago, stack - 1 - ago] = CHANGE_SCALE
    return makeup_TSC


def patches_of(frames: Tensor, side: int) -> Tensor:
    """Return the square patches of frames.

    Patches do not overlap, so a convolution of one patch a step is a linear map of them, and faster
    as one.

    Args:
        frames: `(..., height, width)`.
        side: height and width of a patch.

    Returns:
        `(..., height / side, width / side, side * side)`.
    """
    rows = frames.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    return rows.transpose(-3, -2).flatten(-2)


def computing_dtype(weight: Tensor) -> torch.dtype:
    """Return what a layer of these weights computes in: autocast's dtype where that is on."""
    device = weight.device.type
    if device == "meta":  # autocast does not know it
        return weight.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def to_pixels(observations: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what the network sees of observations: halves of the frames, the stack last.

    CPUs convolve fastest so, and a quarter of the pixels shows no less of the games.

    Args:
        observations: `(N, stack, height, width)`, height and width even.

    Returns:
        `(N, height / 2, width / 2, stack)`, each pixel about the mean of four.
    """
    # Halved before they are added, bytes stay bytes, of which a CPU adds 64 at once.
    pairs = (observations[:, :, 0::2] >> 1) + (observations[:, :, 1::2] >> 1)
    neighbors = pairs.view(np.uint16)
    means = ((neighbors & 255) + (neighbors >> 8)) >> 1
    count, stack, height, width = means.shape
    pixels = np.empty((count, height, width, stack), np.uint8)
    for place in range(stack):  # three times faster than all at once
        pixels[..., place] = means[:, place]
    return pixels

"""Frames as a few tokens each, and back: convolutions around finite scalar quantization.

Shape suffixes: F frames, Y and X pixels, M tokens of a frame, C numbers of a token.
"""

import torch
from torch import Tensor, nn

from mgdt_agents.frames import computing_dtype, patches_of
from mgdt_agents.linear import linear
from mgdt_agents.planning.config import TrajectoryTransformerConfig
from mgdt_agents.q_learning.networks import ResidualBlock


def quantize(x: Tensor, levels: int) -> Tensor:
    """Return `x`, squeezed between -1 and 1, at the nearest of `levels` equally spaced values.

    Finite scalar quantization (Mentzer et al. 2024): no codebook, so none that collapses. The
    gradient is that of the squeezed numbers before rounding.
    """
    squeezed = x.float().tanh()
    steps = (levels - 1) / 2
    rounded = ((squeezed + 1) * steps).round() / steps - 1
    return squeezed + (rounded - squeezed).detach()


class Tokenizer(nn.Module):
    """An autoencoder of single frames whose code is a grid of tokens, each of a few small integers.

    A frame is cut into cells of some pixels. Each cell becomes a few numbers, in view of its
    neighbors, and a token is the numbers of a square of cells: small things keep a place of their
    own in the code, and a sequence of tokens stays short.
    """

    def __init__(self, config: TrajectoryTransformerConfig) -> None:
        super().__init__()
        self.config = config
        side = config.grid * config.cells
        self.side, channels = config.frame_size // side, config.channels
        self.input = nn.Conv2d(1, channels, self.side, self.side)
        self.position_in = nn.Parameter(torch.zeros(channels, side, side))
        self.encoder = nn.Sequential(
            ResidualBlock(channels), nn.ReLU(), nn.Conv2d(channels, config.code_size, 1)
        )
        self.output = nn.Conv2d(config.code_size, channels, 1)
        self.position_out = nn.Parameter(torch.zeros(channels, side, side))
        self.decoder = nn.Sequential(
            ResidualBlock(channels),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, 1, self.side, self.side),
        )

    def forward(self, frames_FYX: Tensor) -> Tensor:
        """Return the `(F, Y, X)` reconstructions, in 0..1, of uint8 frames; with gradients."""
        return self._decoded(quantize(self._encoded(frames_FYX), self.config.levels))

    @torch.no_grad()
    def encode(self, frames_FYX: Tensor) -> Tensor:
        """Return the `(F, M, C)` int64 tokens of uint8 frames, row by row.

        Their integers are 0 to `levels - 1`.
        """
        cells = self.config.cells
        integers = to_integers(quantize(self._encoded(frames_FYX), self.config.levels), self.config)
        squares = integers.unflatten(3, (-1, cells)).unflatten(2, (-1, cells))
        return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    @torch.no_grad()
    def decode(self, tokens_FMC: Tensor) -> Tensor:
        """Return the `(F, Y, X)` uint8 frames of tokens."""
        grid, cells = self.config.grid, self.config.cells
        squares = to_numbers(tokens_FMC, self.config).unflatten(2, (-1, cells, cells))
        places = squares.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5)
        pixels = self._decoded(places.flatten(4).flatten(2, 3))
        return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)

    def _encoded(self, frames_FYX: Tensor) -> Tensor:
        """Return `(F, C, Y / side, X / side)` numbers of cells, before they are squeezed."""
        weight = self.input.weight
        dtype = computing_dtype(weight)
        cells = patches_of(frames_FYX, self.side).to(dtype) / 255
        features = linear(cells, weight.flatten(1), self.input.bias).permute(0, 3, 1, 2)
        return self.encoder(features + self.position_in.to(dtype))

    def _decoded(self, numbers: Tensor) -> Tensor:
        """Return `(F, Y, X)` pixels of `(F, C, Y / side, X / side)` numbers of cells."""
        numbers = numbers.to(computing_dtype(self.output.weight))
        features = self.output(numbers.contiguous(memory_format=torch.channels_last))
        features = self.decoder[:-1](features + self.position_out.to(features.dtype))
        last = self.decoder[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        cells = linear(features.permute(0, 2, 3, 1), last.weight.flatten(1).t()) + last.bias
        pixels = cells.unflatten(3, (self.side, self.side)).transpose(2, 3)
        return pixels.flatten(3).flatten(1, 2).float()


def to_integers(numbers: Tensor, config: TrajectoryTransformerConfig) -> Tensor:
    """Return numbers of -1..1 as integers of 0..levels - 1."""
    return ((numbers + 1) * ((config.levels - 1) / 2)).round().long()


def to_numbers(integers: Tensor, config: TrajectoryTransformerConfig) -> Tensor:
    """Return integers of 0..levels - 1 as numbers of -1..1."""
    return integers * (2 / (config.levels - 1)) - 1


def reconstruction_losses(
    frames_BTYX: Tensor, found_BTYX: Tensor, valid_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean squared error of all pixels, and that of the pixels that changed.

    Means are of frames, padded ones among them, so that parts of a batch average to the whole.

    Args:
        frames_BTYX: uint8, at least two frames of each window, in their order.
        found_BTYX: their reconstructions, in 0..1.
        valid_BT: bool, the frames that are of the episode.
    """
    errors = (found_BTYX - frames_BTYX / 255).square() * valid_BT[:, :, None, None]
    follows = valid_BT[:, 1:] & valid_BT[:, :-1]
    changed = (frames_BTYX[:, 1:] != frames_BTYX[:, :-1]) & follows[:, :, None, None]
    of_changed = (errors[:, 1:] * changed).sum((2, 3)) / changed.sum((2, 3)).clamp(min=1)
    return errors.mean(), of_changed.mean()

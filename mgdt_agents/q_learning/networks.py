"""The network of the agents that learn values: an Impala ResNet with a categorical head.

Shape suffixes: B states, A actions, Z atoms, D features; Y and X places of the last picture.
"""

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.devices import without_autocast
from mgdt_agents.frames import CHANGE_SCALE
from mgdt_agents.linear import Linear, linear


class ImpalaSizes(Protocol):
    """What an `ImpalaNetwork` needs to know; `CQLConfig` explains the fields."""

    stages: tuple[int, ...]
    blocks: int
    stem_stride: int
    layer_norm: bool
    changes: bool
    pooling: Literal["flatten", "spatial"]
    spatial_features: int
    hidden: int
    normalize_features: bool
    frame_stack: int
    frame_size: int


class ResidualBlock(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        """Make a block of `channels`."""
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` changed by the convolutions, the same shape."""
        return x + self.convolutions(x)


class SpatialEmbedding(nn.Module):
    """Weighted sums of each channel over the picture, with learned weights (Kumar et al. 2023).

    It keeps where things are at a fraction of the weights that flattening takes.
    """

    def __init__(self, channels: int, side: int, features: int) -> None:
        """Make `features` sums of each of `channels` over `side` x `side` places."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, features, side, side))
        nn.init.normal_(self.weight, std=1 / side)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, channels * features)` of `(B, channels, side, side)`."""
        return torch.einsum("bcyx,cfyx->bcf", x, self.weight.to(x.dtype)).flatten(1)


class ImpalaNetwork(nn.Module):
    """An Impala ResNet (Espeholt et al. 2018) whose head has `outputs` numbers an action.

    The head's linear map is computed in fp32 whatever the rest is: values of good and bad actions
    differ by less than bf16 resolves.
    """

    def __init__(self, config: ImpalaSizes, actions: int, outputs: int, heads: int = 1) -> None:
        """Make the network, randomly initialized.

        Args:
            config: its sizes.
            actions: A.
            outputs: numbers an action, Z.
            heads: linear maps, of which each state is read by one.
        """
        super().__init__()
        self.changes, self.normalize_features = config.changes, config.normalize_features
        self.shape = (actions, outputs)
        layers: list[nn.Module] = []
        channels, side = config.frame_stack, config.frame_size
        for number, width in enumerate(config.stages):
            stride = config.stem_stride if number == 0 else 1
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1),
                nn.GroupNorm(1, width) if config.layer_norm else nn.Identity(),
                nn.MaxPool2d(3, 2, padding=1),
                *(ResidualBlock(width) for _ in range(config.blocks)),
            ]
            channels, side = width, math.ceil(math.ceil(side / stride) / 2)
        self.trunk = nn.Sequential(*layers, nn.ReLU())
        if config.pooling == "spatial":
            self.pooling: nn.Module = SpatialEmbedding(channels, side, config.spatial_features)
            pooled = channels * config.spatial_features
        else:
            self.pooling, pooled = nn.Flatten(), channels * side * side
        self.hidden = Linear(pooled, config.hidden)
        self.output = Linear(config.hidden, heads * actions * outputs)

    def forward(self, frames: Tensor, heads_B: Tensor | None = None) -> Tensor:
        """Return `(B, A, Z)` fp32 logits.

        Args:
            frames: `(B, frame_stack, height, width)` uint8, oldest first.
            heads_B: int64, the head that reads each state; None is the first for all.
        """
        features_BD = self.features(frames)
        with without_autocast(frames.device):
            features_BD = features_BD.float()
            if self.normalize_features:
                features_BD = F.normalize(features_BD, dim=-1)
            weights = self.output.weight.float().unflatten(0, (-1, math.prod(self.shape)))
            biases = self.output.bias.float().unflatten(0, (-1, math.prod(self.shape)))
            if heads_B is None or len(weights) == 1:
                return linear(features_BD, weights[0], biases[0]).unflatten(-1, self.shape)
            logits = features_BD.new_empty(len(frames), math.prod(self.shape))
            for head in heads_B.unique().tolist():
                rows = (heads_B == head).nonzero()[:, 0]
                logits = logits.index_copy(
                    0, rows, linear(features_BD[rows], weights[head], biases[head])
                )
            return logits.unflatten(-1, self.shape)

    def features(self, frames: Tensor) -> Tensor:
        """Return the `(B, D)` features that the heads read."""
        pixels = frames.to(self.hidden.weight.dtype) / 255
        if self.changes:
            pixels = torch.cat([pixels[:, -1:], CHANGE_SCALE * pixels.diff(dim=1)], dim=1)
        picture = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        return F.relu(self.hidden(self.pooling(picture)))

"""An Impala ResNet, and the network of the agents that learn values: it with a categorical head.

Shape suffixes: B states, A actions, Z atoms, D features; Y and X places of the last picture.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.config_checks import check_actions, check_choices, check_interval
from mgdt_agents.devices import without_autocast
from mgdt_agents.frames import channel_makeup, computing_dtype, first_and_changes
from mgdt_agents.linear import Linear, linear


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpalaConfig:
    """An `ImpalaNetwork`; the default is the smallest of Lee et al. 2022, which they call 5M.

    `cql` has 13.1M parameters then, of which the convolutions have 4.7M; theirs seem to be counted
    alone.
    """

    stages: tuple[int, ...] = (128, 128, 128)
    """Channels of the stages; each halves the picture."""
    blocks: int = 5
    """Residual blocks of a stage."""
    stem_stride: int = 1
    """Stride of the first convolution; 1 in Espeholt et al. 2018."""
    layer_norm: bool = False
    """Normalize after the first convolution of each stage."""
    changes: bool = False
    """See the newest frame and the changes between frames, instead of the frames."""
    pooling: Literal["flatten", "spatial"] = "flatten"
    """Flatten the last picture, or sum it with learned weights (Scaled Q-learning)."""
    spatial_features: int = 8
    """Such sums of each channel."""
    hidden: int = 512
    """Units of the layer between the pictures and the output."""
    normalize_features: bool = False
    """Scale that layer's output to length 1 (Scaled Q-learning)."""
    frame_stack: int = 4
    """Frames that the network sees."""
    frame_size: int = 84
    """Height and width of a frame in pixels."""
    actions: int = 18
    """Number of actions."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_actions(self)
        check_interval(
            self, "[1, inf)", "stages", "blocks", "stem_stride", "spatial_features", "hidden"
        )


class ResidualBlock(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
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


class ImpalaBody(nn.Module):
    """An Impala ResNet (Espeholt et al. 2018) up to the features that heads read."""

    def __init__(self, config: ImpalaConfig) -> None:
        super().__init__()
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
        self.trunk = nn.Sequential(*layers, nn.ReLU(inplace=True))
        if config.pooling == "spatial":
            self.pooling: nn.Module = SpatialEmbedding(channels, side, config.spatial_features)
            pooled = channels * config.spatial_features
        else:
            self.pooling, pooled = nn.Flatten(), channels * side * side
        self.hidden = Linear(pooled, config.hidden)
        makeup_SC = channel_makeup(config.frame_stack, config.frame_stack)[-1]
        self.makeup_SC: Tensor | None
        self.register_buffer("makeup_SC", makeup_SC if config.changes else None, persistent=False)

    def pixels(self, frames: Tensor) -> Tensor:
        """Return what the first convolution sees of `(B, frame_stack, height, width)` uint8 frames.

        `features` takes it instead of them: networks of one config need it made but once.
        """
        dtype = computing_dtype(self.hidden.weight)
        pixels = frames.to(dtype) if self.makeup_SC is None else first_and_changes(frames, dtype)
        return pixels.contiguous(memory_format=torch.channels_last)

    def features(self, frames: Tensor) -> Tensor:
        """Return the `(B, D)` features of uint8 frames, or of what `pixels` made of them."""
        first, *others = self.trunk
        assert isinstance(first, nn.Conv2d)
        pixels = frames if frames.is_floating_point() else self.pixels(frames)
        # What is done to the pixels before it is linear, and takes less time done to the weights.
        weight = first.weight.float() / 255
        if self.makeup_SC is not None:
            with without_autocast(frames.device):
                weight = torch.einsum("sc,fcyx->fsyx", self.makeup_SC.float(), weight)
        x = F.conv2d(pixels, weight.to(pixels.dtype), first.bias, first.stride, first.padding)
        for layer in others:
            x = layer(x)
        return F.relu(self.hidden(self.pooling(x)))


class ImpalaNetwork(ImpalaBody):
    """An Impala ResNet whose head has `outputs` numbers an action.

    The head's linear map is computed in fp32 whatever the rest is: values of good and bad actions
    differ by less than bf16 resolves.
    """

    def __init__(self, config: ImpalaConfig, outputs: int, heads: int = 1) -> None:
        """Make the network, randomly initialized.

        Args:
            config: its sizes.
            outputs: numbers an action, Z.
            heads: linear maps, of which each state is read by one.
        """
        super().__init__(config)
        self.normalize_features = config.normalize_features
        self.shape = (config.actions, outputs)
        self.output = Linear(config.hidden, heads * math.prod(self.shape))

    def forward(self, frames: Tensor, heads_B: Tensor | None = None) -> Tensor:
        """Return `(B, A, Z)` fp32 logits.

        Args:
            frames: `(B, frame_stack, height, width)` uint8, oldest first, or their `pixels`.
            heads_B: int64, the head that reads each state; None is the first for all.
        """
        features_BD = self.features(frames)
        with without_autocast(frames.device):
            features_BD = features_BD.float()
            if self.normalize_features:
                features_BD = F.normalize(features_BD, dim=-1)
            weights = self.output.weight.float().unflatten(0, (-1, math.prod(self.shape)))
            biases = self.output.bias.float().unflatten(0, (-1, math.prod(self.shape)))
            # Which head a meta tensor asks for cannot be known; each costs the same.
            if heads_B is None or len(weights) == 1 or heads_B.is_meta:
                return linear(features_BD, weights[0], biases[0]).unflatten(-1, self.shape)
            logits = features_BD.new_empty(len(frames), math.prod(self.shape))
            for head in heads_B.unique().tolist():
                rows = (heads_B == head).nonzero()[:, 0]
                logits = logits.index_copy(
                    0, rows, linear(features_BD[rows], weights[head], biases[head])
                )
            return logits.unflatten(-1, self.shape)

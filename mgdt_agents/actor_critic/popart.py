"""PopArt: values of each game in its own scale, learned in a common one (Hessel et al. 2019).

Shape suffixes: D features, G games.
"""

import torch
from torch import Tensor, nn

from mgdt_agents.linear import fp32_linear


class PopArt(nn.Module):
    """A linear map to a normalized value for each game, and the scales of the games.

    A game's value is `scale * normalized + mean`. When the statistics move, the map is changed so
    that no value does. With one output whose scale is never updated it is a plain value head.

    Args:
        features: D.
        games: G.
    """

    mean: Tensor
    mean_square: Tensor

    LIMITS = (1e-4, 1e6)
    """Of a scale (Hessel et al. 2019, appendix)."""

    def __init__(self, features: int, games: int) -> None:
        """Make the map, with means 0 and scales 1."""
        super().__init__()
        self.output = nn.Linear(features, games)
        self.register_buffer("mean", torch.zeros(games))
        self.register_buffer("mean_square", torch.ones(games))

    @property
    def scale(self) -> Tensor:
        """`(G,)` standard deviations of the games' values."""
        return (self.mean_square - self.mean.square()).clamp_min(0).sqrt().clamp(*self.LIMITS)

    def forward(self, features: Tensor) -> Tensor:
        """Return the `(..., G)` normalized values of `(..., D)` features, in fp32."""
        return fp32_linear(self.output, features)

    @torch.no_grad()
    def update(self, values: Tensor, games: Tensor, rate: float) -> None:
        """Move the statistics toward `values` and keep what `forward` and they come to together.

        Args:
            values: `(n,)` unnormalized.
            games: `(n,)` int64, of which game each is.
            rate: weight of the mean of the new values against what was.
        """
        before_mean, before_scale = self.mean.clone(), self.scale
        counts = values.new_zeros(len(self.mean)).index_add_(0, games, torch.ones_like(values))
        sums = torch.zeros_like(counts).index_add_(0, games, values)
        squares = torch.zeros_like(counts).index_add_(0, games, values.square())
        rates = rate * (counts > 0)
        self.mean += rates * (sums / counts.clamp_min(1) - self.mean)
        self.mean_square += rates * (squares / counts.clamp_min(1) - self.mean_square)
        self.output.weight *= (before_scale / self.scale)[:, None]
        self.output.bias.copy_(
            (before_scale * self.output.bias + before_mean - self.mean) / self.scale
        )

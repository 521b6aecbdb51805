"""The transformer with action values: a policy head and a value head, and no returns.

Shape suffixes are those of `mgdt_agents.decision_transformer.model`; Z atoms of a distribution.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mgdt_agents.config_checks import check_interval
from mgdt_agents.decision_transformer.config import PRESETS as DT_PRESETS
from mgdt_agents.decision_transformer.config import DecisionTransformerConfig, without_returns
from mgdt_agents.decision_transformer.model import DecisionTransformer
from mgdt_agents.linear import Linear, fp32_linear
from mgdt_agents.q_learning import losses
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueTransformerConfig(DecisionTransformerConfig):
    """What a `ValueTransformer` is made of, and how its values are learned."""

    return_tokens: Literal["single", "every", "none"] = "none"
    """None: a return token would tell the values the future."""
    atoms: int = 51
    """Points of the distributions of values."""
    max_value: float = 10.0
    """Their support is -max_value..max_value."""
    value_loss: Literal["hl_gauss", "c51"] = "hl_gauss"
    """A normal distribution around the target's mean (Farebrother et al. 2024), or C51's projection
    of its distribution."""
    value_discount: float = 0.99
    """Of the values, for each agent step."""
    n_steps: int = 4
    """Agent steps before the target network's value."""
    likely: float = 0.1
    """Targets look at the actions whose likelihood, by the policy head, is at least this share of
    the likeliest one's (Fujimoto et al. 2019, discrete BCQ: 0.3)."""
    conservative_weight: float = 0.0
    """Of the conservative term. With 1, the values are those of the most frequent actions
    (docs/agents.md); targets are kept to likely actions instead."""
    value_weight: float = 1.0
    """Of the value's loss, beside the policy's and the reward's."""
    target_period: int = 256
    """Gradient steps between copies to the target network."""

    def __post_init__(self) -> None:
        DecisionTransformerConfig.__post_init__(self)
        if self.return_tokens != "none":
            raise InvalidArgument(
                f"Values are read where no return is seen: expected return_tokens='none', got "
                f"{self.return_tokens!r}"
            )
        check_interval(self, "(0, 1]", "value_discount")
        check_interval(self, "[0, 1]", "likely")
        check_interval(self, "(0, inf)", "max_value")
        check_interval(self, "[2, inf)", "atoms")
        check_interval(self, "[1, inf)", "n_steps", "target_period")
        check_interval(self, "[0, inf)", "conservative_weight", "value_weight")


class ValueTransformer(DecisionTransformer):
    """A `DecisionTransformer` without returns that also gives each action a value.

    Policy and values are read at a frame's last token. The value head's linear map is computed in
    fp32 whatever the rest is.

    Attributes:
        beta: how much values count when acting; see `acting_logits`.
    """

    config: ValueTransformerConfig

    def __init__(self, config: ValueTransformerConfig) -> None:
        super().__init__(config)
        self.value_head = Linear(config.width, config.actions * config.atoms)
        self.beta = 0.0

    def logits(self, x_BTQD: Tensor, returns_BT: Tensor | None) -> dict[str, Tensor]:
        """Return the logits of each step, "value" `(B, T, A, Z)` among them."""
        logits = super().logits(x_BTQD, returns_BT)
        return logits | {"value": self.value_logits(self.read_for_action(x_BTQD))}

    def value_logits(self, x_BTD: Tensor) -> Tensor:
        """Return the `(B, T, A, Z)` fp32 logits of the actions' values."""
        logits = fp32_linear(self.value_head, x_BTD)
        return logits.unflatten(-1, (self.config.actions, self.config.atoms))

    def acting_logits(self, x_BTD: Tensor, returns_BT: Tensor | None) -> Tensor:
        """Return the `(B, T, A)` logits of likelihood times exp(beta Q)."""
        logits = super().acting_logits(x_BTD, returns_BT).float()
        if not self.beta:
            return logits
        values = losses.expected_values(self.value_logits(x_BTD), self.config.max_value)
        return logits + self.beta * values


PRESETS = {
    name: ValueTransformerConfig(**dataclasses.asdict(without_returns(config)))
    for name, config in DT_PRESETS.items()
}

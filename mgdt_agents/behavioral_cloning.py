"""Behavioral cloning: the same transformer without return tokens (Lee et al. 2022, section 4.2)."""

from typing import Any, ClassVar

from mgdt_agents.decision_transformer import (
    PRESETS,
    DecisionTransformer,
    DecisionTransformerAgent,
    PredictedReturn,
)
from mgdt_agents.decision_transformer.config import FIELDS_OF_RETURNS, without_returns
from mgdt_agents.decision_transformer.rules import ActingRule
from mgdt_envs.errors import InvalidArgument


class BehavioralCloningAgent(DecisionTransformerAgent):
    """Imitates the play it was trained on, good and bad alike.

    Args:
        config: the model's sizes, with `return_tokens="none"`, or the name of a preset.
        rule: how actions are chosen; None takes `default_rule`.
        games, protocol, device: see `NetworkAgent`.
    """

    kind = "bc"
    unread = FIELDS_OF_RETURNS
    presets: ClassVar[dict[str, Any]] = {
        name: without_returns(config) for name, config in PRESETS.items()
    }

    def _make_model(self) -> DecisionTransformer:
        if self.config.return_tokens != "none":
            raise InvalidArgument(
                f"Behavioral cloning has no return tokens: expected return_tokens='none', "
                f"got {self.config.return_tokens!r}."
            )
        return super()._make_model()

    def default_rule(self) -> ActingRule:
        """Return the rule that draws actions as predicted; with our stem, "conv", sharpened."""
        # As `dt` of such a network does; docs/three_games.md has what was tried.
        return PredictedReturn(action_temperature=0.5 if self.config.stem == "conv" else 1.0)

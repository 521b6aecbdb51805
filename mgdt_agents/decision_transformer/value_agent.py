"""The agent that clones the data's play and improves it by action values."""

import copy
import math
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mgdt_agents.action_sets import actions_of_batch
from mgdt_agents.decision_transformer.agent import DecisionTransformerAgent
from mgdt_agents.decision_transformer.config import FIELDS_OF_RETURNS
from mgdt_agents.decision_transformer.rules import ActingRule, PredictedReturn
from mgdt_agents.decision_transformer.sequence_agent import cross_entropy
from mgdt_agents.decision_transformer.tokens import encode_rewards
from mgdt_agents.decision_transformer.value_model import (
    PRESETS,
    ValueTransformer,
    ValueTransformerConfig,
)
from mgdt_agents.q_learning.window_values import value_terms
from mgdt_agents.replay.sampler import WindowBatch
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol


class ValueTransformerAgent(DecisionTransformerAgent):
    """Draws actions by likelihood times exp(beta Q): `bc` with beta 0, better than it above.

    The likelihood is the policy head's, and Q the value head's, learned from n-step returns and a
    target network that looks at likely actions alone. One beta serves all games.

    Args:
        config: the model's sizes, or the name of a preset.
        beta: how much values count.
        rule: how actions are chosen; None draws them at a temperature of 0.5.
        games, protocol, device: see `NetworkAgent`.
    """

    model: ValueTransformer
    target: ValueTransformer
    kind = "dtq"
    config_class = ValueTransformerConfig
    settings = ("beta",)
    unread = (*FIELDS_OF_RETURNS, "loss_weights")
    presets: ClassVar[dict[str, Any]] = PRESETS

    def __init__(
        self,
        config: ValueTransformerConfig | str = "10m",
        *,
        beta: float = 3.0,
        rule: ActingRule | None = None,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(config, rule=rule, games=games, protocol=protocol, device=device)
        self.beta = beta
        self.target = copy.deepcopy(self.model).requires_grad_(False).eval()

    @property
    def beta(self) -> float:
        """How much values count when acting."""
        return self.model.beta

    @beta.setter
    def beta(self, beta: float) -> None:
        if not isinstance(beta, numbers.Real) or not 0 <= beta < math.inf:
            raise InvalidArgument(f"beta must be a finite number, not negative, got {beta!r}")
        self.model.beta = float(beta)

    def default_rule(self) -> ActingRule:
        """Return the rule that draws actions, from a sharper distribution than the model's."""
        return PredictedReturn(action_temperature=0.5)  # docs/three_games.md has what was tried

    def _make_model(self) -> ValueTransformer:
        return ValueTransformer(self.config)

    @property
    def windows(self) -> dict[str, Any]:
        """Windows of the model's steps, and after them those of the target's."""
        return {"steps": self.config.steps, "future": self.config.n_steps}

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's and the reward's cross-entropy plus the value's.

        All steps of the window are learned, the values by `value_terms`. A step's target comes from
        the window that begins `n_steps` later.
        """
        config = self.config
        T, N = config.steps, config.n_steps
        valid = self._to_device(batch.valid)
        actions, allowed_BA = map(
            self._to_device, actions_of_batch(batch, self.games, self.protocol)
        )
        rewards = self._to_device(encode_rewards(batch.rewards))
        inputs = (self._to_device(batch.frames), actions, rewards)
        logits = self.model(*(part[:, :T] for part in inputs))
        # Of all steps, padded ones among them, so that parts of a batch average to the whole.
        steps = actions[:, :T].numel()
        action_loss = cross_entropy(logits["action"], actions[:, :T], valid[:, :T])
        terms = {"action_loss": action_loss / steps}
        weights = [config.action_weight]
        if config.reward_tokens:
            reward_loss = cross_entropy(logits["reward"], rewards[:, :T], valid[:, :T])
            terms["reward_loss"] = reward_loss / steps
            weights.append(config.reward_weight)
        terms |= value_terms(
            logits["value"],
            self.target(*(part[:, N:] for part in inputs)),
            actions[:, :T],
            self._to_device(batch.rewards),
            self._to_device(batch.terminated),
            valid,
            allowed_BA,
            config,
        )
        weights.append(config.value_weight)
        if config.conservative_weight:
            weights.append(config.value_weight * config.conservative_weight)
        weighed = [weight * term for weight, term in zip(weights, terms.values(), strict=True)]
        hits = (logits["action"].argmax(-1) == actions[:, :T]) & valid[:, :T]
        return torch.stack(weighed).sum(), {**terms, "accuracy": hits.sum() / steps}

"""Action values learned at every step of a window, beside a policy that says what is likely.

Shape suffixes: B windows, T learned steps, W = T + n_steps rows of a window, A actions, Z atoms.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.q_learning import losses

if TYPE_CHECKING:
    from mgdt_agents.decision_transformer.value_model import ValueTransformerConfig
    from mgdt_agents.planning.config import TrajectoryTransformerConfig


def likely_actions(policy_logits_BTA: Tensor, allowed_BA: Tensor, share: float) -> Tensor:
    """Return `(B, T, A)` bool: allowed actions that are likely beside the likeliest of them.

    Args:
        policy_logits_BTA: of the behavior's actions.
        allowed_BA: bool, the actions that the game has.
        share: of the likeliest action's likelihood, the least that counts.
    """
    allowed_B1A = allowed_BA[:, None]
    policy = policy_logits_BTA.float().masked_fill(~allowed_B1A, -torch.inf).softmax(-1)
    return (policy >= share * policy.amax(-1, keepdim=True)) & allowed_B1A


def value_terms(
    value_logits_BTAZ: Tensor,
    target: Mapping[str, Tensor],
    actions_BT: Tensor,
    rewards_BW: Tensor,
    terminated_BW: Tensor,
    valid_BW: Tensor,
    allowed_BA: Tensor,
    config: "ValueTransformerConfig | TrajectoryTransformerConfig",
) -> dict[str, Tensor]:
    """Return "value_loss", and with a conservative weight "conservative_loss", means over steps.

    A step's target is the target network's value `n_steps` later. Steps followed by a time limit
    within these have no value to go on from and do not count. Means are of all steps, padded ones
    among them, so that parts of a batch average to the whole.

    Args:
        value_logits_BTAZ: of the network that learns.
        target: "action" `(B, T, A)` and "value" `(B, T, A, Z)`, the target network's logits
            `n_steps` later.
        actions_BT: int64, the actions taken.
        rewards_BW: as stored.
        terminated_BW: bool, the game ended the episode at the step.
        valid_BW: bool, the row is a step of the episode.
        allowed_BA: bool, the actions that the game has.
        config: how values are learned.
    """
    T, N = actions_BT.shape[1], config.n_steps
    returns, discounts, known = losses.n_step_returns(
        rewards_BW.unfold(1, N, 1)[:, :T].flatten(0, 1),
        terminated_BW.unfold(1, N, 1)[:, :T].flatten(0, 1),
        valid_BW[:, N:].flatten(),
        config.value_discount,
    )
    wanted = _target(target, allowed_BA, returns, discounts, config)
    actions, valid = actions_BT.flatten(), valid_BW[:, :T].flatten()
    chosen = losses.of_actions(value_logits_BTAZ.flatten(0, 1), actions)
    errors = F.cross_entropy(chosen, wanted, reduction="none")
    terms = {"value_loss": (errors * (known & valid)).sum() / len(actions)}
    if config.conservative_weight:
        values = losses.expected_values(value_logits_BTAZ, config.max_value).flatten(0, 1)
        conservative = losses.conservative_loss(values, actions, allowed_BA.repeat_interleave(T, 0))
        terms["conservative_loss"] = (conservative * valid).sum() / len(actions)
    return terms


@torch.no_grad()
def _target(
    target: Mapping[str, Tensor],
    allowed_BA: Tensor,
    returns: Tensor,
    discounts: Tensor,
    config: "ValueTransformerConfig | TrajectoryTransformerConfig",
) -> Tensor:
    """Return `(B * T, Z)`: what the taken actions' distributions shall be."""
    likely = likely_actions(target["action"], allowed_BA, config.likely)
    values = losses.expected_values(target["value"], config.max_value).flatten(0, 1)
    best = losses.best_actions(values, likely.flatten(0, 1))
    logits = losses.of_actions(target["value"].flatten(0, 1), best)
    return losses.value_target(config.value_loss, logits, returns, discounts, config.max_value)

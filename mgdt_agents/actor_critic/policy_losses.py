"""V-trace and the losses of IMPALA, as functions of tensors.

Shape suffixes: T steps, B environments, A actions. All arithmetic is in fp32.
"""

import importlib
from typing import NamedTuple

import torch
from torch import Tensor

from mgdt_envs.errors import importing


class VTrace(NamedTuple):
    """What V-trace makes of T steps, without gradient."""

    targets: Tensor
    """`(T, B)` values to learn, v of Espeholt et al. 2018, equation 1."""
    advantages: Tensor
    """`(T, B)` weights of the policy gradient, ratio included (section 4.2)."""


class PolicyLosses(NamedTuple):
    """Sums over all steps that are transitions."""

    policy: Tensor
    value: Tensor
    entropy: Tensor


def check_torchrl() -> None:
    """Raise `MissingExtra` unless TorchRL, whose V-trace is used, is installed."""
    with importing("IMPALA needs TorchRL", "online"):
        importlib.import_module("torchrl.objectives.value.functional")


@torch.no_grad()
def vtrace(
    learner_log_probs_TB: Tensor,
    actor_log_probs_TB: Tensor,
    values_TB: Tensor,
    rewards_TB: Tensor,
    terminated_TB: Tensor,
    truncated_TB: Tensor,
    is_transition_TB: Tensor,
    discount: float,
) -> VTrace:
    """Return TorchRL's V-trace of steps that follow one another, with ratios cut at 1.

    Args:
        learner_log_probs_TB: of the actions, by the policy that learns.
        actor_log_probs_TB: of the actions, by the policy that played.
        values_TB: `(T + 1, B)`, of each step and of what came after the last. After an end, the
            next row is the end's own observation, where the environments reset in the step after.
        rewards_TB: what the actions brought.
        terminated_TB: bool, nothing comes after.
        truncated_TB: bool, a time limit ended the episode.
        is_transition_TB: bool, false where the step only began an episode; its row means nothing.
        discount: per step.
    """
    # Imported only when needed: it takes seconds.
    from torchrl.objectives.value.functional import vtrace_advantage_estimate

    now_TB, next_TB = values_TB[:-1], values_TB[1:]
    begins_TB = ~is_transition_TB
    # A step that only begins an episode is given as one that ends at once and brings what was
    # expected, so that its target is its value. Hence a truncated step before it, whatever version
    # of TorchRL looks at its successor's target or value, goes on from the value of its own end.
    advantages_TB, targets_TB = vtrace_advantage_estimate(
        discount,
        # The docstring has the two the wrong way round: `log_pi` is the policy that learns.
        log_pi=learner_log_probs_TB,
        log_mu=torch.where(begins_TB, learner_log_probs_TB, actor_log_probs_TB),
        state_value=now_TB,
        next_state_value=next_TB,
        reward=torch.where(begins_TB, now_TB, rewards_TB),
        done=terminated_TB | truncated_TB | begins_TB,
        terminated=terminated_TB | begins_TB,
    )
    return VTrace(targets_TB, advantages_TB)


def policy_losses(
    log_probs_TBA: Tensor,
    actions_TB: Tensor,
    advantages_TB: Tensor,
    values_TB: Tensor,
    targets_TB: Tensor,
    is_transition_TB: Tensor,
) -> PolicyLosses:
    """Return the losses of Espeholt et al. 2018, section 4.2, summed over steps as theirs are.

    Args:
        log_probs_TBA: of all actions, by the policy that learns.
        actions_TB: int64, the ones taken.
        advantages_TB: weights of their log probabilities.
        values_TB: as predicted.
        targets_TB: what they should be.
        is_transition_TB: bool, the steps that count.
    """
    counts_TB = is_transition_TB.float()
    chosen_TB = log_probs_TBA.gather(-1, actions_TB[..., None])[..., 0]
    entropies_TB = -(log_probs_TBA.exp() * log_probs_TBA).sum(-1)
    return PolicyLosses(
        policy=-(counts_TB * advantages_TB * chosen_TB).sum(),
        value=(counts_TB * (values_TB - targets_TB).square()).sum() / 2,
        entropy=(counts_TB * entropies_TB).sum(),
    )

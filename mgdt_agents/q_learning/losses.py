"""Targets and losses of categorical Q-learning, as functions of tensors.

Shape suffixes: B states, N steps ahead, A actions, Z atoms, the points of a return distribution.
All arithmetic is in fp32, whatever the autocast: good and bad actions often differ by less than
bf16 resolves.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

HL_GAUSS_SIGMA = 0.75
"""Standard deviation of `hl_gauss_target`, in widths of a bin (Farebrother et al. 2024)."""


def atoms(max_value: float, count: int, device: torch.device | None = None) -> Tensor:
    """Return the `(Z,)` returns from `-max_value` to `max_value` that distributions are over."""
    return torch.linspace(-max_value, max_value, count, device=device)


def expected_values(logits_BAZ: Tensor, max_value: float) -> Tensor:
    """Return the `(B, A)` expected returns of the distributions with these logits."""
    atoms_Z = atoms(max_value, logits_BAZ.shape[-1], logits_BAZ.device)
    # Not a matrix product, which autocast would compute in bf16.
    return (logits_BAZ.float().softmax(-1) * atoms_Z).sum(-1)


def n_step_returns(
    rewards_BN: Tensor, terminated_BN: Tensor, continues_B: Tensor, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what N steps brought, and how much of the value after them counts.

    Args:
        rewards_BN: of the steps from the state on, 0 after the episode's end.
        terminated_BN: bool, the game ended the episode at the step.
        continues_B: bool, the episode goes on after the N steps.
        discount: per step.

    Returns:
        returns: `(B,)` discounted sums of the rewards, which are clipped to [-1, 1].
        discounts: `(B,)` factor of the value after the N steps; 0 where the episode ended.
        known: `(B,)` bool; not where a time limit cut the episode: what would have followed is not
            known there.
    """
    steps = rewards_BN.shape[1]
    weights_N = discount ** torch.arange(steps, device=rewards_BN.device, dtype=torch.float32)
    returns_B = (rewards_BN.float().clamp(-1, 1) * weights_N).sum(1)
    return returns_B, continues_B * discount**steps, continues_B | terminated_BN.any(1)


def best_actions(values_BA: Tensor, allowed_BA: Tensor) -> Tensor:
    """Return the `(B,)` allowed actions of largest value.

    With the values of the network that is trained, and the target network's distribution of the
    action they choose, the target is double Q-learning's (van Hasselt et al. 2016); with the target
    network's own, it is plain.
    """
    return values_BA.masked_fill(~allowed_BA, -torch.inf).argmax(-1)


def of_actions(distributions_BAZ: Tensor, actions_B: Tensor) -> Tensor:
    """Return the `(B, Z)` distributions, or logits, of one action each."""
    return distributions_BAZ[torch.arange(len(actions_B), device=actions_B.device), actions_B]


def value_target(
    kind: Literal["c51", "hl_gauss"],
    logits_BZ: Tensor,
    returns_B: Tensor,
    discounts_B: Tensor,
    max_value: float,
) -> Tensor:
    """Return `(B, Z)`: what the distribution of an action's value shall be.

    Args:
        kind: C51's projection of the later value's distribution, or a normal distribution around
            its mean.
        logits_BZ: of the value after some steps.
        returns_B: of these steps.
        discounts_B: of that value.
        max_value: the last atom.
    """
    atoms_Z = atoms(max_value, logits_BZ.shape[-1], logits_BZ.device)
    if kind == "c51":
        return c51_target(logits_BZ.softmax(-1), returns_B, discounts_B, atoms_Z)
    values_B = expected_values(logits_BZ, max_value)
    return hl_gauss_target(returns_B + discounts_B * values_B, atoms_Z)


def c51_target(
    probabilities_BZ: Tensor, returns_B: Tensor, discounts_B: Tensor, atoms_Z: Tensor
) -> Tensor:
    """Return `(B, Z)`: the distribution, discounted, shifted and projected on the atoms.

    Bellemare et al. 2017, algorithm 1: the mass of a moved atom goes to its two neighbors.
    """
    moved_BZ = returns_B[:, None] + discounts_B[:, None] * atoms_Z
    moved_BZ = moved_BZ.clamp(atoms_Z[0], atoms_Z[-1])
    spacing = atoms_Z[1] - atoms_Z[0]
    shares_BZZ = (1 - (moved_BZ[:, :, None] - atoms_Z).abs() / spacing).clamp(0, 1)
    return (probabilities_BZ.float()[:, :, None] * shares_BZZ).sum(1)


def hl_gauss_target(values_B: Tensor, atoms_Z: Tensor) -> Tensor:
    """Return `(B, Z)`: a normal distribution around each value, as masses of the atoms' bins.

    Farebrother et al. 2024, "Stop Regressing", section 3.1; values are kept between the first and
    the last atom.

    Args:
        values_B: the returns to learn.
        atoms_Z: centers of the bins.
    """
    spacing = atoms_Z[1] - atoms_Z[0]
    edges = torch.cat([atoms_Z - spacing / 2, atoms_Z[-1:] + spacing / 2])
    values_B = values_B.float().clamp(atoms_Z[0], atoms_Z[-1])
    below = torch.special.ndtr((edges - values_B[:, None]) / (HL_GAUSS_SIGMA * spacing))
    return below.diff(dim=-1) / (below[:, -1:] - below[:, :1])


def conservative_loss(values_BA: Tensor, actions_B: Tensor, allowed_BA: Tensor) -> Tensor:
    """Return `(B,)`: log sum exp of the allowed actions' values, less that of the action taken.

    The regularizer of Kumar et al. 2020, CQL(H); it is the cross-entropy of behavioral cloning with
    values as logits (Lee et al. 2022, section 4.2). Actions taken must be allowed.
    """
    values_BA = values_BA.float().masked_fill(~allowed_BA, -torch.inf)
    return F.cross_entropy(values_BA, actions_B, reduction="none")

"""Beam search over imagined steps, for several environments at once.

The real steps' tokens are computed once. What is imagined after an action adds its tokens to the
keys and values of what came before, and those of all nodes of a depth are computed together.

Shape suffixes are those of `mgdt_agents.planning.world_model`; B environments, P nodes, each of
which is of one environment.
"""

import numbers
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mgdt_agents.config_checks import check_interval
from mgdt_agents.decision_transformer.model import KeysValues
from mgdt_agents.decision_transformer.tokens import NEGATIVE, POSITIVE
from mgdt_agents.planning.world_model import WorldModel
from mgdt_agents.q_learning.losses import expected_values
from mgdt_agents.q_learning.window_values import likely_actions
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How far to look ahead, and at what.

    Example:
        >>> Search(horizon=1)
        Search(horizon=1, beam=4, likely=0.01)
    """

    horizon: int = 2
    """Imagined steps; 0 takes the values of the real state."""
    beam: int = 4
    """Imagined states of each environment that are looked beyond."""
    likely: float = 0.01
    """Candidates are the actions whose likelihood, by the behavior, is at least this share of the
    likeliest one's; docs/planning.md has why it is so small."""

    def __post_init__(self) -> None:
        for name in ("horizon", "beam"):
            if not isinstance(value := getattr(self, name), numbers.Integral):
                raise InvalidArgument(f"{name} must be a whole number, got {value!r}")
        check_interval(self, "[0, inf)", "horizon")
        check_interval(self, "[1, inf)", "beam")
        check_interval(self, "[0, 1]", "likely")


class Nodes(NamedTuple):
    """P real or imagined states."""

    env: Tensor
    """`(P,)` int64, the environment that each is of."""
    first: Tensor
    """`(P,)` int64, the real state's action that it follows from."""
    reward: Tensor
    """`(P,)`, the discounted rewards up to it."""
    weight: Tensor
    """`(P,)`, of what comes after it: the discount, times the probability of no end before."""
    tokens: Tensor
    """`(P, M, C)` int64, its frame."""
    frame: Tensor
    """`(P, M, D)`, the outputs of its frame's tokens."""
    kept: list[KeysValues]
    """Of each block, the keys and values of all tokens up to its frame's."""
    values: Tensor
    """`(P, A)`, what actions are worth there."""
    candidates: Tensor
    """`(P, A)` bool, the actions that are likely there."""

    @property
    def score(self) -> Tensor:
        """`(P,)`: the rewards up to the node, and the value of its best candidate."""
        best = self.values.masked_fill(~self.candidates, -torch.inf).amax(-1)
        return self.reward + self.weight * best

    def at(self, rows: Tensor) -> "Nodes":
        """Return some of the nodes."""
        parts = [
            [(keys[rows], values[rows]) for keys, values in part]
            if isinstance(part, list)
            else part[rows]
            for part in self
        ]
        return Nodes(*parts)  # type: ignore[arg-type]


class Found(NamedTuple):
    """What a search found."""

    scores: Tensor
    """`(B, A)`: of the best plan that begins with each action; minus infinity where there is no
    such plan, for want of likelihood or of room in the beam."""
    policy: Tensor
    """`(B, A)` logits of the behavior's actions."""


@torch.no_grad()
def search(
    world: WorldModel,
    tokens_BTMC: Tensor,
    actions_BT: Tensor,
    rewards_BT: Tensor,
    allowed_BA: Tensor,
    plan: Search,
) -> Found:
    """Look ahead from the last of the given steps.

    The model is in evaluation mode.

    Args:
        world: imagines what follows.
        tokens_BTMC: int64, the frames of the real steps.
        actions_BT: int64; the last step's is not seen.
        rewards_BT: int64 reward tokens; the last step's is not seen.
        allowed_BA: bool, the actions that each environment's game has.
        plan: how far.

    Raises:
        ValueError: if the model has no places for so many steps, or an environment has no
            candidate.
    """
    steps, most = tokens_BTMC.shape[1], world.config.steps
    if steps + plan.horizon > most:
        raise InvalidArgument(
            f"Expected at most {most - steps} imagined steps after {steps} real ones, for which "
            f"the model was trained, got horizon={plan.horizon}."
        )
    nodes, policy = _root(world, tokens_BTMC, actions_BT, rewards_BT, allowed_BA, plan)
    if not nodes.candidates.any(-1).all():
        row = int((~nodes.candidates.any(-1)).nonzero()[0])
        raise InvalidArgument(
            f"No action is left for row {row}: of the actions that its game has, "
            f"{allowed_BA[row].nonzero()[:, 0].tolist()}, the model's likelihoods are "
            f"{policy[row].softmax(-1)[allowed_BA[row]].tolist()}."
        )
    scores = nodes.values.masked_fill(~nodes.candidates, -torch.inf)
    for depth in range(plan.horizon):
        if depth:
            nodes = nodes.at(_best(nodes, len(scores), plan.beam))
        nodes = _imagine(world, nodes, allowed_BA, plan, first=depth == 0)
        scores = torch.full_like(scores, -torch.inf)
        place = nodes.env * scores.shape[1] + nodes.first
        scores.view(-1).scatter_reduce_(0, place, nodes.score, "amax")
    return Found(scores, policy)


def _root(
    world: WorldModel,
    tokens_BTMC: Tensor,
    actions_BT: Tensor,
    rewards_BT: Tensor,
    allowed_BA: Tensor,
    plan: Search,
) -> tuple[Nodes, Tensor]:
    """Return the real states, and the logits of the behavior's actions there."""
    x_BTKD = world.embed(tokens_BTMC, actions_BT, rewards_BT)
    x_BSD, kept = world.extend(x_BTKD.flatten(1, 2)[:, :-2], [])
    frame_BMD = x_BSD[:, -tokens_BTMC.shape[2] :]
    rows = torch.arange(len(x_BSD), device=x_BSD.device)
    nothing = x_BSD.new_zeros(len(rows), dtype=torch.float32)
    nodes, policy = _judged(world, frame_BMD, allowed_BA, plan)
    return (
        Nodes(rows, rows, nothing, nothing + 1, tokens_BTMC[:, -1], frame_BMD, kept, *nodes),
        policy,
    )


def _judged(
    world: WorldModel, frame_PMD: Tensor, allowed_PA: Tensor, plan: Search
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return values and candidates, and the behavior's logits, of states."""
    judged = world.judge(frame_PMD[:, None, -1])
    values = expected_values(judged["value"], world.config.max_value)[:, 0]
    candidates = likely_actions(judged["action"], allowed_PA, plan.likely)[:, 0]
    return (values, candidates), judged["action"][:, 0].float()


def _imagine(
    world: WorldModel, nodes: Nodes, allowed_BA: Tensor, plan: Search, *, first: bool
) -> Nodes:
    """Return what follows from each candidate of each node."""
    row, action = nodes.candidates.nonzero().unbind(1)
    nodes = nodes.at(row)
    embedded = world.action_embedding(action)[:, None]
    action_P1D, kept = world.extend(embedded, nodes.kept)
    seen = world.foresee(nodes.frame[:, None], action_P1D, nodes.tokens[:, None])
    chances = seen["reward"][:, 0].float().softmax(-1)
    reward = chances[:, POSITIVE] - chances[:, NEGATIVE]
    goes_on = (-seen["end"][:, 0].float()).sigmoid()
    tokens = seen["frame"][:, 0].argmax(-1)
    outcome = seen["reward"].argmax(-1)
    x_PQD = torch.cat([world.reward_embedding(outcome), world.embed_frame(tokens)], 1)
    x_PQD, kept = world.extend(x_PQD, kept)
    judged, _ = _judged(world, x_PQD[:, 1:], allowed_BA[nodes.env], plan)
    return Nodes(
        nodes.env,
        action if first else nodes.first,
        nodes.reward + nodes.weight * reward,
        nodes.weight * goes_on * world.config.value_discount,
        tokens,
        x_PQD[:, 1:],
        kept,
        *judged,
    )


def _best(nodes: Nodes, envs: int, beam: int) -> Tensor:
    """Return the rows of each environment's nodes of highest score."""
    order = nodes.score.argsort(descending=True, stable=True)
    order = order[nodes.env[order].argsort(stable=True)]
    counts = nodes.env.bincount(minlength=envs)
    starts = (counts.cumsum(0) - counts)[nodes.env[order]]
    rank = torch.arange(len(order), device=order.device) - starts
    return order[rank < beam]

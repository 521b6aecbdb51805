"""The search as a plain loop: each plan for itself, all of its tokens anew at each step."""

import math

import torch

from mgdt_agents.decision_transformer.tokens import NEGATIVE, POSITIVE
from mgdt_agents.planning.search import Search
from mgdt_agents.planning.world_model import WorldModel
from mgdt_agents.q_learning.losses import expected_values

Plan = tuple[float, list[int], torch.Tensor, torch.Tensor, torch.Tensor, float, float]


@torch.no_grad()
def plain_search(
    world: WorldModel,
    tokens_TMC: torch.Tensor,
    actions_T: torch.Tensor,
    rewards_T: torch.Tensor,
    allowed_A: torch.Tensor,
    plan: Search,
) -> list[float]:
    """Return the score of the best plan that begins with each action, of one environment."""
    discount = world.config.value_discount

    def judged(tokens, actions, rewards):
        """Return values and candidates after some steps, the last of which lacks its action."""
        said = world(tokens[None], actions[None], rewards[None])
        values = expected_values(said["value"], world.config.max_value)[0, -1].tolist()
        policy = said["action"][0, -1].masked_fill(~allowed_A, -math.inf).softmax(-1).tolist()
        return values, [
            action
            for action, chance in enumerate(policy)
            if allowed_A[action] and chance >= plan.likely * max(policy)
        ]

    def score(tokens, actions, rewards, reward, weight):
        values, candidates = judged(tokens, actions, rewards)
        return reward + weight * max(values[action] for action in candidates)

    values, candidates = judged(tokens_TMC, actions_T, rewards_T)
    if plan.horizon == 0:
        return [value if action in candidates else -math.inf for action, value in enumerate(values)]
    plans: list[Plan] = [(0.0, [], tokens_TMC, actions_T, rewards_T, 0.0, 1.0)]
    for depth in range(plan.horizon):
        if depth:
            plans = sorted(plans, key=lambda found: -found[0])[: plan.beam]
        longer: list[Plan] = []
        for _, chosen, tokens, actions, rewards, reward, weight in plans:
            for action in judged(tokens, actions, rewards)[1]:
                taken = torch.cat([actions[:-1], torch.tensor([action])])
                said = world(tokens[None], taken[None], rewards[None])
                chances = said["reward"][0, -1].softmax(-1)
                of_action = reward + weight * float(chances[POSITIVE] - chances[NEGATIVE])
                after = weight * discount * float(1 - said["end"][0, -1].sigmoid())
                got = torch.cat([rewards[:-1], chances.argmax()[None]])
                following = (
                    torch.cat([tokens, said["frame"][0, -1].argmax(-1)[None]]),
                    torch.cat([taken, torch.tensor([0])]),
                    torch.cat([got, torch.tensor([0])]),
                )
                found = score(*following, of_action, after)
                longer.append((found, [*chosen, action], *following, of_action, after))
        plans = longer
    scores = [-math.inf] * len(allowed_A)
    for found, chosen, *_ in plans:
        scores[chosen[0]] = max(scores[chosen[0]], found)
    return scores

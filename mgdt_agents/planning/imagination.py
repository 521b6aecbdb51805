"""What the model imagines of given actions, for any number of steps.

Shape suffixes are those of `mgdt_agents.planning.world_model`; H imagined steps.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.decision_transformer.tokens import NEGATIVE, POSITIVE
from mgdt_agents.planning.world_model import WorldModel


class Imagined(NamedTuple):
    """What follows from H actions, of each row of a batch."""

    frames: np.ndarray
    """`(n, H, height, width)` uint8, the frame after each action."""
    rewards: np.ndarray
    """`(n, H)` float32, the expected reward of each action, clipped to [-1, 1]."""
    ends: np.ndarray
    """`(n, H)` float32, the probability that the episode ends with each action."""


@torch.no_grad()
def imagine(
    world: WorldModel,
    tokens_BTMC: Tensor,
    actions_BT: Tensor,
    rewards_BT: Tensor,
    coming_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens, rewards and ends that follow from actions; the likeliest, fed back.

    Beyond the model's steps the oldest are forgotten.

    Args:
        world: in evaluation mode.
        tokens_BTMC: int64, the frames of the real steps.
        actions_BT: int64; the last step's is not seen.
        rewards_BT: int64 reward tokens; the last step's is not seen.
        coming_BH: int64, the last real step's action and those after it.

    Returns:
        `(B, H, M, C)` int64, `(B, H)` expected rewards, `(B, H)` probabilities of an end.
    """
    seen = []
    for action_B in coming_BH.unbind(1):
        actions_BT = torch.cat([actions_BT[:, :-1], action_B[:, None]], 1)
        outputs = world(tokens_BTMC, actions_BT, rewards_BT)
        chances = outputs["reward"][:, -1].float().softmax(-1)
        following = outputs["frame"][:, -1:].argmax(-1)
        reward = chances[:, POSITIVE] - chances[:, NEGATIVE]
        seen.append((following[:, 0], reward, outputs["end"][:, -1].float().sigmoid()))
        rewards_BT = torch.cat([rewards_BT[:, :-1], chances.argmax(-1)[:, None]], 1)
        first = max(0, tokens_BTMC.shape[1] + 1 - world.config.steps)
        tokens_BTMC = torch.cat([tokens_BTMC, following], 1)[:, first:]
        actions_BT, rewards_BT = F.pad(actions_BT, (0, 1)), F.pad(rewards_BT, (0, 1))
        actions_BT, rewards_BT = actions_BT[:, first:], rewards_BT[:, first:]
    tokens, rewards, ends = zip(*seen, strict=True)
    return torch.stack(tokens, 1), torch.stack(rewards, 1), torch.stack(ends, 1)

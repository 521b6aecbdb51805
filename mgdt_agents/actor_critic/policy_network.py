"""The network of IMPALA: an Impala ResNet, perhaps an LSTM, a policy and a value.

Shape suffixes: T steps, B environments, Y X C height, width and stack of what is seen, D features,
U units of the LSTM, A actions, G games.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mgdt_agents.actor_critic.popart import PopArt
from mgdt_agents.config_checks import check_interval, check_unread
from mgdt_agents.devices import without_autocast
from mgdt_agents.frames import to_pixels
from mgdt_agents.linear import fp32_linear
from mgdt_agents.q_learning.networks import ImpalaBody, ImpalaConfig
from mgdt_envs.errors import InvalidArgument

EXCLUDED = -1e9
"""Logit of an action that a game does not have; finite, so that entropies are."""
NO_ACTION = -1
"""The last action where an episode begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpalaAgentConfig(ImpalaConfig):
    """The network; the default is the deep one of Espeholt et al. 2018 (figure 3), without LSTM."""

    stages: tuple[int, ...] = (16, 32, 32)
    """Channels of the stages; each halves the picture."""
    blocks: int = 2
    """Residual blocks of a stage."""
    hidden: int = 256
    """Units of the layer between the pictures and the heads."""
    halve_frames: bool = False
    """See the means of 2x2 pixels: a quarter as many."""
    lstm: int = 0
    """Units of an LSTM, which also reads the last action and its reward (256 in Espeholt et al.
    2018, figure 3); 0 is none."""
    value_games: int = 0
    """Games whose values have a scale each, by PopArt: all games of the agent; 0 is one value of
    clipped rewards for all."""

    def __post_init__(self) -> None:
        ImpalaConfig.__post_init__(self)
        check_unread(self, "by impala", "normalize_features")
        if self.halve_frames and self.frame_size % 2:
            raise InvalidArgument(f"frame_size must be even to be halved, got {self.frame_size}")
        check_interval(self, "[0, inf)", "lstm", "value_games")

    @property
    def pixels_shape(self) -> tuple[int, int, int]:
        """Height, width and stack of what the network sees of an observation."""
        size = self.frame_size // 2 if self.halve_frames else self.frame_size
        return size, size, self.frame_stack

    def pixels(self, observations: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the network sees of `(n, stack, height, width)`: the stack last."""
        if self.halve_frames:
            return to_pixels(observations)
        return np.ascontiguousarray(np.moveaxis(observations, 1, -1))


class Memory(NamedTuple):
    """What an LSTM keeps from step to step."""

    hidden: Tensor
    """`(B, U)`"""
    cell: Tensor
    """`(B, U)`"""


class PolicyOutputs(NamedTuple):
    """What the network says of T steps of B environments."""

    logits: Tensor
    """`(T, B, A)` fp32, of all 18 actions; see `masked_logits`."""
    values: Tensor
    """`(T, B, G)` fp32, normalized by PopArt; G is 1 without."""
    memory: Memory
    """After the last step; empty without an LSTM."""


def masked_logits(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return the logits with those of actions that are not `allowed`, bool, excluded."""
    return logits.masked_fill(~allowed, EXCLUDED)


class PolicyNetwork(nn.Module):
    """A policy and a value of what is seen.

    The body computes in the precision of its weights or of autocast, all after it in fp32:
    `network.body.bfloat16()` is what a CPU plays fastest with.
    """

    def __init__(self, config: ImpalaAgentConfig) -> None:
        super().__init__()
        self.config = config
        self.body = ImpalaBody(dataclasses.replace(config, frame_size=config.pixels_shape[0]))
        # PyTorch declares no types for this call.
        self.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lstm = None
        if config.lstm:
            self.lstm = nn.LSTMCell(config.hidden + config.actions + 1, config.lstm)
        features = config.lstm or config.hidden
        self.policy = nn.Linear(features, config.actions)
        self.value = PopArt(features, max(1, config.value_games))

    def initial_memory(self, count: int) -> Memory:
        """Return the memory of `count` environments where episodes begin."""
        zeros = self.policy.weight.new_zeros(count, self.config.lstm)
        return Memory(zeros, zeros)

    def forward(
        self,
        pixels_TBYXC: Tensor,
        memory: Memory | None = None,
        starts_TB: Tensor | None = None,
        last_actions_TB: Tensor | None = None,
        last_rewards_TB: Tensor | None = None,
    ) -> PolicyOutputs:
        """Return the policy and the values of T steps that follow one another.

        Args:
            pixels_TBYXC: uint8, as `mgdt_agents.frames.to_pixels` makes them where the config
                halves frames, and else the frames with the stack last.
            memory: before the first step; None is where episodes begin. What follows is read by
                an LSTM alone.
            starts_TB: bool, steps that begin an episode: what was before is forgotten; None is
                none.
            last_actions_TB: int64 full-set ids of the actions before, `NO_ACTION` where there is
                none; None is none anywhere.
            last_rewards_TB: what these actions brought, clipped; None is 0.
        """
        steps, count = pixels_TBYXC.shape[:2]
        flat = pixels_TBYXC.flatten(0, 1).permute(0, 3, 1, 2)
        features_TBD = self.body.features(flat).unflatten(0, (steps, count))
        if memory is None:
            memory = self.initial_memory(count)
        with without_autocast(features_TBD.device):
            features_TBD = features_TBD.float()
            if self.lstm is not None:
                features_TBD, memory = self._remember(
                    features_TBD, memory, starts_TB, last_actions_TB, last_rewards_TB
                )
        return PolicyOutputs(
            fp32_linear(self.policy, features_TBD), self.value(features_TBD), memory
        )

    def _remember(
        self,
        features_TBD: Tensor,
        memory: Memory,
        starts_TB: Tensor | None,
        last_actions_TB: Tensor | None,
        last_rewards_TB: Tensor | None,
    ) -> tuple[Tensor, Memory]:
        """Return the `(T, B, U)` outputs of the LSTM and its memory after them."""
        assert self.lstm is not None
        shape = features_TBD.shape[:2]
        like = features_TBD.new_zeros(shape)
        starts_TB = like.bool() if starts_TB is None else starts_TB
        actions_TB = like.long() + NO_ACTION if last_actions_TB is None else last_actions_TB
        actions_TB = actions_TB.masked_fill(starts_TB, NO_ACTION)
        rewards_TB = like if last_rewards_TB is None else last_rewards_TB.masked_fill(starts_TB, 0)
        # One column more, for no action, which is left out.
        known_TBA = F.one_hot(actions_TB + 1, self.config.actions + 1)[..., 1:]
        inputs = torch.cat([features_TBD, known_TBA, rewards_TB[..., None]], -1)
        dtype = self.lstm.weight_hh.dtype
        inputs, hidden, cell = inputs.to(dtype), memory.hidden.to(dtype), memory.cell.to(dtype)
        outputs = []
        for inputs_B, starts_B in zip(inputs, starts_TB, strict=True):
            keeps = (~starts_B)[:, None]
            hidden, cell = self.lstm(inputs_B, (hidden * keeps, cell * keeps))
            outputs.append(hidden)
        return torch.stack(outputs).float(), Memory(hidden.float(), cell.float())

"""The model written down plainly: the reference for what the package computes with less work.

Every token of the window goes through every layer, and a decision takes one forward pass for each
return that is drawn and one for the action. Weights are those of `DecisionTransformer`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.decision_transformer import DecisionTransformer, DecisionTransformerConfig


class PlainDecisionTransformer(nn.Module):
    """A `DecisionTransformer` whose every output is computed from its definition."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.parts: Any = DecisionTransformer(config)
        self.dropout = nn.Dropout(config.dropout)
        self.allowed = allowed(config)

    def train(self, mode: bool = True) -> "PlainDecisionTransformer":
        # The parts stay as they are laid out for training, which is how torch lays weights out.
        self.training = mode
        self.dropout.train(mode)
        return self

    def frames_as_tokens(self, frames: Tensor) -> Tensor:
        """Return `(batch, steps, tokens of a frame, width)`."""
        stem = self.parts.stem
        if self.config.stem == "conv":
            return self.frames_as_one_token_each(frames)
        maps = stem.patch(frames.flatten(0, 1)[:, None] / 255)
        tokens = maps.flatten(2).transpose(1, 2) + stem.position_MD
        return tokens.unflatten(0, frames.shape[:2])

    def frames_as_one_token_each(self, frames: Tensor) -> Tensor:
        """Return the tokens of Nature DQN's convolutions over each step's own four channels."""
        stem = self.parts.stem
        pixels = frames / 255
        tokens = []
        for step in range(frames.shape[1]):
            channels = [pixels[:, step]]
            for ago in (2, 1, 0):
                newer, older = step - ago, step - ago - 1
                seen = older >= 0
                channels.append(
                    4 * (pixels[:, newer] - pixels[:, older]) if seen else 0 * pixels[:, 0]
                )
            squares = torch.stack(channels, -1).unflatten(2, (-1, 4)).unflatten(1, (-1, 4))
            maps = squares.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)
            tokens.append(stem.norm(stem.output(stem.convolutions(maps).flatten(1))))
        return torch.stack(tokens, 1)[:, :, None]

    def attention(self, block: Any, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (-1, 64)).transpose(1, 2)
            for part in block.query_key_value(block.norm_1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, self.allowed)
        return block.attention_output(mixed.transpose(1, 2).flatten(2))

    def forward(
        self, frames: Tensor, actions: Tensor, rewards: Tensor, returns: Tensor | None = None
    ) -> dict[str, Tensor]:
        config, parts = self.config, self.parts
        steps = [
            self.frames_as_tokens(frames),
            *([parts.return_embedding(returns)[:, :, None]] if returns is not None else []),
            *([parts.action_embedding(actions)[:, :, None]] if config.action_tokens else []),
            *([parts.reward_embedding(rewards)[:, :, None]] if config.reward_tokens else []),
        ]
        x = torch.cat(steps, 2) + parts.position_SD.unflatten(0, (config.steps, -1))
        if config.return_tokens == "single":
            shown = torch.ones(x.shape[1:3])
            shown[1:, config.observation_tokens] = 0
            x = x * shown[..., None]
        x = x.flatten(1, 2)
        for block in parts.blocks:
            x = x + self.dropout(self.attention(block, x))
            hidden = F.gelu(block.mlp_input(block.norm_2(x)), approximate="tanh")
            x = x + self.dropout(block.mlp_output(hidden))
        x = parts.norm(x).unflatten(1, (config.steps, -1))
        last = config.observation_tokens - 1
        logits = {}
        if returns is not None:
            logits["return"] = parts.return_head(x[:, :, last])
            last += 1
        logits["action"] = parts.action_head(x[:, :, last])
        if config.reward_tokens:
            logits["reward"] = parts.reward_head(x[:, :, last + config.action_tokens])
        return logits

    @torch.no_grad()
    def decide(
        self,
        frames: Tensor,
        actions: Tensor,
        rewards: Tensor,
        choose_return: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the action logits of the last step, the return logits and the returns drawn."""
        config = self.config
        if config.return_tokens == "none":
            logits = self(frames, actions, rewards)["action"][:, -1]
            return logits, torch.empty(len(frames), 0), torch.empty(len(frames), 0)
        returns = torch.zeros_like(actions)
        drawn = 1 if config.return_tokens == "single" else config.steps
        return_logits = []
        for step in range(drawn):
            logits = self(frames, actions, rewards, returns)["return"][:, step]
            returns[:, step] = choose_return(logits)
            return_logits.append(logits)
        logits = self(frames, actions, rewards, returns)["action"][:, -1]
        return logits, torch.stack(return_logits, 1), returns[:, :drawn]


def allowed(config: DecisionTransformerConfig) -> Tensor:
    """Return which token (row) may see which (column)."""
    kinds = [(step, place) for step in range(config.steps) for place in range(config.step_tokens)]
    frame = config.observation_tokens

    def sees(asking: tuple[int, int], asked: tuple[int, int]) -> bool:
        if config.return_tokens == "single" and asked[1] == frame and asked[0] > 0:
            return False
        same_frame = asking[0] == asked[0] and asking[1] < frame and asked[1] < frame
        return asked <= asking or same_frame

    return torch.tensor([[sees(asking, asked) for asked in kinds] for asking in kinds])

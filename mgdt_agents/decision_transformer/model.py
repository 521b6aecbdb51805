"""The network: frames, returns, actions and rewards of a window in, logits of each step out.

Shape suffixes: B windows, T steps, M observation tokens of a step, K tokens of a step,
S = T * K tokens of a window, D width, N heads, H head size, Y and X pixels; logits end in their
vocabulary: R returns, A actions, W reward tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.decision_transformer.config import DecisionTransformerConfig
from mgdt_agents.frames import frame_changes


class PatchStem(nn.Module):
    """A linear map of each square patch, with a learned position (Lee et al. 2022, footnote 3)."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        """Make the map of `config.patch_size`."""
        super().__init__()
        self.patch = nn.Conv2d(1, config.width, config.patch_size, config.patch_size)
        self.position_MD = nn.Parameter(torch.empty(config.observation_tokens, config.width))
        nn.init.normal_(self.position_MD, std=0.02)

    def forward(self, frames_BTYX: Tensor) -> Tensor:
        """Return `(B, T, M, D)` tokens of uint8 frames, patches row by row."""
        B, T, Y, X = frames_BTYX.shape
        pixels = frames_BTYX.reshape(B * T, 1, Y, X).to(self.position_MD.dtype) / 255
        tokens = self.patch(pixels).flatten(2).transpose(1, 2) + self.position_MD
        return tokens.reshape(B, T, *tokens.shape[1:])


class ConvStem(nn.Module):
    """Nature DQN's convolutions (Mnih et al. 2015) over a step's frame and its recent changes.

    The input is the frame and the changes between the last four, none from outside the window, so
    the sequence stays causal. Layer normalisation follows each convolution: without it, 320,000
    samples of Pong were too few to learn to look at the frames at all.

    The first convolution, 8x8 with stride 4, is computed as 2x2 over squares of 4x4 pixels: the
    same map, but one that CPUs compute faster.
    """

    STACK = 4
    SQUARE = 4

    def __init__(self, config: DecisionTransformerConfig) -> None:
        """Make the convolutions of `config.stem_channels`."""
        super().__init__()
        first, second, third = config.stem_channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(self.STACK * self.SQUARE**2, first, 2),
            nn.GroupNorm(1, first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 4, 2),
            nn.GroupNorm(1, second),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, 3),
            nn.GroupNorm(1, third),
            nn.ReLU(inplace=True),
        )
        side = (config.frame_size // self.SQUARE - 1 - 4) // 2 + 1 - 2
        self.output = nn.Linear(third * side * side, config.width)
        self.norm = nn.LayerNorm(config.width)
        # Near the scale of positions and embeddings; at 1, the frames' positions are lost beside
        # their content, and a return token is slow to find the newest frame.
        nn.init.constant_(self.norm.weight, 0.05)

    def forward(self, frames_BTYX: Tensor) -> Tensor:
        """Return `(B, T, 1, D)` tokens of uint8 frames."""
        B, T, Y, X = frames_BTYX.shape
        pixels = frames_BTYX.to(self.output.weight.dtype) / 255
        changes = F.pad(frame_changes(pixels), (0, 0, 0, 0, self.STACK - 1, 0))
        channels = torch.cat([pixels[..., None], changes.unfold(1, self.STACK - 1, 1)], dim=-1)
        squares = channels.reshape(
            B * T, Y // self.SQUARE, self.SQUARE, X // self.SQUARE, self.SQUARE, self.STACK
        )
        squares = squares.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)
        tokens = self.norm(self.output(self.convolutions(squares).flatten(1)))
        return tokens.reshape(B, T, 1, -1)


class Block(nn.Module):
    """Pre-norm transformer block, as in GPT-2."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        """Make a block of `config.width`."""
        super().__init__()
        self.heads = config.heads
        self.norm_1 = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attention_output = nn.Linear(config.width, config.width)
        self.norm_2 = nn.LayerNorm(config.width)
        self.mlp_input = nn.Linear(config.width, 4 * config.width)
        self.mlp_output = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        for linear in self.linears:
            # The released model's initialisation: variance 2 / layers / inputs.
            nn.init.trunc_normal_(
                linear.weight, std=math.sqrt(2 / config.layers / linear.in_features)
            )
            nn.init.zeros_(linear.bias)

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The block's linear maps, in the order in which they are applied."""
        return self.query_key_value, self.attention_output, self.mlp_input, self.mlp_output

    def forward(self, x_BSD: Tensor, allowed_SS: Tensor) -> Tensor:
        """Return the tokens after attention where `allowed_SS` (query, key) is true, and MLP."""
        query_BNSH, key_BNSH, value_BNSH = (
            self.query_key_value(self.norm_1(x_BSD))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        mixed_BNSH = F.scaled_dot_product_attention(query_BNSH, key_BNSH, value_BNSH, allowed_SS)
        attended_BSD = self.attention_output(mixed_BNSH.transpose(1, 2).flatten(2))
        x_BSD = x_BSD + self.dropout(attended_BSD)
        hidden = F.gelu(self.mlp_input(self.norm_2(x_BSD)), approximate="tanh")
        return x_BSD + self.dropout(self.mlp_output(hidden))


class DecisionTransformer(nn.Module):
    """The sequence model of Lee et al. 2022, as released.

    Every step is [observation tokens, return, action, reward]. Attention is causal, and a frame's
    tokens see one another. The return is predicted at a step's last observation token, the action
    at its return token (or at the last observation token if there are no returns), the reward at
    its action token. With `return_tokens="single"` the return tokens after the first step are zero,
    without a position, and hidden from all tokens, but the action is still read there.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        """Make the network that `config` describes, randomly initialised."""
        super().__init__()
        self.config = config
        width = config.width
        self.stem = PatchStem(config) if config.stem == "patch" else ConvStem(config)
        if config.return_tokens != "none":
            self.return_embedding = nn.Embedding(config.returns, width)
            self.return_head = nn.Linear(width, config.returns)
        self.action_embedding = nn.Embedding(config.actions, width)
        self.reward_embedding = nn.Embedding(config.rewards, width)
        self.position_SD = nn.Parameter(torch.empty(config.steps * config.step_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.action_head = nn.Linear(width, config.actions)
        self.reward_head = nn.Linear(width, config.rewards)
        for module in self.children():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.trunc_normal_(self.position_SD, std=0.02)
        self.allowed_SS: Tensor
        self.hidden_S: Tensor
        self.register_buffer("allowed_SS", _allowed(config), persistent=False)
        self.register_buffer("hidden_S", _hidden(config), persistent=False)

    def forward(
        self,
        frames_BTYX: Tensor,
        actions_BT: Tensor,
        rewards_BT: Tensor,
        returns_BT: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the logits of each step.

        Args:
            frames_BTYX: uint8.
            actions_BT: int64 action ids; that of a step reaches the later tokens only.
            rewards_BT: int64 reward tokens, likewise.
            returns_BT: int64 return bins; None where the model has no return tokens.

        Returns:
            "return" `(B, T, R)` (absent without return tokens), "action" `(B, T, A)` and
            "reward" `(B, T, W)`.
        """
        config = self.config
        B, T = actions_BT.shape
        parts_BTKD = [
            self.stem(frames_BTYX),
            self.action_embedding(actions_BT)[:, :, None],
            self.reward_embedding(rewards_BT)[:, :, None],
        ]
        if config.return_tokens != "none":
            parts_BTKD.insert(1, self.return_embedding(returns_BT)[:, :, None])
        x_BSD = torch.cat(parts_BTKD, dim=2).flatten(1, 2)
        S = x_BSD.shape[1]
        x_BSD = (x_BSD + self.position_SD[:S]).masked_fill(self.hidden_S[:S, None], 0)
        for block in self.blocks:
            x_BSD = block(x_BSD, self.allowed_SS[:S, :S])
        x_BTKD = self.norm(x_BSD).reshape(B, T, config.step_tokens, config.width)
        last = config.observation_tokens - 1
        if config.return_tokens == "none":
            return {
                "action": self.action_head(x_BTKD[:, :, last]),
                "reward": self.reward_head(x_BTKD[:, :, last + 1]),
            }
        return {
            "return": self.return_head(x_BTKD[:, :, last]),
            "action": self.action_head(x_BTKD[:, :, last + 1]),
            "reward": self.reward_head(x_BTKD[:, :, last + 2]),
        }


def _hidden(config: DecisionTransformerConfig) -> Tensor:
    """Return `(S,)` bool: the return tokens without a return."""
    step, place = _places(config)
    single = config.return_tokens == "single"
    return (place == config.observation_tokens) & (step > 0) & single


def _allowed(config: DecisionTransformerConfig) -> Tensor:
    """Return `(S, S)` bool: whether the query token (row) may see the key token (column)."""
    step, place = _places(config)
    position = torch.arange(len(step))
    observes = place < config.observation_tokens
    same_frame = (step[:, None] == step) & observes[:, None] & observes
    return ((position[:, None] >= position) | same_frame) & ~_hidden(config)


def _places(config: DecisionTransformerConfig) -> tuple[Tensor, Tensor]:
    """Return `(S,)` int64: the step of each token, and its place within the step."""
    position = torch.arange(config.steps * config.step_tokens)
    return position // config.step_tokens, position % config.step_tokens

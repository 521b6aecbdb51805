"""The network: frames, returns, actions and rewards of a window in, logits of each step out.

Shape suffixes: B windows, T steps, M observation tokens of a step, K tokens of a step,
S = T * K tokens of a window, Q of them that ask, D width, N heads, H head size, Y and X pixels,
C and F channels before and after a convolution; logits end in their vocabulary: R returns,
A actions, W reward tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from mgdt_agents.decision_transformer.config import HEAD_SIZE, DecisionTransformerConfig
from mgdt_agents.devices import without_autocast
from mgdt_agents.frames import channel_makeup, computing_dtype, first_and_changes, patches_of
from mgdt_agents.linear import Linear, linear

KeysValues = tuple[Tensor, Tensor]
"""`(B, N, S, H)` each."""


class PatchStem(nn.Module):
    """A linear map of each square patch, with a learned position (Lee et al. 2022, footnote 3)."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, config.width, config.patch_size, config.patch_size)
        self.position_MD = nn.Parameter(torch.empty(config.observation_tokens, config.width))
        nn.init.normal_(self.position_MD, std=0.02)

    def forward(self, frames_BTYX: Tensor) -> Tensor:
        """Return `(B, T, M, D)` tokens of uint8 frames, patches row by row."""
        patches = patches_of(frames_BTYX, self.patch.kernel_size[0])
        pixels = patches.flatten(2, 3).to(self.position_MD.dtype) / 255
        return linear(pixels, self.patch.weight.flatten(1), self.patch.bias) + self.position_MD


class ConvStem(nn.Module):
    """Nature DQN's convolutions (Mnih et al. 2015) over a step's frame and its recent changes.

    The input is the frame and the changes between the last four, none from outside the window, so
    the sequence stays causal. Layer normalization follows each convolution: without it, learning to
    look at the frames takes far more samples (docs/agents.md).

    The first convolution, 8x8 with stride 4, is computed as 2x2 over squares of 4x4 pixels: the
    same map, but one that CPUs compute faster. It is computed for all steps of a window at once,
    from its first frame and the changes after it, with weights combined to fit.
    """

    STACK = 4
    SQUARE = 4

    def __init__(self, config: DecisionTransformerConfig) -> None:
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
        self.output = Linear(third * side * side, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.makeup_TSC: Tensor
        self.register_buffer(
            "makeup_TSC", channel_makeup(config.steps, self.STACK), persistent=False
        )
        # Near the scale of positions and embeddings; at 1, the frames' positions are lost beside
        # their content, and a return token is slow to find the newest frame.
        nn.init.constant_(self.norm.weight, 0.05)

    def forward(self, frames_BTYX: Tensor) -> Tensor:
        """Return `(B, T, 1, D)` tokens of uint8 frames."""
        first, *others = self.convolutions
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        dtype = computing_dtype(first.weight)
        squares_BCYX = _squares(first_and_changes(frames_BTYX, dtype), self.SQUARE)
        steps = len(self.makeup_TSC)
        maps_BFYX = F.conv2d(
            squares_BCYX, self._of_all_steps(first.weight).to(dtype), first.bias.repeat(steps)
        )
        # Each step for itself, and channels still last in memory.
        maps_BTYXF = maps_BFYX.permute(0, 2, 3, 1).unflatten(3, (steps, -1)).permute(0, 3, 1, 2, 4)
        x = maps_BTYXF.flatten(0, 1).permute(0, 3, 1, 2)
        for layer in others:
            x = layer(x)
        return self.norm(self.output(x.flatten(1))).unflatten(0, (-1, steps))[:, :, None]

    def _of_all_steps(self, weight: Tensor) -> Tensor:
        """Return the first convolution's weights for `first_and_changes`, `(T * F, C, 2, 2)`."""
        weight = weight.float().unflatten(1, (self.SQUARE, self.SQUARE, self.STACK))
        with without_autocast(weight.device):  # it would round before the sum
            weights = torch.einsum("tsc,fyxcij->tfsyxij", self.makeup_TSC.float(), weight)
        return weights.flatten(2, 4).flatten(0, 1) / 255  # pixels are given in 0..255


def _squares(pixels_BTYX: Tensor, side: int) -> Tensor:
    """Return `(B, T * side * side, Y / side, X / side)`, channels last: squares as channels."""
    # Pixels are moved by eight bytes at a time, which is three times as fast on a CPU.
    words = pixels_BTYX.view(torch.int64)
    rows = words.unflatten(3, (pixels_BTYX.shape[3] // side, -1)).unflatten(2, (-1, side))
    squares = rows.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return squares.view(pixels_BTYX.dtype).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Pre-norm transformer block, as in GPT-2, one of `layers`."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width)
        self.attention_output = Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_input = Linear(width, 4 * width)
        self.mlp_output = Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in self.linears:
            # The released model's initialization: variance 2 / layers / inputs.
            nn.init.trunc_normal_(layer.weight, std=math.sqrt(2 / layers / layer.in_features))
            nn.init.zeros_(layer.bias)

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The block's linear maps, in the order in which they are applied."""
        return self.query_key_value, self.attention_output, self.mlp_input, self.mlp_output

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and lay fp32 weights on a CPU out for it.

        A decision multiplies few tokens, which MKL does faster if a weight's inputs come first in
        memory: one decision of 197M weights then takes 0.9 of the time. The MLP's wide map would
        gain nothing: its outputs would be whole pages apart.
        """
        with torch.inference_mode(False):  # weights made in that mode could not be trained
            for layer in (self.query_key_value, self.attention_output, self.mlp_output):
                weight = layer.weight.data
                plain = type(weight) is Tensor  # and not sharded
                if plain and weight.device.type == "cpu" and weight.dtype == torch.float32:
                    layer.weight.data = weight.contiguous() if mode else weight.t().contiguous().t()
        return super().train(mode)

    def forward(
        self,
        x_BSD: Tensor,
        allowed_QS: Tensor | None,
        kept: KeysValues | None = None,
        read: slice | Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return the tokens after attention and MLP, and the keys and values.

        Args:
            x_BSD: the tokens.
            allowed_QS: bool, the keys (columns) that each query (row) may see; None is all.
            kept: keys and values of tokens before these, which they see too.
            read: the tokens whose output is needed: only these ask. None is all.

        Returns:
            `(B, Q, D)`, and the keys and values of `kept` and of all these tokens.
        """
        normed_BSD = self.norm_1(x_BSD)
        if read is None:
            query_BNQH, key_BNSH, value_BNSH = self.project(normed_BSD)
        else:
            width = x_BSD.shape[-1]
            (query_BNQH,) = self.project(normed_BSD[:, read], slice(None, width))
            key_BNSH, value_BNSH = self.project(normed_BSD, slice(width, None))
            x_BSD = x_BSD[:, read]
        if kept is not None:
            key_BNSH = torch.cat([kept[0], key_BNSH], 2)
            value_BNSH = torch.cat([kept[1], value_BNSH], 2)
        mixed_BNQH = _mixed(query_BNQH, key_BNSH, value_BNSH, allowed_QS)
        attended_BQD = self.attention_output(mixed_BNQH.transpose(1, 2).flatten(2))
        x_BQD = x_BSD + self.dropout(attended_BQD)
        hidden = F.gelu(self.mlp_input(self.norm_2(x_BQD)), approximate="tanh")
        return x_BQD + self.dropout(self.mlp_output(hidden)), (key_BNSH, value_BNSH)

    def project(self, normed_BSD: Tensor, rows: slice = slice(None)) -> tuple[Tensor, ...]:
        """Return the `(B, N, S, H)` queries, keys and values, of which `rows` selects."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        heads = linear(normed_BSD, weight[rows], bias[rows])
        shape = -1, self.mlp_input.in_features // HEAD_SIZE, HEAD_SIZE
        return heads.unflatten(-1, shape).permute(2, 0, 3, 1, 4).unbind(0)


class DecisionTransformer(nn.Module):
    """The sequence model of Lee et al. 2022, as released.

    Every step is [observation tokens, return, action, reward]. Attention is causal, and a frame's
    tokens see one another. The return is predicted at a step's last observation token, the action
    at its return token (or at the last observation token if there are no returns), the reward at
    its action token. With `return_tokens="single"` the return tokens after the first step are zero,
    without a position, and hidden from all tokens, but the action is still read there. With
    `reward_tokens=False` rewards are neither read nor predicted. With `action_tokens=False` actions
    are not read, and the reward is predicted where the action is.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = PatchStem(config) if config.stem == "patch" else ConvStem(config)
        if config.return_tokens != "none":
            self.return_embedding = nn.Embedding(config.returns, width)
            self.return_head = Linear(width, config.returns)
        if config.return_at_action:
            self.return_at_action = nn.Embedding(config.returns, width)
        if config.action_tokens:
            self.action_embedding = nn.Embedding(config.actions, width)
        if config.reward_tokens:
            self.reward_embedding = nn.Embedding(config.rewards, width)
        self.position_SD = nn.Parameter(torch.empty(config.steps * config.step_tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, config.layers, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.action_head = Linear(width, config.actions)
        if config.reward_tokens:
            self.reward_head = Linear(width, config.rewards)
        for module in self.children():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.trunc_normal_(self.position_SD, std=0.02)
        self.allowed_SS: Tensor
        self.hidden_S: Tensor
        self.read_Q: Tensor
        self.register_buffer("allowed_SS", allowed_attention(config), persistent=False)
        self.register_buffer("hidden_S", hidden_tokens(config), persistent=False)
        self.register_buffer("read_Q", _read(config), persistent=False)

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
            actions_BT: int64 action ids; that of a step reaches the later tokens only. Not used
                where the model has no tokens of them.
            rewards_BT: int64 reward tokens, likewise.
            returns_BT: int64 return bins; None where the model has no return tokens.

        Returns:
            "return" `(B, T, R)` (absent without return tokens), "action" `(B, T, A)` and
            "reward" `(B, T, W)` (absent without reward tokens).
        """
        # No token sees those after the last one that is read.
        S = (self.config.steps - 1) * self.config.step_tokens + self.config.read_places[-1] + 1
        x_BSD = self.embed(self.stem(frames_BTYX), actions_BT, rewards_BT, returns_BT)[:, :S]
        allowed_SS = self.allowed_SS[:S, :S]
        *blocks, last_block = self.blocks
        for block in blocks:
            x_BSD, _ = block(x_BSD, allowed_SS)
        x_BQD, _ = last_block(x_BSD, allowed_SS[self.read_Q], read=self.read_Q)
        x_BTQD = self.norm(x_BQD).unflatten(1, (self.config.steps, -1))
        return self.logits(x_BTQD, returns_BT)

    def logits(self, x_BTQD: Tensor, returns_BT: Tensor | None) -> dict[str, Tensor]:
        """Return the logits of each step, of the tokens that they are read at; see `forward`."""
        logits = {} if returns_BT is None else {"return": self.return_head(x_BTQD[:, :, 0])}
        logits["action"] = self.action_logits(self.read_for_action(x_BTQD), returns_BT)
        if self.config.reward_tokens:
            logits["reward"] = self.reward_head(x_BTQD[:, :, -1])
        return logits

    def read_for_action(self, x_BTQD: Tensor) -> Tensor:
        """Return the `(B, T, D)` tokens that actions are read at, of those that are read."""
        return x_BTQD[:, :, self.config.read_places.index(self.config.action_place)]

    def acting_logits(self, x_BTD: Tensor, returns_BT: Tensor | None) -> Tensor:
        """Return the `(B, T, A)` logits that a decision is made by."""
        return self.action_logits(x_BTD, returns_BT)

    def action_logits(self, x_BTD: Tensor, returns_BT: Tensor | None) -> Tensor:
        """Return the `(B, T, A)` logits of actions that are read at the tokens `x_BTD`."""
        if self.config.return_at_action and returns_BT is not None:
            if self.config.return_tokens == "single":
                returns_BT = returns_BT[:, :1].expand(x_BTD.shape[:2])
            x_BTD = x_BTD + self.return_at_action(returns_BT)
        return self.action_head(x_BTD)

    def attention(
        self,
        frames_BTYX: Tensor,
        actions_BT: Tensor,
        rewards_BT: Tensor,
        returns_BT: Tensor | None = None,
    ) -> Tensor:
        """Return how the last step's action looks at the frames, in each layer and head.

        Args: see `forward`.

        Returns:
            `(B, layers, N, T, M)`: the attention of the token that the action is read at to the
            observation tokens. What is missing from 1 goes to the other tokens.
        """
        config = self.config
        x_BSD = self.embed(self.stem(frames_BTYX), actions_BT, rewards_BT, returns_BT)
        read = [config.action_place - config.step_tokens]
        maps = []
        for block in self.blocks:
            assert isinstance(block, Block)
            query_BNSH, key_BNSH, _ = block.project(block.norm_1(x_BSD))
            weights_BNQS = _weights(query_BNSH[:, :, read], key_BNSH, self.allowed_SS[read])
            weights_BNTK = weights_BNQS[:, :, 0].unflatten(-1, (config.steps, -1))
            maps.append(weights_BNTK[..., : config.observation_tokens])
            x_BSD, _ = block(x_BSD, self.allowed_SS)
        return torch.stack(maps, 1)

    def embed(
        self,
        observations_BTMD: Tensor,
        actions_BT: Tensor,
        rewards_BT: Tensor,
        returns_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the `(B, S, D)` tokens of a window, with their positions.

        Args:
            observations_BTMD: what the stem makes of the frames.
            actions_BT: as in `forward`, like the others.
            rewards_BT: likewise.
            returns_BT: likewise.
        """
        single = self.config.return_tokens == "single"
        parts_BTKD = [observations_BTMD]
        if self.config.return_tokens != "none":
            parts_BTKD.append(self.return_embedding(returns_BT)[:, :, None])
        if self.config.action_tokens:
            parts_BTKD.append(self.action_embedding(actions_BT)[:, :, None])
        if self.config.reward_tokens:
            parts_BTKD.append(self.reward_embedding(rewards_BT)[:, :, None])
        x_BSD = torch.cat(parts_BTKD, dim=2).flatten(1, 2) + self.position_SD
        return x_BSD.masked_fill(self.hidden_S[:, None], 0) if single else x_BSD


def _mixed(
    query_BNQH: Tensor, key_BNSH: Tensor, value_BNSH: Tensor, allowed_QS: Tensor | None
) -> Tensor:
    """Return the `(B, N, Q, H)` values that each query attends to."""
    if query_BNQH.dtype == torch.bfloat16 and query_BNQH.device.type == "cpu":
        # PyTorch's kernel takes three times as long here, forward and backward, and its gradients
        # are further from those in fp32.
        return _weights(query_BNQH, key_BNSH, allowed_QS) @ value_BNSH
    return F.scaled_dot_product_attention(query_BNQH, key_BNSH, value_BNSH, allowed_QS)


def _weights(query_BNQH: Tensor, key_BNSH: Tensor, allowed_QS: Tensor | None) -> Tensor:
    """Return `(B, N, Q, S)`: the share of each key in what each query attends to."""
    scores_BNQS = (query_BNQH / math.sqrt(HEAD_SIZE)) @ key_BNSH.transpose(2, 3)
    if allowed_QS is not None:
        scores_BNQS = scores_BNQS.masked_fill(~allowed_QS, -torch.inf)
    return scores_BNQS.softmax(-1)


def _read(config: DecisionTransformerConfig) -> Tensor:
    """Return `(Q,)` int64: the tokens whose output becomes logits."""
    places = torch.tensor(config.read_places)
    return (torch.arange(config.steps)[:, None] * config.step_tokens + places).flatten()


def hidden_tokens(config: DecisionTransformerConfig) -> Tensor:
    """Return `(S,)` bool: the return tokens without a return."""
    position = torch.arange(config.steps * config.step_tokens)
    is_return = position % config.step_tokens == config.observation_tokens
    return is_return & (position >= config.step_tokens) & (config.return_tokens == "single")


def allowed_attention(config: DecisionTransformerConfig) -> Tensor:
    """Return `(S, S)` bool: whether the query token (row) may see the key token (column)."""
    mask_SS = attention_by_frames(config.steps, config.step_tokens, config.observation_tokens)
    return mask_SS & ~hidden_tokens(config)


def attention_by_frames(steps: int, step_tokens: int, frame_tokens: int) -> Tensor:
    """Return `(S, S)` bool: each query may see the keys up to it, and the rest of its frame.

    Args:
        steps: T, of the window.
        step_tokens: K, tokens of a step.
        frame_tokens: M, the first of them, which are the frame's.
    """
    position = torch.arange(steps * step_tokens)
    step, observes = position // step_tokens, position % step_tokens < frame_tokens
    same_frame = (step[:, None] == step) & observes[:, None] & observes
    return (position[:, None] >= position) | same_frame

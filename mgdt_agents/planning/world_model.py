"""The network: tokens of frames, actions and rewards in; what follows, and what is best, out.

Shape suffixes: B windows, T steps, M tokens of a frame, C numbers of such a token, L levels of a
number, K tokens of a step, S tokens of a sequence, Q of them that are new, D width, A actions,
Z atoms of a distribution, W reward tokens, Y and X pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.decision_transformer.model import Block, KeysValues, attention_by_frames
from mgdt_agents.linear import Linear, fp32_linear
from mgdt_agents.planning.config import TrajectoryTransformerConfig
from mgdt_agents.planning.tokenizer import Tokenizer, to_numbers


class WorldModel(nn.Module):
    """A causal transformer over [frame tokens, action, reward] of each step.

    A frame's tokens see one another. At a frame's last token the behavior's action and the actions'
    values are read; at the action token the reward, and whether the episode ends. The next frame's
    tokens are all predicted at once, each from the token in its place and the action's, and each of
    their numbers apart from the others. An end is not fed back: nothing follows it.
    """

    def __init__(self, config: TrajectoryTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.frame_embedding = Linear(config.token_numbers, width)
        self.action_embedding = nn.Embedding(config.actions, width)
        self.reward_embedding = nn.Embedding(config.rewards, width)
        self.position_SD = nn.Parameter(torch.empty(config.steps * config.step_tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, config.layers, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.policy_head = Linear(width, config.actions)
        self.value_head = Linear(width, config.actions * config.atoms)
        self.reward_head = Linear(width, config.rewards)
        self.end_head = Linear(width, 1)
        self.of_place = Linear(width, width)
        self.of_action = Linear(width, width)
        self.frame_head = Linear(width, config.token_numbers * config.levels)
        # Most of a frame's tokens stay what they are, or nearly.
        self.stay = nn.Parameter(torch.full((config.token_numbers, 1), 2.0))
        for embedding in (self.action_embedding, self.reward_embedding):
            nn.init.trunc_normal_(embedding.weight, std=0.02)
        nn.init.trunc_normal_(self.position_SD, std=0.02)
        self.allowed_SS: Tensor
        mask_SS = attention_by_frames(config.steps, config.step_tokens, config.frame_tokens)
        self.register_buffer("allowed_SS", mask_SS, persistent=False)

    def forward(
        self, tokens_BTMC: Tensor, actions_BT: Tensor, rewards_BT: Tensor
    ) -> dict[str, Tensor]:
        """Return the logits of each step.

        Args:
            tokens_BTMC: int64, frames as the tokenizer gives them; T is at most `config.steps`.
            actions_BT: int64 action ids; that of a step reaches what follows from it only.
            rewards_BT: int64 reward tokens, likewise.

        Returns:
            "action" `(B, T, A)`, "value" `(B, T, A, Z)`, "reward" `(B, T, W)`, "end" `(B, T)` and
            "frame" `(B, T, M, C, L)`, the tokens of the next frame.
        """
        x_BTKD = self.embed(tokens_BTMC, actions_BT, rewards_BT)
        # No token comes after the last reward's, so none sees it.
        x_BSD, _ = self.extend(x_BTKD.flatten(1, 2)[:, :-1], [])
        x_BTKD = F.pad(x_BSD, (0, 0, 0, 1)).unflatten(1, (-1, self.config.step_tokens))
        frame_BTMD, action_BTD = x_BTKD[:, :, :-2], x_BTKD[:, :, -2]
        return {
            **self.judge(frame_BTMD[:, :, -1]),
            **self.foresee(frame_BTMD, action_BTD, tokens_BTMC),
        }

    def embed(self, tokens_BTMC: Tensor, actions_BT: Tensor, rewards_BT: Tensor) -> Tensor:
        """Return the `(B, T, K, D)` embeddings of steps' tokens; see `forward`."""
        parts = [
            self.embed_frame(tokens_BTMC),
            self.action_embedding(actions_BT)[:, :, None],
            self.reward_embedding(rewards_BT)[:, :, None],
        ]
        return torch.cat(parts, dim=2)

    def embed_frame(self, tokens_BTMC: Tensor) -> Tensor:
        """Return the `(..., M, D)` embeddings of `(..., M, C)` tokens."""
        numbers = to_numbers(tokens_BTMC, self.config)
        return self.frame_embedding(numbers.to(self.position_SD.dtype))

    def extend(self, x_BQD: Tensor, kept: list[KeysValues]) -> tuple[Tensor, list[KeysValues]]:
        """Return the outputs of tokens, and the keys and values of these and of those before.

        Args:
            x_BQD: the tokens' embeddings, without their positions.
            kept: of each block, what this returned for the tokens before; none at first.
        """
        start = kept[0][0].shape[2] if kept else 0
        stop = start + x_BQD.shape[1]
        allowed_QS = self.allowed_SS[start:stop, :stop]
        x_BQD = x_BQD + self.position_SD[start:stop]
        before: list[KeysValues | None] = [*kept] if kept else [None] * len(self.blocks)
        after = []
        for block, keys_values in zip(self.blocks, before, strict=True):
            x_BQD, all_keys_values = block(x_BQD, allowed_QS, keys_values)
            after.append(all_keys_values)
        return self.norm(x_BQD), after

    def judge(self, x_BTD: Tensor) -> dict[str, Tensor]:
        """Return "action" and "value", read at frames' last tokens; see `forward`."""
        values = fp32_linear(self.value_head, x_BTD)
        shape = self.config.actions, self.config.atoms
        return {"action": self.policy_head(x_BTD), "value": values.unflatten(-1, shape)}

    def foresee(
        self, frame_BTMD: Tensor, action_BTD: Tensor, tokens_BTMC: Tensor
    ) -> dict[str, Tensor]:
        """Return "reward", "end" and "frame", of frames' and actions' tokens; see `forward`."""
        x_BTMD = F.gelu(self.of_place(frame_BTMD) + self.of_action(action_BTD)[:, :, None])
        shape = self.config.token_numbers, self.config.levels
        change_BTMCL = self.frame_head(x_BTMD).unflatten(-1, shape)
        return {
            "reward": self.reward_head(action_BTD),
            "end": self.end_head(action_BTD)[..., 0],
            "frame": change_BTMCL + self.stay * F.one_hot(tokens_BTMC, self.config.levels),
        }


class PlanningModel(nn.Module):
    """A tokenizer, and a world model of what it makes of frames."""

    def __init__(self, config: TrajectoryTransformerConfig) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(config)
        self.world = WorldModel(config)

    def forward(
        self,
        frames_BTYX: Tensor,
        actions_BT: Tensor | None = None,
        rewards_BT: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return what the tokenizer makes of frames, or what the world model makes of its tokens.

        Args:
            frames_BTYX: uint8.
            actions_BT: int64, of the first steps of those that have a frame; None leaves the world
                model out.
            rewards_BT: int64 reward tokens, likewise.

        Returns:
            Without actions "reconstruction" `(B, T, Y, X)`, in 0..1, with gradients for the
            tokenizer. With them "tokens" `(B, T, M, C)`, and what `WorldModel` returns of the steps
            with an action, with gradients for it alone.
        """
        shape = frames_BTYX.shape[:2]
        if actions_BT is None:
            return {"reconstruction": self.tokenizer(frames_BTYX.flatten(0, 1)).unflatten(0, shape)}
        tokens = self.tokenizer.encode(frames_BTYX.flatten(0, 1)).unflatten(0, shape)
        logits = self.world(tokens[:, : actions_BT.shape[1]], actions_BT, rewards_BT)
        return {"tokens": tokens, **logits}

"""One decision, with every token computed once, and only where its output is read.

Read plainly, a decision takes one forward pass for each return that is drawn and one more for the
action. But tokens see only what comes before them and the rest of their frame, so their keys and
values do not change when a later return is filled in. Here the window is run in stretches, each up
to the next token whose output is read, and the keys and values of earlier stretches are kept.
Left out are the tokens that nobody sees: hidden returns, and the last step's action and reward.
In the last layer the token that is read asks alone; the others are keys and values.

Shape suffixes are those of `mgdt_agents.decision_transformer.model`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mgdt_agents.decision_transformer.config import DecisionTransformerConfig
from mgdt_agents.decision_transformer.model import (
    DecisionTransformer,
    KeysValues,
    allowed_attention,
    hidden_tokens,
)


class Decision(NamedTuple):
    """What the model says of the last step of B windows."""

    action_logits: Tensor
    """`(B, A)`, of the action to take, given the returns."""
    return_logits: list[Tensor]
    """`(B, R)` of each return that was drawn, the earliest first."""
    returns: Tensor
    """`(B, T)` return bins; 0 where none was drawn."""


def decide(
    model: DecisionTransformer,
    observations_BTMD: Tensor,
    actions_BT: Tensor,
    rewards_BT: Tensor,
    returns: Tensor | Callable[[Tensor], Tensor],
) -> Decision:
    """Return the action logits of the last step, drawing the returns on the way.

    The model is in evaluation mode, and gradients are off.

    Args:
        model: with or without return tokens; without, `returns` is not used.
        observations_BTMD: what `model.stem` makes of the frames, once for all decisions on them.
        actions_BT: int64; the last step's is not seen, and none without action tokens.
        rewards_BT: int64 reward tokens; the last step's is not seen.
        returns: `(B, T)` int64 return bins; or what draws `(B,)` bins from `(B, R)` logits, which
            is called for the window's first step (`return_tokens="single"`) or for every step.
    """
    returns_BT = torch.zeros_like(actions_BT) if callable(returns) else returns
    x_BSD = model.embed(observations_BTMD, actions_BT, rewards_BT, returns_BT)
    *blocks, last_block = model.blocks
    kept: list[KeysValues | None] = [None] * len(blocks)
    last_kept: KeysValues | None = None
    return_logits = []
    for stretch in _stretches(model.config, callable(returns), x_BSD.device):
        x_BQD = x_BSD[:, stretch.tokens]
        for number, block in enumerate(blocks):
            x_BQD, kept[number] = block(x_BQD, stretch.allowed, kept[number])
        read_BQD, last_kept = last_block(
            x_BQD, stretch.allowed_last, last_kept, read=slice(-1, None)
        )
        read_BD = model.norm(read_BQD[:, 0])
        if callable(returns) and stretch.step is not None:
            return_logits.append(model.return_head(read_BD))
            returns_BT[:, stretch.step] = returns(return_logits[-1])
            token = stretch.step * model.config.step_tokens + model.config.observation_tokens
            embedded_BD = model.return_embedding(returns_BT[:, stretch.step])
            x_BSD[:, token] = embedded_BD + model.position_SD[token]
    # The last step's return; where there is one for the window, that is the first's.
    step = 0 if model.config.return_tokens == "single" else -1
    logits_B1A = model.acting_logits(read_BD[:, None], returns_BT[:, step, None])
    return Decision(logits_B1A[:, 0], return_logits, returns_BT)


class _Stretch(NamedTuple):
    """Tokens that are run together, the last of which is read."""

    tokens: Tensor
    """`(Q,)` int64 positions in the window."""
    allowed: Tensor | None
    """`(Q, S)` bool, which tokens of this stretch and those before each may see; None is all."""
    allowed_last: Tensor | None
    """The same for the last one alone."""
    step: int | None
    """The step whose return is drawn from what is read; None if the action is."""


@lru_cache(maxsize=64)
def _stretches(
    config: DecisionTransformerConfig, draws: bool, device: torch.device
) -> tuple[_Stretch, ...]:
    """Return the stretches of a window whose returns are drawn, or given."""
    hidden, allowed = hidden_tokens(config), allowed_attention(config)
    drawn_steps = {"none": 0, "single": 1, "every": config.steps}[config.return_tokens] * draws
    last_of_frame = [
        step * config.step_tokens + config.observation_tokens - 1 for step in range(config.steps)
    ]
    action = (config.steps - 1) * config.step_tokens + config.action_place
    stretches = []
    first = 0
    for step in [*range(drawn_steps), None]:
        read = action if step is None else last_of_frame[step]
        tokens = [token for token in range(first, read + 1) if not hidden[token] or token == action]
        first = read + 1
        seen = [token for token in range(read + 1) if not hidden[token] or token == action]
        mask = allowed[tokens][:, seen]
        stretches.append(
            _Stretch(
                torch.tensor(tokens, device=device),
                None if mask.all() else mask.to(device),
                None if mask[-1].all() else mask[-1:].to(device),
                step,
            )
        )
    return tuple(stretches)

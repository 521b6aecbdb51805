"""Training as it was at commit 973a457: what `train.py` measures the package against.

The networks, losses, optimizer and loop of that commit, without what training at size "small" does
not use: other stems and return tokens, acting, checks, logs and checkpoints. Nothing here changes
when the package does. Double Q-learning, which it had not, is added in its manner: a further pass.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.replay import WindowBatch, WindowSampler

LEARNING_RATE, WARMUP_STEPS, MAX_GRADIENT_NORM = 3e-4, 4000, 1.0
WIDTH, LAYERS, HEAD_SIZE, STEPS, STEP_TOKENS = 192, 2, 64, 4, 4
RETURNS, ACTIONS, REWARDS = 121, 18, 4
ATOMS, MAX_VALUE, DISCOUNT, N_STEPS, TARGET_PERIOD = 51, 10.0, 0.99, 4, 256
CHANGE_SCALE = 4.0


class ConvStem(nn.Module):
    STACK, SQUARE = 4, 4

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(self.STACK * self.SQUARE**2, 16, 2),
            nn.GroupNorm(1, 16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 4, 2),
            nn.GroupNorm(1, 32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3),
            nn.GroupNorm(1, 32),
            nn.ReLU(inplace=True),
        )
        self.output = nn.Linear(32 * 7 * 7, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.constant_(self.norm.weight, 0.05)

    def forward(self, frames_BTYX: Tensor) -> Tensor:
        B, T, Y, X = frames_BTYX.shape
        pixels = frames_BTYX.to(self.output.weight.dtype) / 255
        changes = F.pad(CHANGE_SCALE * pixels.diff(dim=1), (0, 0, 0, 0, self.STACK - 1, 0))
        channels = torch.cat([pixels[..., None], changes.unfold(1, self.STACK - 1, 1)], dim=-1)
        squares = channels.reshape(
            B * T, Y // self.SQUARE, self.SQUARE, X // self.SQUARE, self.SQUARE, self.STACK
        )
        squares = squares.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)
        tokens = self.norm(self.output(self.convolutions(squares).flatten(1)))
        return tokens.reshape(B, T, 1, -1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_output = nn.Linear(WIDTH, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH)
        self.mlp_input = nn.Linear(WIDTH, 4 * WIDTH)
        self.mlp_output = nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x_BSD: Tensor, allowed_QS: Tensor, read: Tensor | None = None) -> Tensor:
        normed_BSD = self.norm_1(x_BSD)
        if read is None:
            query_BNQH, key_BNSH, value_BNSH = self.project(normed_BSD)
        else:
            (query_BNQH,) = self.project(normed_BSD[:, read], slice(None, WIDTH))
            key_BNSH, value_BNSH = self.project(normed_BSD, slice(WIDTH, None))
            x_BSD = x_BSD[:, read]
        mixed_BNQH = _mixed(query_BNQH, key_BNSH, value_BNSH, allowed_QS)
        attended_BQD = self.attention_output(mixed_BNQH.transpose(1, 2).flatten(2))
        x_BQD = x_BSD + self.dropout(attended_BQD)
        hidden = F.gelu(self.mlp_input(self.norm_2(x_BQD)), approximate="tanh")
        return x_BQD + self.dropout(self.mlp_output(hidden))

    def project(self, normed_BSD: Tensor, rows: slice = slice(None)) -> tuple[Tensor, ...]:
        linear = self.query_key_value
        heads = F.linear(normed_BSD, linear.weight[rows], linear.bias[rows])
        return (
            heads.unflatten(-1, (-1, WIDTH // HEAD_SIZE, HEAD_SIZE))
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )


def _mixed(query_BNQH: Tensor, key_BNSH: Tensor, value_BNSH: Tensor, allowed_QS: Tensor) -> Tensor:
    if query_BNQH.dtype == torch.bfloat16:
        scores_BNQS = (query_BNQH / math.sqrt(HEAD_SIZE)) @ key_BNSH.transpose(2, 3)
        return scores_BNQS.masked_fill(~allowed_QS, -torch.inf).softmax(-1) @ value_BNSH
    return F.scaled_dot_product_attention(query_BNQH, key_BNSH, value_BNSH, allowed_QS)


class DecisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvStem()
        self.return_embedding = nn.Embedding(RETURNS, WIDTH)
        self.return_head = nn.Linear(WIDTH, RETURNS)
        self.action_embedding = nn.Embedding(ACTIONS, WIDTH)
        self.reward_embedding = nn.Embedding(REWARDS, WIDTH)
        self.position_SD = nn.Parameter(torch.randn(STEPS * STEP_TOKENS, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.action_head = nn.Linear(WIDTH, ACTIONS)
        self.reward_head = nn.Linear(WIDTH, REWARDS)
        tokens = STEPS * STEP_TOKENS
        self.allowed_SS = torch.ones(tokens, tokens).tril().bool()
        self.read_Q = torch.tensor([token for token in range(tokens) if token % STEP_TOKENS < 3])

    def forward(
        self, frames_BTYX: Tensor, actions_BT: Tensor, rewards_BT: Tensor, returns_BT: Tensor
    ) -> dict[str, Tensor]:
        parts_BTKD = [
            self.stem(frames_BTYX),
            self.return_embedding(returns_BT)[:, :, None],
            self.action_embedding(actions_BT)[:, :, None],
            self.reward_embedding(rewards_BT)[:, :, None],
        ]
        x_BSD = torch.cat(parts_BTKD, dim=2).flatten(1, 2) + self.position_SD
        x_BSD = x_BSD[:, :-1]
        S = x_BSD.shape[1]
        allowed_SS = self.allowed_SS[:S, :S]
        *blocks, last_block = self.blocks
        for block in blocks:
            x_BSD = block(x_BSD, allowed_SS)
        x_BQD = last_block(x_BSD, allowed_SS[self.read_Q], read=self.read_Q)
        x_BTQD = self.norm(x_BQD).unflatten(1, (STEPS, -1))
        heads = {
            "return": self.return_head,
            "action": self.action_head,
            "reward": self.reward_head,
        }
        return {name: head(x_BTQD[:, :, place]) for place, (name, head) in enumerate(heads.items())}


def dt_loss(model: DecisionTransformer, batch: WindowBatch) -> Tensor:
    actions = torch.from_numpy(batch.actions)
    signs = np.sign(batch.rewards)
    rewards = torch.from_numpy(np.where(signs < 0, 3, signs).astype(np.int64))
    valid = torch.from_numpy(batch.valid)
    returns = torch.from_numpy(
        np.clip(np.rint(batch.returns_to_go), -20, 100).astype(np.int64) + 20
    )
    logits = model(torch.from_numpy(batch.frames), actions, rewards, returns)
    terms = [
        F.cross_entropy(
            logits[name].float().flatten(0, 1),
            target.masked_fill(~valid, -1).flatten(),
            ignore_index=-1,
        )
        for name, target in (("action", actions), ("reward", rewards))
    ]
    terms.append(F.cross_entropy(logits["return"].float().flatten(0, 1), returns.flatten()))
    return torch.stack(terms).mean()


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(x)


class ImpalaC51(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = 4, 84
        for number, width in enumerate((16, 32, 32)):
            stride = 2 if number == 0 else 1
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1),
                nn.GroupNorm(1, width),
                nn.MaxPool2d(3, 2, padding=1),
                ResidualBlock(width),
            ]
            channels, side = width, math.ceil(math.ceil(side / stride) / 2)
        self.trunk = nn.Sequential(*layers, nn.ReLU())
        self.hidden = nn.Linear(channels * side * side, 256)
        self.output = nn.Linear(256, ACTIONS * ATOMS)
        self.support = torch.linspace(-MAX_VALUE, MAX_VALUE, ATOMS)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.to(self.output.weight.dtype) / 255
        pixels = torch.cat([pixels[:, -1:], CHANGE_SCALE * pixels.diff(dim=1)], dim=1)
        features = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        logits = self.output(F.relu(self.hidden(features.flatten(1))))
        return logits.unflatten(-1, (ACTIONS, ATOMS)).float()

    def values(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) @ self.support


def cql_loss(model: ImpalaC51, target: ImpalaC51, batch: WindowBatch, double_q: bool) -> Tensor:
    now = STEPS - 1
    frames = torch.from_numpy(batch.frames)
    actions = torch.from_numpy(batch.actions[:, now])
    logits = model(frames[:, :STEPS])
    ahead = slice(now, now + N_STEPS)
    terminated = batch.terminated[:, ahead].any(1)
    continues = batch.valid[:, -1]
    returns = np.clip(batch.rewards[:, ahead], -1, 1) @ DISCOUNT ** np.arange(N_STEPS)
    final_discounts = continues * DISCOUNT**N_STEPS
    distribution = _target_distribution(
        target,
        model if double_q else target,
        frames[:, -STEPS:],
        torch.from_numpy(returns.astype(np.float32)),
        torch.from_numpy(final_discounts.astype(np.float32)),
    )
    chosen = logits[torch.arange(len(actions)), actions]
    known = torch.from_numpy((continues | terminated).astype(np.float32))
    c51 = (F.cross_entropy(chosen, distribution, reduction="none") * known).mean()
    return c51 + F.cross_entropy(model.values(logits), actions)


@torch.no_grad()
def _target_distribution(
    target: ImpalaC51, chooser: ImpalaC51, frames: Tensor, returns: Tensor, discounts: Tensor
) -> Tensor:
    logits = target(frames)
    choosing = logits if chooser is target else chooser(frames)
    best = target.values(choosing).argmax(-1)
    probabilities = logits.softmax(-1)[torch.arange(len(best)), best]
    moved = returns[:, None] + discounts[:, None] * target.support
    moved = moved.clamp(-MAX_VALUE, MAX_VALUE)
    spacing = target.support[1] - target.support[0]
    shares = (1 - (moved[:, :, None] - target.support).abs() / spacing).clamp(0, 1)
    return (probabilities[:, :, None] * shares).sum(1)


class LAMB(torch.optim.Optimizer):
    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            beta_1, beta_2 = group["betas"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                step = state["step"].item()
                mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta_1)
                square = state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - beta_2)
                root = (square / (1 - beta_2**step)).sqrt_().add_(group["eps"])
                update = (mean / (1 - beta_1**step)).div_(root)
                update.add_(parameter, alpha=group["weight_decay"])
                sizes = parameter.norm(), update.norm()
                trust = torch.where((sizes[0] > 0) & (sizes[1] > 0), sizes[0] / sizes[1], 1.0)
                parameter.sub_(update * trust * group["lr"])


def make_training(
    kind: str, replay: Sequence[str], batch_size: int, bf16: bool, double_q: bool = False
) -> Callable[[int], None]:
    """Return a function that trains on stores for so many gradient steps, and goes on later."""
    model: Any = DecisionTransformer() if kind == "dt" else ImpalaC51()
    target = copy.deepcopy(model).requires_grad_(False)
    future = 0 if kind == "dt" else N_STEPS
    sampler = WindowSampler(replay, steps=STEPS, future=future)
    optimizer = LAMB(model.parameters(), LEARNING_RATE)
    model.train()
    done = 0

    def train(steps: int) -> None:
        nonlocal done
        for step in range(done, done + steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
            batch = sampler.sample(batch_size, step)
            torch.manual_seed(int(np.random.SeedSequence([0, step]).generate_state(1)[0]))
            with torch.autocast("cpu", torch.bfloat16, bf16):
                if kind == "dt":
                    loss = dt_loss(model, batch)
                else:
                    loss = cql_loss(model, target, batch, double_q)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            if kind == "cql" and (step + 1) % TARGET_PERIOD == 0:
                target.load_state_dict(model.state_dict())
        done += steps

    return train

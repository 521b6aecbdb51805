"""The Decision Transformer's decisions and gradient steps against the plain implementation's.

Both sides have the same random weights, and the plain one computes in fp32. PyTorch gets one
thread, so that other processes on the machine disturb less.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgdt_agents.decision_transformer import PRESETS, DecisionTransformer
from mgdt_agents.decision_transformer.decide import Decision, decide
from mgdt_agents.training import LAMB
from tests.mgdt_agents.decision_transformer.plain import PlainDecisionTransformer
from tests.perf.timing import Figure, ratio

Window = tuple[Tensor, Tensor, Tensor]
"""Frames, actions and reward tokens."""

DECISIONS = {"10m": {32: 5}, "200m": {1: 9, 8: 3}}
"""Batch sizes by model size, and the rounds of each."""
TRAINING_BATCH = 32


def _window(batch_size: int) -> Window:
    """Return made-up windows of four steps."""
    shape = (batch_size, 4)
    frames = torch.randint(256, (*shape, 84, 84), dtype=torch.uint8)
    return frames, torch.randint(18, shape), torch.randint(4, shape)


def _models(size: str) -> tuple[DecisionTransformer, PlainDecisionTransformer]:
    torch.manual_seed(0)
    ours = DecisionTransformer(PRESETS[size])
    plain = PlainDecisionTransformer(PRESETS[size])
    plain.parts.load_state_dict(ours.state_dict())
    return ours, plain


def _decide(
    model: DecisionTransformer, window: Window, returns: Callable[[Tensor], Tensor]
) -> Decision:
    frames, actions, rewards = window
    return decide(model, model.stem(frames), actions, rewards, returns)


def _likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def _largest_difference(
    ours: DecisionTransformer, plain: PlainDecisionTransformer, window: Window
) -> tuple[float, float]:
    """Return how far logits, and how far probabilities of returns or actions, are apart."""
    action_logits, return_logits, returns = plain.decide(*window, _likeliest)
    decision = _decide(ours, window, lambda _: returns[:, 0])
    pairs = [
        (decision.action_logits.float(), action_logits),
        (decision.return_logits[0].float(), return_logits[:, 0]),
    ]
    logits = max((a - b).abs().max().item() for a, b in pairs)
    total_variation = max(
        ((a.softmax(-1) - b.softmax(-1)).abs().sum(-1) / 2).max().item() for a, b in pairs
    )
    return logits, total_variation


@torch.no_grad()
def _decisions(size: str) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of one size, in fp32 and in bf16; the lowest over the batch sizes."""
    ours, plain = _models(size)
    plain.eval()
    half = copy.deepcopy(ours).bfloat16()
    for precision, model in (("fp32", ours.eval()), ("bf16", half.eval())):
        ratios = {}
        for batch_size, rounds in DECISIONS[size].items():
            window = _window(batch_size)
            ratios[batch_size] = ratio(
                partial(_decide, model, window, _likeliest),
                partial(plain.decide, *window, _likeliest),
                rounds=rounds,
            )
        logits, probabilities = _largest_difference(model, plain, _window(8))
        print(
            f"dt.decide_{precision}_{size}:",
            ", ".join(f"{value:.2f} at batch {batch}" for batch, value in ratios.items()),
            f"| logits differ by {logits:.1e}, probabilities by {probabilities:.1e} at most",
            flush=True,
        )
        batches = " and ".join(map(str, ratios))
        peer = f"plain two-pass, fp32, one thread, lowest of batch {batches}"
        yield f"dt.decide_{precision}_{size}", Figure(min(ratios.values()), "x", peer)


def _gradient_step(model: nn.Module, window: Window, bf16: bool) -> Callable[[], None]:
    """Return a function that does forward, backward and optimizer once."""
    optimizer = LAMB(model.parameters(), lr=1e-4)
    frames, actions, rewards = window
    returns = torch.randint(121, actions.shape)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, bf16):
            logits = model(frames, actions, rewards, returns)
            loss = sum(
                F.cross_entropy(logits[name].flatten(0, 1).float(), targets.flatten())
                for name, targets in (("action", actions), ("reward", rewards))
            )
            loss += F.cross_entropy(logits["return"][:, 0].float(), returns[:, 0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _training(size: str) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of gradient steps, in fp32 and in bf16."""
    window = _window(TRAINING_BATCH)
    for precision in ("fp32", "bf16"):
        ours, plain = _models(size)
        value = ratio(
            _gradient_step(ours.train(), window, precision == "bf16"),
            _gradient_step(plain.train(), window, False),
            rounds=5,
        )
        print(f"dt.train_{precision}_{size}: {value:.2f}", flush=True)
        peer = f"plain model, fp32, one thread, batch {TRAINING_BATCH}"
        yield f"dt.train_{precision}_{size}", Figure(value, "x", peer)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure() -> dict[str, Figure]:
    """Return the figures `dt.*`."""
    with _one_thread():
        return dict([*_decisions("10m"), *_training("10m"), *_decisions("200m")])

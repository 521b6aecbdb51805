"""The model's sizes, masks and tokens; `test_released.py` has the released one's logits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mgdt_agents.decision_transformer import (
    PRESETS,
    DecisionTransformer,
    DecisionTransformerConfig,
)
from mgdt_agents.decision_transformer.model import ConvStem
from mgdt_agents.decision_transformer.tokens import encode_returns, encode_rewards
from tests.mgdt_agents.decision_transformer.plain import PlainDecisionTransformer


@pytest.mark.parametrize(
    ("size", "millions"), [("10m", 12.6), ("40m", 42.5), ("200m", 196.6)], ids=str
)
def test_published_sizes(size: str, millions: float) -> None:
    # 12 * layers * width^2 weights in the blocks; Lee et al. 2022 name the models after them.
    with torch.device("meta"):
        model = DecisionTransformer(PRESETS[size])
    weights = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    assert weights / 1e6 == pytest.approx(millions, rel=0.005)
    assert (PRESETS[size].observation_tokens, PRESETS[size].step_tokens) == (36, 39)
    assert model.position_SD.shape[0] == 156
    assert PRESETS[size].returns == 121


def window(config: DecisionTransformerConfig, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, config.steps)
    inputs = [
        torch.randint(256, (*shape, 84, 84), generator=generator, dtype=torch.uint8),
        torch.randint(config.actions, shape, generator=generator),
        torch.randint(config.rewards, shape, generator=generator),
    ]
    if config.return_tokens != "none":
        inputs.append(torch.randint(config.returns, shape, generator=generator))
    return inputs


STEMS: dict[str, dict[str, Any]] = {
    "patch": {"layers": 2, "width": 64},
    "conv": {"layers": 2, "width": 64, "stem": "conv", "stem_channels": (8, 8, 8)},
    "no actions": {"layers": 2, "width": 64, "patch_size": 28, "action_tokens": False},
}


@pytest.mark.parametrize("return_tokens", ["single", "every", "none"])
@pytest.mark.parametrize("stem", STEMS)
@torch.no_grad()
def test_outputs_see_the_past_alone(stem: str, return_tokens: Any) -> None:
    config = DecisionTransformerConfig(**STEMS[stem], return_tokens=return_tokens)
    torch.manual_seed(0)
    model = DecisionTransformer(config).eval()
    inputs = window(config)
    before = model(*inputs)
    names = ["frames", "actions", "rewards", "returns"]
    # What a step's output may see of the same step; all of it sees every earlier step.
    sees = {
        "return": {"frames"},
        "action": {"frames", "returns"},
        "reward": {"frames", "returns", "actions"},
    }
    for changed, name in enumerate(names[: len(inputs)]):
        for step in range(config.steps):
            others = list(inputs)
            others[changed] = inputs[changed].clone()
            others[changed][:, step] = window(config, seed=1)[changed][:, step]
            after = model(*others)
            hidden = name == "returns" and return_tokens == "single" and step > 0
            for output in before:
                differs = (before[output] != after[output]).flatten(2).any(-1).any(0)
                first = step if name in sees[output] else step + 1
                expected = torch.arange(config.steps) >= first
                if hidden:
                    expected[:] = False
                if name == "actions" and not config.action_tokens:
                    expected[:] = False
                assert differs.tolist() == expected.tolist(), (name, step, output)


@torch.no_grad()
def test_patches_of_a_frame_see_one_another() -> None:
    config = DecisionTransformerConfig(**STEMS["patch"])
    model = DecisionTransformer(config)
    first, last = 0, config.observation_tokens - 1
    assert model.allowed_SS[first, last]
    assert not model.allowed_SS[last, last + 1]


@torch.no_grad()
def test_conv_stem_is_nature_s_convolutions_over_changes() -> None:
    config = DecisionTransformerConfig(width=64, stem="conv", stem_channels=(8, 6, 4))
    stem = DecisionTransformer(config).stem
    assert isinstance(stem, ConvStem)
    frames, *_ = window(config)
    # The first convolution as it is published: 8x8 pixels, stride 4. Ours has weights
    # (out, y, x, channel, row, column), y and x within the square at row and column.
    published = nn.Conv2d(4, 8, 8, 4)
    ours = stem.convolutions.state_dict()
    squares = ours["0.weight"].unflatten(1, (4, 4, 4))
    weight = squares.permute(0, 3, 4, 1, 5, 2).reshape(8, 4, 8, 8)
    published.load_state_dict({"weight": weight, "bias": ours["0.bias"]})
    pixels = frames / 255
    for step in range(config.steps):
        now = pixels[:, step]
        changes = [torch.zeros_like(now)] * 3
        for ago in range(min(step, 3)):
            changes[2 - ago] = 4 * (pixels[:, step - ago] - pixels[:, step - ago - 1])
        x = published(torch.stack([now, *changes], 1))
        x = nn.Sequential(*list(stem.convolutions)[1:])(x)
        expected = stem.norm(stem.output(x.flatten(1)))
        torch.testing.assert_close(stem(frames)[:, step, 0], expected, atol=1e-4, rtol=1e-4)


def loss_and_gradients(
    model: nn.Module, inputs: list[Tensor], bf16: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Return the summed cross-entropies of made-up targets, and their gradients by weight."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, bf16):
        logits = model(*inputs)
    loss = sum(
        nn.functional.cross_entropy(rows.float().flatten(0, 1), targets.flatten())
        for rows, targets in (
            (logits["action"], inputs[1]),
            (logits["reward"], inputs[2]),
            *([(logits["return"], inputs[3])] if "return" in logits else []),
        )
    )
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    return loss.item(), {name.removeprefix("parts."): grad for name, grad in gradients.items()}


@pytest.mark.parametrize("return_tokens", ["single", "every", "none"])
@pytest.mark.parametrize("stem", STEMS)
def test_gradients_are_those_of_the_plain_definition(stem: str, return_tokens: Any) -> None:
    config = DecisionTransformerConfig(**STEMS[stem], return_tokens=return_tokens, dropout=0.0)
    torch.manual_seed(0)
    model = DecisionTransformer(config)
    plain = PlainDecisionTransformer(config)
    plain.parts.load_state_dict(model.state_dict())
    inputs = window(config)
    # Games' frames hardly change from step to step.
    inputs[0][:, 1:, :60] = inputs[0][:, :1, :60]
    expected_loss, expected = loss_and_gradients(plain, inputs)
    loss, gradients = loss_and_gradients(model, inputs)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        error = (gradient - expected[name]).norm() / expected[name].norm().clamp(min=1e-6)
        assert error < 1e-4, name
    # In bf16 as near to fp32 as the plain definition in bf16 is, more or less.
    plain_loss, plain_gradients = loss_and_gradients(plain, inputs, bf16=True)
    loss, gradients = loss_and_gradients(model, inputs, bf16=True)
    assert loss == pytest.approx(expected_loss, abs=2 * abs(plain_loss - expected_loss) + 0.01)

    def error_of(these: dict[str, Tensor]) -> float:
        squares = sum(((these[name] - expected[name]) ** 2).sum() for name in expected)
        return float(squares) ** 0.5

    assert error_of(gradients) < 1.5 * error_of(plain_gradients)


def test_a_model_in_bf16_sees_like_one_in_fp32() -> None:
    config = DecisionTransformerConfig(width=64, stem="conv", stem_channels=(8, 6, 4))
    torch.manual_seed(0)
    stem = DecisionTransformer(config).stem.eval()
    frames, *_ = window(config)
    with torch.no_grad():
        expected = stem(frames)
        tokens = stem.bfloat16()(frames)
    assert tokens.dtype == torch.bfloat16
    assert (tokens.float() - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 100},
        {"width": 0},
        {"patch_size": 13},
        {"patch_size": 0},
        {"layers": 0},
        {"stem": "mlp"},
        {"frame_size": 0},
        {"stem": "conv", "frame_size": 50},
        {"stem": "conv", "frame_size": 32},
        {"stem_channels": (8, 8)},
        {"actions": 0},
        {"return_tokens": "two"},
        {"loss_weights": "none"},
        {"reward_weight": -1.0},
        {"dropout": 1.0},
        {"min_return": 5, "max_return": 5},
        {"min_return": -np.inf},
        {"max_return": np.inf},
        {"min_return": 0, "max_return": 10, "return_bin": 4},
        {"return_bin": 50},
        {"min_return": 0, "max_return": 1, "return_bin": 50},
    ],
    ids=str,
)
def test_impossible_configs_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=next(reversed(fields))):
        DecisionTransformerConfig(**fields)


def test_tokens() -> None:
    np.testing.assert_array_equal(encode_rewards(np.array([0, 7.0, -200, 0.5])), [0, 1, 3, 1])
    np.testing.assert_array_equal(
        encode_returns(np.array([-25, -20, 0, 100, 300]), -20, 100), [0, 0, 20, 120, 120]
    )

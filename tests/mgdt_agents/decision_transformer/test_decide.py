"""What is computed with less work equals the plain implementation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mgdt_agents.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from mgdt_agents.decision_transformer.decide import decide
from tests.mgdt_agents.decision_transformer.plain import PlainDecisionTransformer

STEMS: dict[str, dict[str, Any]] = {
    "patch": {"stem": "patch", "patch_size": 14},
    "patch28": {"stem": "patch", "patch_size": 28},
    "conv": {"stem": "conv", "stem_channels": (8, 8, 8)},
    "no rewards": {"stem": "patch", "patch_size": 28, "reward_tokens": False},
    "no actions": {"stem": "patch", "patch_size": 28, "action_tokens": False},
    "frames alone": {
        "stem": "conv",
        "stem_channels": (8, 8, 8),
        "action_tokens": False,
        "reward_tokens": False,
    },
}
each_model = pytest.mark.parametrize(
    ("stem", "return_tokens"),
    [(stem, tokens) for stem in STEMS for tokens in ("single", "every", "none")],
)


def models(stem, return_tokens, scale=2, **fields):
    """Return the model and the plain one, of the same weights."""
    config = DecisionTransformerConfig(
        **{"layers": 3, "width": 128, **STEMS[stem], **fields}, return_tokens=return_tokens
    )
    torch.manual_seed(0)
    model = DecisionTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)  # so that tokens matter to one another
    plain = PlainDecisionTransformer(config)
    plain.parts.load_state_dict(model.state_dict())
    return model.eval(), plain.eval()


def window(rows=3, steps=4):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (rows, steps, 84, 84), generator=generator, dtype=torch.uint8),
        torch.randint(18, (rows, steps), generator=generator),
        torch.randint(4, (rows, steps), generator=generator),
    ]


def decided(model, frames, *others):
    return decide(model, model.stem(frames), *others)


def unlikely(logits: Tensor) -> Tensor:
    """Choose returns that differ from row to row and from step to step."""
    return logits.argsort(-1)[torch.arange(len(logits)), torch.arange(len(logits)) * 7]


@each_model
@torch.no_grad()
def test_logits_of_all_steps(stem, return_tokens):
    model, plain = models(stem, return_tokens)
    inputs = window()
    if return_tokens != "none":
        inputs.append(torch.randint(121, (3, 4)))
    expected = plain(*inputs)
    found = model(*inputs)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


@each_model
def test_gradients(stem, return_tokens):
    model, plain = models(stem, return_tokens, dropout=0.0)
    inputs = window()
    if return_tokens != "none":
        inputs.append(torch.randint(121, (3, 4)))
    for network in (model, plain):
        sum(logits.square().mean() for logits in network(*inputs).values()).backward()
    for (name, ours), theirs in zip(
        model.named_parameters(), plain.parts.parameters(), strict=True
    ):
        assert ours.grad is not None
        assert theirs.grad is not None
        difference = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert difference < 1e-4, name


@pytest.mark.parametrize("stem", STEMS)
def test_gradients_in_bf16_agree(stem):
    model, plain = models(stem, "single", scale=1.5, dropout=0.0)
    inputs = [*window(), torch.randint(121, (3, 4))]
    for network, bf16 in ((model, True), (plain, False)):
        with torch.autocast("cpu", torch.bfloat16, bf16):
            logits = network(*inputs)
        sum(logits.float().square().mean() for logits in logits.values()).backward()
    ours, theirs = (
        torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        for network in (model, plain.parts)
    )
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


@each_model
@pytest.mark.parametrize("steps", [1, 4])
@torch.no_grad()
def test_decision(stem, return_tokens, steps):
    model, plain = models(stem, return_tokens, steps=steps)
    inputs = window(steps=steps)
    logits, return_logits, returns = plain.decide(*inputs, unlikely)
    found = decided(model, *inputs, unlikely)
    torch.testing.assert_close(found.action_logits, logits, atol=1e-4, rtol=1e-4)
    drawn = {"none": 0, "single": 1, "every": steps}[return_tokens]
    assert len(found.return_logits) == drawn
    for step, expected in enumerate(found.return_logits):
        torch.testing.assert_close(expected, return_logits[:, step], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.returns[:, :drawn], returns, check_dtype=False)
    assert (found.returns[:, drawn:] == 0).all()
    # The same returns, given.
    given = decided(model, *inputs, found.returns)
    torch.testing.assert_close(given.action_logits, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("return_tokens", "tokens"), [("single", 152), ("every", 154)])
@torch.no_grad()
def test_each_token_is_computed_once(return_tokens, tokens):
    model, _ = models("patch", return_tokens)
    computed = {"wide": 0, "last": 0}

    def count(name: str) -> Any:
        def add(_module: object, inputs: tuple[Tensor]):
            computed[name] += inputs[0].shape[1]

        return add

    model.blocks[0].mlp_input.register_forward_pre_hook(count("wide"))
    model.blocks[-1].mlp_input.register_forward_pre_hook(count("last"))
    decided(model, *window(), unlikely)
    # Of 4 * 39 tokens, less the last action and reward, and less two hidden returns.
    assert computed["wide"] == tokens
    # In the last layer: what returns and the action are read from.
    assert computed["last"] == (2 if return_tokens == "single" else 5)


@pytest.mark.parametrize("stem", STEMS)
@torch.no_grad()
def test_bf16_agrees(stem):
    model, plain = models(stem, "single", scale=1)
    half = copy.deepcopy(model).bfloat16()
    expected = plain.decide(*window(), unlikely)
    found = decided(half, *window(), lambda logits: unlikely(expected[1][:, 0]))
    assert found.action_logits.dtype == torch.bfloat16
    for ours, theirs in [
        (found.action_logits, expected[0]),
        (found.return_logits[0], expected[1][:, 0]),
    ]:
        difference = (ours.float().softmax(-1) - theirs.softmax(-1)).abs().sum(-1) / 2
        assert difference.max() < 0.02


def test_modes_lay_out_the_same_weights():
    model, _ = models("conv", "single")
    weight = model.blocks[0].query_key_value.weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert weight.t().is_contiguous()
    with torch.inference_mode():
        model.train()
    assert weight.is_contiguous()
    with torch.inference_mode():
        model.eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # Weights that were laid out in inference mode can be trained.
    model(*window(), torch.zeros(3, 4, dtype=torch.int64))["action"].sum().backward()
    assert weight.grad is not None


@each_model
@torch.no_grad()
def test_attention_is_that_of_the_action(stem, return_tokens):
    model, plain = models(stem, return_tokens)
    inputs = window()
    if return_tokens != "none":
        inputs.append(torch.randint(121, (3, 4)))
    inside = []
    for block in plain.parts.blocks:
        block.query_key_value.register_forward_hook(
            lambda _module, _inputs, output: inside.append(output.chunk(3, -1)[:2])
        )
    plain(*inputs)
    config = model.config
    frame = config.observation_tokens
    action = 3 * config.step_tokens + frame - (return_tokens == "none")
    expected = []
    for queries, keys in inside:
        query = queries[:, action].unflatten(-1, (-1, 64)).double()
        key = keys.unflatten(-1, (-1, 64)).double()
        scores = torch.einsum("bnh,bsnh->bns", query, key) / 8
        scores[:, :, ~plain.allowed[action]] = -torch.inf
        weights = scores.softmax(-1).unflatten(-1, (4, -1))
        expected.append(weights[..., :frame].float())
    found = model.attention(*inputs)
    torch.testing.assert_close(found, torch.stack(expected, 1), atol=1e-5, rtol=1e-3)
    assert found.shape == (3, 3, 2, 4, frame)

"""The loss of conservative Q-learning against plain loops over its definition."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from mgdt_agents.q_learning import losses
from mgdt_agents.q_learning.cql import CQLAgent, CQLConfig
from mgdt_agents.replay import WindowBatch
from mgdt_envs import AtariProtocol, suite
from mgdt_envs.errors import InvalidArgument

CONFIG = CQLConfig(
    blocks=1, stages=(4,), stem_stride=4, hidden=8, atoms=5, max_value=2.0, n_steps=2, discount=0.5
)


@pytest.fixture
def agent() -> CQLAgent:
    torch.manual_seed(0)
    return CQLAgent(CONFIG, device="cpu")


ALLOWED = [0, 1, 3, 4, 11, 12]
"""Pong's actions."""


@torch.no_grad()
def values_of(agent: CQLAgent, observations: np.ndarray) -> torch.Tensor:
    return losses.expected_values(agent.model(torch.from_numpy(observations)), 2.0)


def make_batch(rows: int = 6) -> WindowBatch:
    rng = np.random.default_rng(0)
    shape = (rows, 6)
    batch = WindowBatch(
        frames=rng.integers(256, size=(*shape, 84, 84), dtype=np.uint8),
        actions=rng.integers(18, size=shape),
        rewards=rng.choice([-3.0, -1.0, 0.0, 1.0, 4.0], size=shape).astype(np.float32),
        returns_to_go=np.zeros(shape, np.float32),
        terminated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
        games=np.zeros(rows, np.int64),
        episode_ranks=np.zeros(rows, np.float32),
    )
    batch.terminated[1, 3] = True  # the drawn step ends the game
    batch.valid[1, 4:] = False
    batch.terminated[2, 4] = True  # the next one does
    batch.valid[2, 5:] = False
    batch.valid[3, 5:] = False  # a time limit ends the episode at the next step
    batch.rewards[~batch.valid] = 0
    return batch


def reference_target(
    agent: CQLAgent, frames: torch.Tensor, value: float, discount: float
) -> torch.Tensor:
    """Return the target's distribution for one sample."""
    atoms = torch.linspace(-2, 2, 5)
    logits = agent.target(frames[None])[0]
    choosing = agent.model(frames[None])[0] if agent.config.double_q else logits
    best = (choosing.softmax(-1) * atoms).sum(-1)[ALLOWED].argmax()
    chosen = logits[ALLOWED][best].softmax(-1)
    if agent.config.loss == "hl_gauss":
        mean = value + discount * float((chosen * atoms).sum())
        return losses.hl_gauss_target(torch.tensor([mean]), atoms)[0]
    returns, discounts = torch.tensor([value]), torch.tensor([discount])
    return losses.c51_target(chosen[None], returns, discounts, atoms)[0]


@pytest.mark.parametrize("options", [{}, {"double_q": False}, {"loss": "hl_gauss"}], ids=str)
@torch.no_grad()
def test_loss_is_its_definition(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    agent = CQLAgent(dataclasses.replace(CONFIG, **options), games=["Pong"], device="cpu")
    agent.target.load_state_dict(CQLAgent(CONFIG, device="cpu").model.state_dict())
    batch = make_batch()
    frames = torch.from_numpy(batch.frames)
    distributional, conservative = [], []
    for row in range(len(batch.frames)):
        first, second = np.clip(batch.rewards[row, 3:5], -1, 1).tolist()
        discount = 0.25 if batch.valid[row, 5] else 0.0
        logits = agent.model(frames[row, :4][None])[0]
        target = reference_target(agent, frames[row, 2:6], first + 0.5 * second, discount)
        # An action that Pong does not have is NOOP.
        action = batch.actions[row, 3] if batch.actions[row, 3] in ALLOWED else 0
        chosen = logits[action].log_softmax(-1)
        # Row 3 was cut by a time limit: what came after is unknown, so it does not count.
        distributional.append(0.0 if row == 3 else -(target * chosen).sum().item())
        values = (logits.softmax(-1) * torch.linspace(-2, 2, 5)).sum(-1)
        conservative.append(-values[ALLOWED].log_softmax(-1)[ALLOWED.index(action)].item())
    loss, terms = agent.loss(batch)
    name = f"{agent.config.loss}_loss"
    assert terms[name].item() == pytest.approx(np.mean(distributional), rel=1e-4)
    assert terms["conservative_loss"].item() == pytest.approx(np.mean(conservative), rel=1e-4)
    assert loss.item() == pytest.approx(np.mean(distributional) + np.mean(conservative), rel=1e-4)


def test_loss_trains_the_network_and_not_the_target(agent: CQLAgent) -> None:
    loss, _ = agent.loss(make_batch())
    loss.backward()
    assert all(parameter.grad is not None for parameter in agent.model.parameters())
    assert all(parameter.grad is None for parameter in agent.target.parameters())


def test_target_is_copied_every_period() -> None:
    agent = CQLAgent("tiny", device="cpu")
    with torch.no_grad():
        agent.model.output.bias.add_(1)
    agent.after_step(0)  # before the first step: weights may have been loaded
    assert torch.equal(agent.model.output.bias, agent.target.output.bias)
    with torch.no_grad():
        agent.model.output.bias.add_(1)
    agent.after_step(1)
    assert not torch.equal(agent.model.output.bias, agent.target.output.bias)
    agent.after_step(agent.config.target_period)
    assert torch.equal(agent.model.output.bias, agent.target.output.bias)


def test_acts_on_the_largest_value(agent: CQLAgent) -> None:
    observations = make_batch().frames[:, :4]
    actions, state = agent.predict(observations, deterministic=True)
    values = values_of(agent, observations)
    np.testing.assert_array_equal(actions, values.argmax(-1).numpy())
    assert state is None
    # In a game, only what the game has.
    actions, _ = agent.predict(observations, deterministic=True, game="Pong")
    assert [ALLOWED[best] for best in values[:, ALLOWED].argmax(-1)] == actions.tolist()
    explorer = CQLAgent(dataclasses.replace(CONFIG, exploration=1.0), device="cpu")
    observations = np.zeros((300, 4, 84, 84), np.uint8)
    assert set(explorer.predict(observations, game="Pong")[0].tolist()) == set(ALLOWED)
    assert len(set(explorer.predict(observations)[0].tolist())) == 18
    explorer.games = ("Pong", "Freeway")
    assert set(explorer.predict(observations)[0].tolist()) == {*ALLOWED, 2, 5}


@torch.no_grad()
def test_values_are_fp32_whatever_the_rest_is(agent: CQLAgent) -> None:
    # Values are sums over atoms; in bf16 each term, or the whole, would be rounded.
    logits = torch.linspace(-3, 3, 6 * 18 * 5).reshape(6, 18, 5).sin() * 3
    atoms = torch.linspace(-2, 2, 5)
    exact = (logits.double().softmax(-1) * atoms.double()).sum(-1)
    features: list[torch.Tensor] = []
    agent.model.hidden.register_forward_hook(lambda *arguments: features.append(arguments[2]))
    frames = torch.from_numpy(make_batch().frames[:, :4])
    with torch.autocast("cpu", torch.bfloat16):
        values, found = losses.expected_values(logits, 2.0), agent.model(frames)
    assert values.dtype == found.dtype == torch.float32
    torch.testing.assert_close(values.double(), exact, atol=1e-6, rtol=0)
    # The last linear map, too.
    assert features[0].dtype == torch.bfloat16
    expected = agent.model.output.double()(features[0].relu().double()).unflatten(-1, (18, 5))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_plays_in_bf16(agent: CQLAgent) -> None:
    observations = make_batch().frames[:, :4]
    expected = values_of(agent, observations)
    agent.model.bfloat16()
    agent.predict(observations, deterministic=True)
    values = values_of(agent, observations)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, atol=0.05, rtol=0)


def test_network_and_protocol_must_agree() -> None:
    with pytest.raises(ValueError, match="reads 4 frames of 84 pixels, the protocol gives 3 of 84"):
        CQLAgent("tiny", protocol=AtariProtocol(stack=3), device="cpu")
    with pytest.raises(ValueError, match="reads 4 frames of 64 pixels, the protocol gives 4 of 84"):
        CQLAgent(dataclasses.replace(CONFIG, frame_size=64), device="cpu")


@pytest.mark.parametrize("pooling", ["flatten", "spatial"])
def test_heads_of_games(pooling: Literal["flatten", "spatial"]) -> None:
    config = dataclasses.replace(CONFIG, heads="per-game", pooling=pooling, normalize_features=True)
    agent = CQLAgent(config, games=["Pong", "Freeway"], device="cpu")
    assert agent.model.output.out_features == 2 * 18 * 5
    observations = make_batch().frames[:, :4]
    games = ["Pong", "Freeway", "Freeway", "Pong", "Pong", "Freeway"]
    together, _ = agent.predict(observations, deterministic=True, game=games)
    for row, game in enumerate(games):
        alone, _ = agent.predict(observations[row], deterministic=True, game=game)
        assert alone == together[row]
    loss, _ = agent.loss(make_batch()._replace(games=np.array([0, 0, 0, 0, 0, 0])))
    loss.backward()
    gradient = agent.model.output.weight.grad
    assert gradient is not None
    assert gradient[: 18 * 5].any()
    assert not gradient[18 * 5 :].any()  # no window was of Freeway
    for unknown in ("Breakout", None):
        with pytest.raises(ValueError, match=r"has a head for each of \['Pong', 'Freeway'\], and"):
            agent.predict(observations, game=unknown)


def test_heads_stay_with_their_games(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, heads="per-game")
    CQLAgent(config, games=["Pong", "Freeway"], device="cpu").save(tmp_path)
    for games in (["Freeway", "Pong"], "Pong", ["Pong", "Breakout"]):
        expected = r"expected \['Pong', 'Freeway'\], got \['"
        with pytest.raises(InvalidArgument, match=expected):
            CQLAgent.load(tmp_path, device="cpu", games=games)
    loaded = CQLAgent.load(tmp_path, device="cpu", games=["pong", "Freeway"])
    assert loaded.games == ("Pong", "Freeway")
    # A head that all games share is of none.
    CQLAgent(CONFIG, games=["Pong"], device="cpu").save(tmp_path / "shared")
    assert CQLAgent.load(tmp_path / "shared", games="atari5", device="cpu").games == suite("atari5")


def test_features_of_length_one() -> None:
    config = dataclasses.replace(CONFIG, normalize_features=True)
    model = CQLAgent(config, device="cpu").model
    torch.nn.init.zeros_(model.output.bias)
    frames = torch.from_numpy(make_batch().frames[:, :4])
    features = model.features(frames)
    expected = model.output(features / features.norm(dim=1, keepdim=True))
    torch.testing.assert_close(model(frames).flatten(1), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, "loss must be 'c51' or 'hl_gauss', got 'mse'"),
        ({"heads": "many"}, "heads must be 'shared' or 'per-game', got 'many'"),
        ({"discount": 1.5}, r"discount must be in \(0, 1\], got 1.5"),
        ({"conservative_weight": -1.0}, "conservative_weight must be at least 0, got -1.0"),
    ],
)
def test_bad_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CQLConfig(**options)


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [False, True])
def test_features_of_frames_and_of_pixels_made_before(
    changes: bool, precision: torch.dtype
) -> None:
    config = dataclasses.replace(CONFIG, changes=changes)
    one, other = CQLAgent(config, device="cpu").model, CQLAgent(config, device="cpu").model
    frames = torch.from_numpy(make_batch().frames[:, :4])
    with torch.autocast("cpu", torch.bfloat16, precision == torch.bfloat16):
        pixels = one.pixels(frames)
        assert pixels.dtype == precision
        assert torch.equal(other(pixels), other(frames))
        assert not torch.equal(one(pixels), other(pixels))


@torch.no_grad()
def test_changes_are_what_the_small_network_sees() -> None:
    model = CQLAgent("small", device="cpu").model
    frames = torch.from_numpy(make_batch().frames[:2, :4])
    first = model.trunk[0]
    assert isinstance(first, torch.nn.Conv2d)
    seen: list[torch.Tensor] = []
    model.trunk[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(frames)
    pixels = frames / 255
    channels = [pixels[:, 3], *(4 * (pixels[:, k + 1] - pixels[:, k]) for k in range(3))]
    torch.testing.assert_close(seen[0], first(torch.stack(channels, 1)))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("5m", 4_727_424), ("30m", 36_594_432), ("60m", 75_532_800), ("120m", 146_327_040)],
    ids=str,
)
def test_published_sizes(size: str, parameters: int) -> None:
    # Lee et al. 2022, section 4.2, rounds, and seems to count the convolutions alone.
    with torch.device("meta"):
        trunk = CQLAgent(size, device="meta").model.trunk
    assert sum(p.numel() for p in trunk.parameters()) == parameters


def test_heads_are_made_for_the_replay(
    readable_store: Path, breakout_store: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, heads="per-game")
    agent = CQLAgent(config, device="cpu")
    agent.learn([str(readable_store), str(breakout_store)], steps=1, batch_size=4)
    assert agent.games == ("Pong", "Breakout")
    assert agent.model.output.out_features == agent.target.output.out_features == 2 * 18 * 5
    agent.save(tmp_path)
    loaded = CQLAgent.load(tmp_path, device="cpu")
    observations = make_batch().frames[:, :4]
    for game in agent.games:
        expected, _ = agent.predict(observations, deterministic=True, game=game)
        found, _ = loaded.predict(observations, deterministic=True, game=game)
        np.testing.assert_array_equal(found, expected)
    # Another training may be of some of its games, and of no other.
    before = loaded.model.output.weight.detach().clone()
    loaded.learn(str(breakout_store), steps=1, batch_size=4, optimizer="adamw")
    assert loaded.games == ("Pong", "Breakout")
    changed = (loaded.model.output.weight != before).any(1)
    assert not changed[: 18 * 5].any()
    assert changed[18 * 5 :].any()
    only_pong = CQLAgent(config, games=["Pong"], device="cpu")
    with pytest.raises(ValueError, match=r"head for each of \['Pong'\], .* about \['Breakout'\]"):
        only_pong.learn([str(breakout_store)], steps=1)

"""The loss of conservative Q-learning against plain loops over its definition."""

import numpy as np
import pytest
import torch

from mgdt_agents.q_learning.cql import CQLAgent, CQLConfig
from mgdt_agents.replay import WindowBatch

CONFIG = CQLConfig(
    blocks=1, stages=(4,), stem_stride=4, hidden=8, atoms=5, max_value=2.0, n_steps=2, discount=0.5
)


@pytest.fixture
def agent() -> CQLAgent:
    torch.manual_seed(0)
    return CQLAgent(CONFIG, device="cpu")


def make_batch(rows: int = 6) -> WindowBatch:
    rng = np.random.default_rng(0)
    shape = (rows, 6)
    batch = WindowBatch(
        frames=rng.integers(256, size=(*shape, 84, 84), dtype=np.uint8),
        actions=rng.integers(18, size=shape),
        rewards=rng.choice([-3.0, -1.0, 0.0, 1.0, 4.0], size=shape).astype(np.float32),
        returns_to_go=np.zeros(shape, np.int64),
        terminated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
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
) -> np.ndarray:
    """Bellemare et al. 2017, algorithm 1, one sample and one atom at a time."""
    probabilities = agent.target(frames[None]).softmax(-1)[0]
    support = agent.target.support
    best = (probabilities * support).sum(-1).argmax()
    target = np.zeros(CONFIG.atoms)
    for atom, probability in zip(support, probabilities[best], strict=True):
        moved = min(max(value + discount * float(atom), -2.0), 2.0)
        place = (moved + 2.0) / 1.0
        low, high = int(np.floor(place)), int(np.ceil(place))
        if low == high:
            target[low] += float(probability)
        else:
            target[low] += float(probability) * (high - place)
            target[high] += float(probability) * (place - low)
    return target


@torch.no_grad()
def test_loss_is_its_definition(agent: CQLAgent) -> None:
    agent.target.load_state_dict(CQLAgent(CONFIG, device="cpu").model.state_dict())
    batch = make_batch()
    frames = torch.from_numpy(batch.frames)
    c51, conservative = [], []
    for row in range(len(batch.frames)):
        first, second = np.clip(batch.rewards[row, 3:5], -1, 1).tolist()
        value = first + 0.5 * second
        discount = 0.25 if batch.valid[row, 5] else 0.0
        logits = agent.model(frames[row, :4][None])[0]
        target = reference_target(agent, frames[row, 2:6], value, discount)
        chosen = logits[batch.actions[row, 3]].log_softmax(-1).numpy()
        # Row 3 was cut by a time limit: what came after is unknown, so it does not count.
        c51.append(0.0 if row == 3 else -(target * chosen).sum())
        values = (logits.softmax(-1) * agent.model.support).sum(-1)
        conservative.append(-values.log_softmax(-1)[batch.actions[row, 3]].item())
    loss, terms = agent.loss(batch)
    assert terms["c51_loss"].item() == pytest.approx(np.mean(c51), rel=1e-4)
    assert terms["conservative_loss"].item() == pytest.approx(np.mean(conservative), rel=1e-4)
    assert loss.item() == pytest.approx(np.mean(c51) + np.mean(conservative), rel=1e-4)


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
    values = agent.model.values(agent.model(torch.from_numpy(observations)))
    np.testing.assert_array_equal(actions, values.argmax(-1).numpy())
    assert state is None


@torch.no_grad()
def test_changes_are_what_the_small_network_sees() -> None:
    model = CQLAgent("small", device="cpu").model
    frames = torch.from_numpy(make_batch().frames[:2, :4])
    seen: list[torch.Tensor] = []
    model.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(frames)
    pixels = frames / 255
    expected = [pixels[:, 3], *(4 * (pixels[:, k + 1] - pixels[:, k]) for k in range(3))]
    torch.testing.assert_close(seen[0], torch.stack(expected, 1))


@pytest.mark.parametrize(
    ("size", "millions"), [("5m", 5), ("30m", 30), ("60m", 60), ("120m", 120)], ids=str
)
def test_published_sizes(size: str, millions: float) -> None:
    # Lee et al. 2022, section 4.2, rounds, and seems to count the convolutions alone.
    with torch.device("meta"):
        trunk = CQLAgent(size, device="meta").model.trunk
    assert sum(p.numel() for p in trunk.parameters()) / 1e6 == pytest.approx(millions, rel=0.3)

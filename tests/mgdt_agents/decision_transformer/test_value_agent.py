"""The value agent's loss over several steps, against a plain loop."""

import dataclasses

import numpy as np
import pytest
import torch

from mgdt_agents.decision_transformer import ValueTransformerAgent
from mgdt_agents.q_learning import losses
from mgdt_agents.replay import WindowBatch

ACTIONS = [0, 1, 3, 4, 11, 12]  # Pong's
DISCOUNT, ATOMS, MOST, LIKELY = 0.5, 5, 2.0, 0.1
CONFIG = dataclasses.replace(
    ValueTransformerAgent.presets["tiny"],
    n_steps=3,
    dropout=0.0,
    conservative_weight=0.0,
    likely=LIKELY,
    atoms=ATOMS,
    max_value=MOST,
    value_discount=DISCOUNT,
)


def batch(rows=5):
    """Return windows of 4 learned steps and 3 later ones, some padded, ended or cut."""
    random = np.random.default_rng(0)
    shape = (rows, CONFIG.steps + CONFIG.n_steps)
    valid, terminated = np.ones(shape, bool), np.zeros(shape, bool)
    valid[0, :2] = False
    valid[1, 5:], terminated[1, 4] = False, True
    valid[2, 6:] = False
    frames = random.integers(256, size=(*shape, 84, 84), dtype=np.uint8)
    return WindowBatch(
        frames=frames * valid[..., None, None],
        actions=random.integers(18, size=shape) * valid,
        rewards=(random.integers(-2, 3, size=shape) * valid).astype(np.float32),
        returns_to_go=np.zeros(shape, np.float32),
        terminated=terminated,
        valid=valid,
        games=np.zeros(rows, np.int64),
        episode_ranks=np.zeros(rows, np.float32),
    )


def test_loss_of_several_steps_equals_a_plain_loop():
    torch.manual_seed(0)
    agent = ValueTransformerAgent(CONFIG, games=["Pong"], device="cpu")
    agent.target.load_state_dict(ValueTransformerAgent(CONFIG, device="cpu").model.state_dict())
    windows = batch()
    actions = np.where(np.isin(windows.actions, ACTIONS), windows.actions, 0)
    tokens = np.select([windows.rewards > 0, windows.rewards < 0], [1, 3], 0)
    T, N = CONFIG.steps, CONFIG.n_steps

    def outputs(network, steps):
        return network(
            *(torch.from_numpy(part[:, steps]) for part in (windows.frames, actions, tokens))
        )

    atoms = torch.linspace(-MOST, MOST, ATOMS)
    with torch.no_grad():
        _, terms = agent.loss(windows)
        now, later = outputs(agent.model, slice(T)), outputs(agent.target, slice(N, None))
        expected = 0.0
        for row in range(len(actions)):
            for step in range(T):
                goes_on = windows.valid[row, step + N]
                ends = windows.terminated[row, step : step + N].any()
                if not windows.valid[row, step] or not (goes_on or ends):
                    continue
                rewards = np.clip(windows.rewards[row, step : step + N], -1, 1)
                target = sum(DISCOUNT**k * reward for k, reward in enumerate(rewards))
                if goes_on:
                    policy = later["action"][row, step][ACTIONS].softmax(-1)
                    values = (later["value"][row, step][ACTIONS].softmax(-1) * atoms).sum(-1)
                    likely = policy >= LIKELY * policy.max()
                    target += DISCOUNT**N * float(values[likely].max())
                wanted = losses.hl_gauss_target(torch.tensor([target]), atoms)[0]
                found = now["value"][row, step, actions[row, step]].log_softmax(-1)
                expected -= float((wanted * found).sum())
    assert float(terms["value_loss"]) == pytest.approx(expected / (len(actions) * T), rel=1e-5)


@pytest.mark.parametrize("beta", [-3, np.inf, np.nan, "3", None])
def test_beta_is_a_number_from_zero_up(beta):
    with pytest.raises(
        ValueError, match=f"beta must be a finite number, not negative, got {beta!r}"
    ):
        ValueTransformerAgent(CONFIG, beta=beta, device="cpu")
    agent = ValueTransformerAgent(CONFIG, beta=np.float32(2), device="cpu")
    with pytest.raises(ValueError, match="beta must be a finite number"):
        agent.beta = beta
    assert agent.beta == 2

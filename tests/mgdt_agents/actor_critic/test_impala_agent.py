"""IMPALA's agent: the actions of the game, the memory of an LSTM."""

import dataclasses

import numpy as np
import pytest
import torch

from mgdt_agents.actor_critic import ImpalaAgent, ImpalaAgentConfig
from mgdt_envs.games import game

TINY = ImpalaAgentConfig(stages=(4, 4), blocks=1, stem_stride=4, hidden=16, halve_frames=True)


def observations(rows, seed=0):
    random = np.random.default_rng(seed)
    brightness = np.linspace(0, 1, rows)[:, None, None, None]
    return (random.integers(256, size=(rows, 4, 84, 84)) * brightness).astype(np.uint8)


def make_agent(**changes):
    torch.manual_seed(0)
    return ImpalaAgent(
        dataclasses.replace(TINY, **changes), games=["Freeway", "Breakout"], device="cpu"
    )


def test_actions_are_the_game_s():
    agent = make_agent()
    both = game("Freeway").minimal_actions, game("Breakout").minimal_actions
    for deterministic in (True, False):
        actions, _ = agent.predict(
            observations(200), deterministic=deterministic, game=["Freeway", "Breakout"] * 100
        )
        assert set(actions[::2]) <= set(both[0])
        assert set(actions[1::2]) <= set(both[1])
        unknown, _ = agent.predict(observations(200), deterministic=deterministic)
        assert set(unknown) <= set(both[0] + both[1])
    assert len(set(actions[::2])) == 3  # the last are draws


def test_lstm_remembers_and_forgets():
    agent = make_agent(lstm=8)
    batch = observations(64)
    actions, state = agent.predict(batch, deterministic=True)
    assert [part.shape for part in state] == [(64, 8), (64, 8), (64, 1)]
    assert np.array_equal(state[2][:, 0], actions)
    _, later = agent.predict(batch, state)
    assert (later[1] != state[1]).all()
    starts = np.arange(64) < 32
    _, half = agent.predict(batch, state, starts)
    np.testing.assert_allclose(half[1], np.where(starts[:, None], state[1], later[1]), rtol=1e-5)


def test_lstm_reads_the_last_action_and_its_reward():
    agent = make_agent(lstm=8)
    batch = observations(64)
    _, state = agent.predict(batch)

    def cell_after(state, reward):
        return agent.predict(batch, state, reward=np.full(64, reward))[1][1]

    plain = cell_after(state, 0.0)
    other = agent.with_actions(state, (state[2][:, 0] + 1) % 18)
    assert (cell_after(other, 0.0) != plain).any(1).all()
    assert (cell_after(state, 1.0) != plain).any(1).all()
    assert np.array_equal(cell_after(state, 1.0), cell_after(state, 7.0))  # clipped


def test_steps_at_once_are_steps_in_turn():
    agent = make_agent(lstm=8)
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(256, size=(5, 3, 42, 42, 4)).astype(np.uint8))
    starts = torch.from_numpy(random.random((5, 3)) < 0.3)
    actions = torch.from_numpy(random.integers(18, size=(5, 3)))
    rewards = torch.from_numpy(random.normal(size=(5, 3)).astype(np.float32))
    with torch.no_grad():
        together = agent.model(pixels, None, starts, actions, rewards)
        memory = None
        for t in range(5):
            now = slice(t, t + 1)
            outputs = agent.model(pixels[now], memory, starts[now], actions[now], rewards[now])
            torch.testing.assert_close(outputs.logits[0], together.logits[t])
            torch.testing.assert_close(outputs.values[0], together.values[t])
            memory = outputs.memory
    torch.testing.assert_close(memory.cell, together.memory.cell)


def test_values_of_games_are_saved_whole_and_stay_with_them(tmp_path):
    agent = make_agent(value_games=2)
    agent.model.value.mean_square.fill_(1e8)  # beyond float16
    agent.save(tmp_path, dtype=torch.float16)
    loaded = ImpalaAgent.load(tmp_path, device="cpu")
    assert torch.equal(loaded.model.value.mean_square, agent.model.value.mean_square)
    with pytest.raises(ValueError, match=r"\['Freeway', 'Breakout'\], got \['Breakout', 'Freew"):
        ImpalaAgent.load(tmp_path, games=["Breakout", "Freeway"], device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_games": 3}, "value_games must be 0 or the number of games, 2, got 3"),
        ({"lstm": -1}, "lstm must be at least 0, got -1"),
        ({"frame_size": 83}, "frame_size must be even to be halved, got 83"),
        ({"frame_size": 80}, "reads 4 frames of 80 pixels, the protocol gives 4 of 84"),
    ],
)
def test_wrong_config(changes, message):
    with pytest.raises(ValueError, match=message):
        make_agent(**changes)

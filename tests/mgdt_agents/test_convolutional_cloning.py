"""What is `bc_conv`'s own; test_agent.py has what it shares with all agents."""

import numpy as np
import pytest

from mgdt_agents.convolutional_cloning import ConvolutionalCloningAgent


def test_temperature_sharpens(tmp_path):
    frames = np.random.default_rng(0).integers(256, size=(64, 4, 84, 84), dtype=np.uint8)
    agent = ConvolutionalCloningAgent("small", action_temperature=1e-4, device="cpu")
    best, _ = agent.predict(frames, deterministic=True)
    actions, _ = agent.predict(frames)
    assert (actions == best).all()
    agent.save(tmp_path)
    loaded = ConvolutionalCloningAgent.load(tmp_path, device="cpu")
    assert loaded.action_temperature == 1e-4
    loaded.action_temperature = 1.0
    actions, _ = loaded.predict(frames)
    assert (actions == best).mean() < 0.5


def test_bad_temperature():
    with pytest.raises(ValueError, match="action_temperature must be above 0, got 0"):
        ConvolutionalCloningAgent("small", action_temperature=0)

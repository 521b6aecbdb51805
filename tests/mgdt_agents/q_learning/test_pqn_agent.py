"""PQN's network: what it sees, its values in any precision."""

import numpy as np
import pytest
import torch

from mgdt_agents.frames import to_pixels
from mgdt_agents.q_learning.pqn_agent import PQNAgent, PQNNetworkConfig, QNetwork
from mgdt_envs import AtariProtocol


def test_pixels_are_means_of_four():
    random = np.random.default_rng(0)
    observations = random.integers(256, size=(5, 4, 84, 84)).astype(np.uint8)
    pixels = to_pixels(observations)
    assert (pixels.shape, pixels.dtype) == ((5, 42, 42, 4), np.uint8)
    means = observations.reshape(5, 4, 42, 2, 42, 2).mean((3, 5)).transpose(0, 2, 3, 1)
    assert (pixels - means).min() > -2
    assert (pixels - means).max() <= 0


@pytest.mark.parametrize("value", [0, 254])
def test_pixels_of_one_brightness(value):
    assert (to_pixels(np.full((1, 1, 4, 6), value, np.uint8)) == value).all()


def make_network():
    torch.manual_seed(0)
    return QNetwork(PQNNetworkConfig(actions=(0, 2, 5)))


def some_pixels(count):
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(256, size=(count, 42, 42, 4)).astype(np.uint8))


def test_network_begins_with_values_near_zero():
    with torch.no_grad():
        values = make_network()(some_pixels(20))
    assert values.shape == (20, 3)
    torch.testing.assert_close(values.mean(1), torch.zeros(20))
    assert 0.01 < values.abs().max() < 0.5


def test_what_is_learned_of_one_action_moves_the_others():
    network, pixels = make_network(), some_pixels(1)
    before = network(pixels)
    before[0, 1].backward()
    with torch.no_grad():
        for parameter in network.outputs.parameters():
            parameter += 0.1 * parameter.grad
        moved = (network(pixels) - before)[0]
    assert (moved > 0).all()
    assert moved.argmax() == 1


@pytest.mark.parametrize("how", ["autocast", "converted"])
def test_values_in_bf16_are_of_single_precision(how):
    network, pixels = make_network(), some_pixels(50)
    with torch.no_grad():
        network.outputs.bias[0] = 2
        expected = network(pixels)
        if how == "converted":
            network.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, how == "autocast"):
            values = network(pixels)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=0, atol=0.03)
    # Near 2, bf16 has steps of 1/128.
    assert len(values[:, 0].unique()) > 40


def test_agent_plays_what_its_network_values_most():
    torch.manual_seed(0)
    agent = PQNAgent(
        PQNNetworkConfig(actions=(0, 2, 5)), games=["Freeway"], protocol=AtariProtocol()
    )
    random = np.random.default_rng(0)
    observations = random.integers(256, size=(30, 4, 84, 84)).astype(np.uint8)
    with torch.no_grad():
        best = agent.model(torch.from_numpy(to_pixels(observations))).argmax(1).numpy()
    actions, _ = agent.predict(observations, deterministic=True)
    assert np.array_equal(actions, np.array([0, 2, 5])[best])
    assert len(set(actions)) > 1


def test_frames_of_another_protocol():
    with pytest.raises(ValueError, match="reads 4 frames of 84 pixels, the protocol gives 2 of 84"):
        PQNAgent("small", protocol=AtariProtocol(stack=2), device="cpu")


def test_odd_frame_size():
    with pytest.raises(ValueError, match="frame_size must be even, got 85"):
        QNetwork(PQNNetworkConfig(frame_size=85))

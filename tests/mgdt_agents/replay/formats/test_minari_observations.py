"""Frames from observations of all kinds."""

import ale_py
import cv2
import numpy as np
import pytest
from ale_py import roms
from gymnasium.spaces import Box, Discrete

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.formats.minari_rules import Observations


def pictures(shape, count=3):
    return np.random.default_rng(0).integers(256, size=(count, *shape)).astype(np.uint8)


def frames_of(observations, side=84):
    space = Box(0, 255, observations.shape[1:], np.uint8)
    layout = Observations.of(space, side)
    return layout.frames(observations), layout.conversion


@pytest.mark.parametrize("rom", ["breakout", "ms_pacman", "video_pinball", "carnival"])
def test_screens_become_what_the_emulator_calls_gray(rom):
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(rom))
    random = np.random.default_rng(0)
    colors, grays = [], []
    for _ in range(60):
        for _ in range(10):
            ale.act(int(random.integers(18)))
        colors.append(ale.getScreenRGB())
        grays.append(ale.getScreenGrayscale())
    expected = [cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA) for gray in grays]
    for observations in (np.array(colors), np.array(grays), np.array(grays)[..., None]):
        frames, conversion = frames_of(observations)
        np.testing.assert_array_equal(frames, expected)
        assert conversion.endswith("resized to 84x84 by area")
        assert ("luminance" in conversion) == (observations.shape[-1] == 3)


@pytest.mark.parametrize("shape", [(84, 84), (84, 84, 1), (4, 84, 84), (2, 84, 84, 1)])
def test_frames_of_the_right_size_stay_as_they_are(shape):
    observations = pictures(shape)
    newest = observations[:, -1] if len(shape) > 2 and shape[0] < 84 else observations
    frames, conversion = frames_of(observations)
    np.testing.assert_array_equal(frames, newest.reshape(-1, 84, 84))
    assert conversion == "none"


def test_stack_of_screens():
    observations = pictures((4, 210, 160, 3))
    frames, _ = frames_of(observations)
    np.testing.assert_array_equal(frames, frames_of(observations[:, -1])[0])


def test_small_rgb():
    frames, conversion = frames_of(pictures((84, 84, 3)))
    assert frames.shape == (3, 84, 84)
    assert "resized" not in conversion


def test_another_size():
    frames, _ = frames_of(pictures((210, 160)), side=96)
    assert frames.shape == (3, 96, 96)
    with pytest.raises(ReplayError, match=r"210x160 .* or of 96x96, .* uint8 of shape \(84"):
        frames_of(pictures((84, 84)), side=96)


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (128,), np.uint8),
        Box(0, 255, (64, 64), np.uint8),
        Box(0, 255, (84, 84, 4), np.uint8),
        Box(0, 255, (3, 4, 84, 84), np.uint8),
        Box(0, 1, (84, 84), np.float32),
        Discrete(4),
    ],
)
def test_refused(space):
    with pytest.raises(ReplayError, match=r"Expected uint8 observations of .*, found "):
        Observations.of(space, 84)

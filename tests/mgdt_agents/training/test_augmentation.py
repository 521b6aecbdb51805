"""Displaced windows: all frames of a window alike, reproducible, off by default."""

import dataclasses

import numpy as np
import pytest

from mgdt_agents import make_agent
from mgdt_agents.replay import WindowBatch, WindowSampler
from mgdt_agents.training import Augmentation, TrainingConfig, train


@pytest.fixture
def batch(readable_store) -> WindowBatch:
    batch = WindowSampler([readable_store]).sample(8, 0)
    noise = np.random.default_rng(0).integers(256, size=batch.frames.shape, dtype=np.uint8)
    return batch._replace(frames=noise)


def augmented(batch, seed=0, **fields):
    return Augmentation(**fields)(batch, np.random.default_rng(seed))


def test_off_by_default(batch):
    assert TrainingConfig(steps=1).augmentation == Augmentation()
    assert augmented(batch) is batch


def test_shift_is_a_crop_of_the_padded_window(batch):
    found = augmented(batch, shift=4)
    padded = np.pad(batch.frames, ((0, 0), (0, 0), (4, 4), (4, 4)))
    places = []
    for before, after in zip(padded, found.frames, strict=True):
        matching = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.array_equal(before[:, y : y + 84, x : x + 84], after)
        ]
        places += matching
    # One place for all frames of a window, and not the same for all windows.
    assert len(places) == 8
    assert len(set(places)) > 4
    for name in batch._fields[1:]:
        assert getattr(found, name) is getattr(batch, name)


def test_rotation_is_small_and_about_the_center(batch):
    frames = np.zeros_like(batch.frames)
    frames[..., 36:48, 36:48] = 255
    frames[..., :4, 40:44] = 255
    found = augmented(batch._replace(frames=frames), rotation=5.0).frames
    assert (found[..., 40:44, 40:44] == 255).all()
    assert (found == found[:, :1]).all()
    # 5 degrees move the mark at the edge by up to 42 sin(5) = 3.7 pixels.
    weights = found[:, 0, 1].astype(float)
    offsets = weights @ np.arange(84) / weights.sum(1) - 41.5
    assert 1 < np.abs(offsets).max() < 4
    assert offsets.min() < 0 < offsets.max()


def test_what_is_drawn_depends_on_the_generator_alone(batch):
    first, again, other = (augmented(batch, seed, shift=4, rotation=3.0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.frames != other.frames).any()


def test_training_sees_displaced_windows(readable_store):
    config = TrainingConfig(replay=(readable_store,), steps=2, batch_size=4)

    def frames_seen(shift: int) -> np.ndarray:
        agent = make_agent("dt", "tiny", device="cpu")
        loss, seen = agent.loss, []

        def spy(batch):
            seen.append(batch.frames)
            return loss(batch)

        agent.loss = spy  # type: ignore[method-assign]
        train(agent, dataclasses.replace(config, augmentation=Augmentation(shift=shift)))
        return np.array(seen)

    shifted = frames_seen(4)
    np.testing.assert_array_equal(shifted, frames_seen(4))
    assert (shifted != frames_seen(0)).any((1, 2, 3, 4)).all()


@pytest.mark.parametrize("fields", [{"shift": -1}, {"rotation": -1.0}, {"rotation": 200.0}])
def test_what_cannot_be(fields):
    with pytest.raises(ValueError, match=r"(shift|rotation) must be (at least 0|in .0, 180.), got"):
        Augmentation(**fields)

"""Windows seen a little displaced, so that a network does not learn pixels by heart."""

from dataclasses import dataclass

import cv2
import numpy as np

from mgdt_agents.config_checks import check_interval
from mgdt_agents.replay.sampler import WindowBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """A random shift and a random rotation of each window, all of its frames alike.

    Example:
        >>> Augmentation(shift=4, rotation=3.0)
        Augmentation(shift=4, rotation=3.0)
    """

    shift: int = 0
    """Frames are padded with this many pixels of zero and cropped at random (usually 4)."""
    rotation: float = 0.0
    """Degrees by which frames are turned about their center at most, either way."""

    def __post_init__(self) -> None:
        check_interval(self, "[0, inf)", "shift")  # pixels
        check_interval(self, "[0, 180]", "rotation")  # degrees

    def __call__(self, batch: WindowBatch, rng: np.random.Generator, first: int = 0) -> WindowBatch:
        """Return the batch with other frames; what is drawn depends on the generator alone.

        Args:
            batch: B windows.
            rng: gives three numbers for each window.
            first: the number of the first window in the batch that these are a part of.
        """
        if not self.shift and not self.rotation:
            return batch
        count = first + len(batch.frames)
        draws = rng.random((count, 3))[first:]
        shifts = np.floor(draws[:, :2] * (2 * self.shift + 1)) - self.shift
        angles = (2 * draws[:, 2] - 1) * self.rotation
        frames = np.empty_like(batch.frames)
        height, width = frames.shape[2:]
        center = ((width - 1) / 2, (height - 1) / 2)
        for row, (shift, angle) in enumerate(zip(shifts, angles, strict=True)):
            # With no angle the map moves whole pixels, and cv2 copies them as they are.
            move = cv2.getRotationMatrix2D(center, angle, 1.0)
            move[:, 2] += shift
            for step, frame in enumerate(batch.frames[row]):
                cv2.warpAffine(frame, move, (width, height), dst=frames[row, step])
        return batch._replace(frames=frames)

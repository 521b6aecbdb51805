"""Observations of recordings, whatever they look like, to the frames of a store."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from gymnasium.spaces import Box, Space

from mgdt_agents.errors import ReplayError

SCREEN_HEIGHTS = range(210, 251)
SCREEN_WIDTH = 160
"""Of the console's pictures; the height is the game's."""


@dataclass(frozen=True, slots=True)
class Observations:
    """What the observations of a recording look like."""

    shape: tuple[int, ...]
    """Of one, in a notation: `[stack,] height, width[, channels]`."""
    stacked: bool
    """Whether frames are stacked, the newest last."""
    channels: int
    """3 for RGB; 1 for gray; 0 for gray without an axis for it."""
    side: int
    """Height and width of the frames to make."""

    @classmethod
    def of(cls, space: Space[Any], side: int) -> "Observations":
        """Return the layout of a data set's observations.

        Raises:
            ReplayError: if no frame can be made of them.
        """
        if isinstance(space, Box) and space.dtype == np.uint8:
            for stacked in (False, True):
                picture = space.shape[stacked:]
                if len(picture) not in (2, 3):
                    continue
                is_screen = picture[0] in SCREEN_HEIGHTS and picture[1] == SCREEN_WIDTH
                channels = picture[2] if len(picture) == 3 else 0
                if (is_screen or picture[:2] == (side, side)) and channels in (0, 1, 3):
                    return cls(space.shape, stacked, channels, side)
        raise ReplayError(
            f"Expected uint8 observations of the console's {SCREEN_HEIGHTS[0]}x{SCREEN_WIDTH} (in "
            f"some games up to {SCREEN_HEIGHTS[-1]}) or of {side}x{side}, RGB or gray, of shape "
            "(height, width), (height, width, channels) or either after a stack of frames, found "
            f"{space if not isinstance(space, Box) else f'{space.dtype} of shape {space.shape}'}."
        )

    @property
    def conversion(self) -> str:
        """What is done to the newest frame, in words."""
        steps = []
        if self.channels == 3:
            steps.append("gray as 0.299 R + 0.587 G + 0.114 B, which is ale-py's luminance")
        if self._size != (self.side, self.side):
            steps.append(f"resized to {self.side}x{self.side} by area")
        return "; ".join(steps) or "none"

    @property
    def _size(self) -> tuple[int, ...]:
        return self.shape[self.stacked : self.stacked + 2]

    def frames(self, observations: np.ndarray) -> np.ndarray:
        """Return the newest frame of each observation, `(T, side, side)` uint8.

        Args:
            observations: `(T, *shape)` uint8.
        """
        pictures = observations[:, -1] if self.stacked else observations
        if self.channels == 1:
            pictures = pictures[..., 0]
        if self.channels != 3 and self._size == (self.side, self.side):
            return pictures
        frames = np.empty((len(pictures), self.side, self.side), np.uint8)
        for picture, frame in zip(pictures, frames, strict=True):
            # For all colours of the console, the same as what the emulator calls gray.
            gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if self.channels == 3 else picture
            cv2.resize(gray, (self.side, self.side), dst=frame, interpolation=cv2.INTER_AREA)
        return frames

"""A step of the wall as one picture."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from ale_py import Action

from mgdt_agents.play.wall import WallStep

CAPTION = 26  # pixels above each screen
MARGIN = 4  # pixels around each screen
CHART = 32  # pixels below each screen, for predicted returns
FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT, DIM, BAR = (235, 235, 235), (150, 150, 150), (90, 170, 250)  # red, green, blue


def draw_wall(
    step: WallStep, games: Sequence[str], *, taken: Sequence[int] = (), scale: int = 1
) -> np.ndarray:
    """Return the wall with names, scores and, where the agent gave them, its explanations.

    Args:
        step: what to draw.
        games: the names.
        taken: numbers of the games that a person plays, which are marked.
        scale: screen pixels of a pixel of the console.

    Returns:
        `(height, width, 3)` uint8 of even height and width, as video codecs want them.
    """
    tiles = []
    for number in range(len(step.screens)):
        screen = explained(step, number)
        screen = screen.repeat(scale, 0).repeat(scale, 1)
        tile = np.full((CAPTION, screen.shape[1], 3), 20, np.uint8)
        score = f"{step.scores[number]:g}"
        _write(tile, games[number], 0, TEXT)
        _write(tile, Action(int(step.actions[number])).name.lower(), 1, DIM)
        width = cv2.getTextSize(score, FONT, 0.36, 1)[0][0]
        cv2.putText(
            tile, score, (screen.shape[1] - width - 2, 10), FONT, 0.36, TEXT, 1, cv2.LINE_AA
        )
        if number in taken:
            tile[-2:] = BAR
        parts = [tile, screen]
        if step.returns is not None:
            parts.append(_chart(step.returns[number], screen.shape[1]))
        tiles.append(np.concatenate(parts))
    return arrange(tiles)


def arrange(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Return the pictures `(height, width, 3)` in rows and columns, smaller ones padded."""
    height = max(len(tile) for tile in tiles) + 2 * MARGIN
    width = max(tile.shape[1] for tile in tiles) + 2 * MARGIN
    columns = math.ceil(math.sqrt(len(tiles) * 1.6))  # about as wide as a page
    rows = math.ceil(len(tiles) / columns)
    wall = np.zeros((rows * height + rows * height % 2, columns * width, 3), np.uint8)
    for number, tile in enumerate(tiles):
        top = number // columns * height + MARGIN
        left = number % columns * width + MARGIN
        wall[top : top + len(tile), left : left + tile.shape[1]] = tile
    return wall


def explained(step: WallStep, number: int) -> np.ndarray:
    """Return a game's screen with what the agent says of it, but for predicted returns.

    It is darker where the agent did not look; beside it is the frame that the agent imagined.
    """
    screen = step.screens[number]
    if step.attention is not None:
        screen = with_attention(screen, step.attention[number, -1])
    if step.imagined is not None:
        height, width = screen.shape[:2]
        frame = cv2.resize(step.imagined[number], (width, height), interpolation=cv2.INTER_LINEAR)
        screen = np.concatenate([screen, frame[..., None].repeat(3, 2)], 1)
    return screen


def with_attention(screen: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Return the screen, darker where the agent did not look.

    Args:
        screen: `(height, width, 3)` uint8.
        attention: `(rows, columns)` of the newest frame. A frame that is a single token has one
            number, which says nothing of where; the screen is returned as it is.
    """
    if attention.size == 1:
        return screen
    light = (attention / max(attention.max(), 1e-9)).astype(np.float32)
    light = cv2.resize(light, (screen.shape[1], screen.shape[0]), interpolation=cv2.INTER_LINEAR)
    return (screen * (0.25 + 0.75 * light[..., None])).astype(np.uint8)


def _write(tile: np.ndarray, text: str, line: int, color: tuple[int, int, int]) -> None:
    cv2.putText(tile, text, (2, 10 + 12 * line), FONT, 0.36, color, 1, cv2.LINE_AA)


def _chart(probabilities: np.ndarray, width: int) -> np.ndarray:
    """Return bars of the probability of each return, from the least to the largest."""
    chart = np.full((CHART, width, 3), 20, np.uint8)
    heights = probabilities / max(probabilities.max(), 1e-9) * (CHART - 2)
    places = np.arange(width) * len(heights) // width
    filled = np.arange(CHART)[::-1, None] < heights[places]
    chart[filled] = BAR
    return chart

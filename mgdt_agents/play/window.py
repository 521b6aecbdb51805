"""The wall in a window of the desktop."""

import os

import numpy as np

from mgdt_agents.play.keys import action_of_keys
from mgdt_agents.play.picture import draw_wall
from mgdt_agents.play.wall import Wall
from mgdt_envs.errors import InvalidArgument, importing

HELP = "Space: pause. 1 to 9: take a game over; arrows and Ctrl play it. Escape: give it back."

UNSEEN = ("dummy", "offscreen")
"""Drivers of SDL that show nothing."""


def show_in_window(wall: Wall, *, scale: int = 2) -> None:
    """Play at the console's pace in a window until it is closed.

    Args:
        wall: what to show.
        scale: screen pixels of a pixel of the console.

    Raises:
        MissingExtra: if pygame is not installed.
        ValueError: if there is no display.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with importing("A window needs pygame", "video"):
        import pygame
    try:
        pygame.display.init()
        # Without a display SDL may fall back on pictures that nobody sees.
        if pygame.display.get_driver() in UNSEEN and "SDL_VIDEODRIVER" not in os.environ:
            pygame.display.quit()
            raise pygame.error("no display")
    except pygame.error as error:
        raise InvalidArgument(
            f"No window can be opened here ({error}); use --record FILE.mp4 or --web."
        ) from None
    held = {
        "up": (pygame.K_UP, pygame.K_w),
        "down": (pygame.K_DOWN, pygame.K_s),
        "left": (pygame.K_LEFT, pygame.K_a),
        "right": (pygame.K_RIGHT, pygame.K_d),
        "fire": (pygame.K_LCTRL, pygame.K_RCTRL, pygame.K_RETURN),
    }
    clock = pygame.time.Clock()
    window, paused, taken_game = None, False, None
    try:
        while True:
            for event in pygame.event.get():
                if event.type == pygame.QUIT:
                    return
                if event.type == pygame.KEYDOWN:
                    if event.key == pygame.K_SPACE:
                        paused = not paused
                    elif event.key == pygame.K_ESCAPE:
                        taken_game = None
                    elif 0 <= event.key - pygame.K_1 < min(9, len(wall.games)):
                        taken_game = event.key - pygame.K_1
            if not paused:
                down = pygame.key.get_pressed()
                pressed = {name for name, keys in held.items() if any(down[key] for key in keys)}
                taken = {} if taken_game is None else {taken_game: action_of_keys(pressed)}
                picture = draw_wall(wall.step(taken), wall.games, taken=list(taken), scale=scale)
                if window is None:
                    window = pygame.display.set_mode((picture.shape[1], picture.shape[0]))
                    pygame.display.set_caption(f"mgdt-play. {HELP}")
                pygame.surfarray.blit_array(window, np.swapaxes(picture, 0, 1))
                pygame.display.flip()
            clock.tick(wall.envs.protocol.steps_per_second)
    finally:
        pygame.display.quit()

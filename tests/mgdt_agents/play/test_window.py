"""The wall in a window that nobody sees."""

import pytest

from mgdt_agents.play import Wall
from mgdt_agents.play.window import show_in_window
from mgdt_agents.random_agent import RandomAgent

pygame = pytest.importorskip("pygame")


def test_a_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    wall = Wall(RandomAgent(), ["Pong", "Breakout"])
    taken = []
    step = wall.step
    monkeypatch.setattr(wall, "step", lambda actions: taken.append(actions) or step(actions))
    keys = iter([pygame.K_2, pygame.K_ESCAPE, pygame.K_SPACE, pygame.K_SPACE])
    get = pygame.event.get

    def press_then_get():
        """What a person does before the window asks."""
        if len(taken) == 6:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        elif key := next(keys, None):
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
        return get()

    monkeypatch.setattr(pygame.event, "get", press_then_get)
    show_in_window(wall, scale=1)
    assert {1: 0} in taken
    assert taken[-1] == {}
    assert not pygame.display.get_init()

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

    def press(key):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))

    keys = iter([pygame.K_2, pygame.K_ESCAPE, pygame.K_SPACE, pygame.K_SPACE])

    def should_stop():
        if len(taken) == 6:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        elif pygame.display.get_init() and (key := next(keys, None)):
            press(key)
        return False

    show_in_window(wall, scale=1, should_stop=should_stop)
    assert {1: 0} in taken
    assert taken[-1] == {}
    assert not pygame.display.get_init()

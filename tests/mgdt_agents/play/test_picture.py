"""The wall as a picture."""

import numpy as np
import pytest

from mgdt_agents.play.keys import action_of_keys
from mgdt_agents.play.picture import CAPTION, CHART, MARGIN, arrange, draw_wall, with_attention
from mgdt_agents.play.wall import WallStep


def step_of(screens, **fields):
    count = len(screens)
    defaults = {
        "actions": np.zeros(count, np.int64),
        "scores": np.zeros(count),
        "last_scores": np.full(count, np.nan),
        "returns": None,
        "attention": None,
    }
    return WallStep(tuple(screens), **{**defaults, **fields})


def test_screens_are_in_the_picture_unchanged():
    random = np.random.default_rng(0)
    screens = [random.integers(256, size=(210, 160, 3), dtype=np.uint8) for _ in range(3)]
    picture = draw_wall(step_of(screens), ["A", "B", "C"])
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    for column, screen in enumerate(screens):
        left = column * (160 + 2 * MARGIN) + MARGIN
        top = MARGIN + CAPTION
        assert (picture[top : top + 210, left : left + 160] == screen).all()


def test_captions_say_who_plays_and_what_came_of_it():
    screens = [np.zeros((210, 160, 3), np.uint8)] * 2
    plain = draw_wall(step_of(screens), ["Pong", "Pong"])
    scored = draw_wall(step_of(screens, scores=np.array([0.0, 7.0])), ["Pong", "Pong"])
    taken = draw_wall(step_of(screens), ["Pong", "Pong"], taken=[1])
    half = plain.shape[1] // 2
    for other in (scored, taken):
        assert (plain[:, :half] == other[:, :half]).all()
        assert (plain[:, half:] != other[:, half:]).any()


def test_the_likeliest_return_has_the_highest_bar():
    returns = np.zeros((1, 80))
    returns[0, 20] = 0.75
    returns[0, 60] = 0.25
    screen = np.zeros((210, 160, 3), np.uint8)
    chart = draw_wall(step_of([screen], returns=returns), ["Pong"])[-CHART - MARGIN : -MARGIN]
    heights = (chart[:, MARGIN:-MARGIN] == (90, 170, 250)).all(-1).sum(0)
    assert heights[40] == heights.max() == CHART - 2
    assert 0 < heights[120] < heights[40]
    assert heights[0] == 0


def test_attention_darkens_what_is_not_looked_at():
    screen = np.full((210, 160, 3), 200, np.uint8)
    attention = np.zeros((6, 6))
    attention[0, 0] = 1
    seen = with_attention(screen, attention)
    assert seen[5, 5, 0] == 200
    assert seen[200, 150, 0] == 50
    # A frame that is one token has no places.
    assert (with_attention(screen, np.array([[0.3]])) == screen).all()


def test_the_imagined_frame_is_beside_the_real_one():
    screens = [np.full((210, 160, 3), value, np.uint8) for value in (100, 200)]
    imagined = np.stack([np.full((84, 84), value, np.uint8) for value in (10, 20)])
    picture = draw_wall(step_of(screens, imagined=imagined), ["Pong", "Pong"])
    top, width = MARGIN + CAPTION, 320 + 2 * MARGIN
    for number, (real, dreamt) in enumerate([(100, 10), (200, 20)]):
        left = number * width + MARGIN
        assert (picture[top : top + 210, left : left + 160] == real).all()
        assert (picture[top : top + 210, left + 160 : left + 320] == dreamt).all()


def test_screens_of_different_heights():
    tiles = [np.full((210, 160, 3), 1, np.uint8), np.full((250, 160, 3), 2, np.uint8)]
    wall = arrange(tiles)
    assert (wall == 1).sum() == tiles[0].size
    assert (wall == 2).sum() == tiles[1].size


@pytest.mark.parametrize(
    ("keys", "action"),
    [((), 0), (("fire",), 1), (("up",), 2), (("left", "right"), 0), (("down", "left", "fire"), 17)],
)
def test_keys(keys, action):
    assert action_of_keys(keys) == action

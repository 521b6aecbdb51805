"""The color pictures of the vector environment."""

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from mgdt_envs import AtariProtocol, MultiGameAtariEnv, MultiGameAtariVectorEnv
from mgdt_envs.screens import of_one_height

# Pong and Breakout are 210 lines high, Skiing's minimal set has other actions.
GAMES = ["Pong", "Breakout", "Skiing"]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_screens_are_those_of_the_single_environment(mode):
    protocol = AtariProtocol(max_frames=100)
    vector = MultiGameAtariVectorEnv(
        games=GAMES, protocol=protocol, render_mode="rgb_array", autoreset_mode=mode
    )
    singles = [MultiGameAtariEnv(name, protocol, render_mode="rgb_array") for name in GAMES]
    vector.reset(seed=5)
    for number, single in enumerate(singles):
        single.reset(seed=5 + number)
    random = np.random.default_rng(0)
    restarts = np.zeros(len(GAMES), bool)
    for _ in range(60):
        screens = vector.render()
        for screen, single, ended in zip(screens, singles, restarts, strict=True):
            # The C++ preprocessing does not look at the frame that ends an episode.
            assert ended or (screen == single.render()).all()
        actions = random.integers(18, size=len(GAMES))
        _, _, terminated, truncated, _ = vector.step(actions)
        for number, (single, action) in enumerate(zip(singles, actions, strict=True)):
            if restarts[number]:
                single.reset()
                continue
            _, _, over, cut, _ = single.step(action)
            if mode == "SameStep" and (over or cut):
                single.reset()
        if mode == "NextStep":
            restarts = terminated | truncated
    assert screens[0].shape == (210, 160, 3)


def test_masked_resets_and_interleaved_environments():
    shares = ["Pong", "Breakout", "Pong"]
    vector = MultiGameAtariVectorEnv(
        games=["Pong", "Breakout"], shares=shares, render_mode="rgb_array"
    )
    vector.reset(seed=0)
    for _ in range(30):
        vector.step([2, 1, 5])
    before = vector.render()
    vector.reset(seed=[None, None, 9], options={"reset_mask": np.array([False, False, True])})
    after = vector.render()
    single = MultiGameAtariEnv("Pong", render_mode="rgb_array")
    single.reset(seed=9)
    np.testing.assert_array_equal(after[2], single.render())
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], before[1])


def test_rendering_changes_nothing_and_needs_a_reset():
    plain = MultiGameAtariVectorEnv(2, "Pong")
    rendering = MultiGameAtariVectorEnv(2, "Pong", render_mode="rgb_array")
    assert plain.render() is None
    with pytest.raises(ResetNeeded, match="before the first reset"):
        rendering.render()
    np.testing.assert_array_equal(plain.reset(seed=3)[0], rendering.reset(seed=3)[0])
    for _ in range(20):
        first, second = plain.step([2, 3]), rendering.step([2, 3])
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def test_screens_of_one_height():
    screens = [np.full((2, 3, 3), 1, np.uint8), np.full((4, 1, 3), 2, np.uint8)]
    row = np.concatenate(of_one_height(screens), 1)
    assert row.shape == (4, 4, 3)
    assert (row[:2, :3] == 1).all()
    assert (row[2:, :3] == 0).all()
    assert (row[:, 3] == 2).all()

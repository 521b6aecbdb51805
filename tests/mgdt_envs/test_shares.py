"""Games of environments: equal shares, weights, a list."""

from collections import Counter

import pytest

from mgdt_envs.shares import share_out

GAMES = ("Pong", "Breakout", "Hero")


def test_equal_shares_and_the_rest_to_the_first():
    assert share_out(GAMES) == GAMES
    assert share_out(GAMES, 5) == ("Pong", "Pong", "Breakout", "Breakout", "Hero")


@pytest.mark.parametrize(
    ("num_envs", "shares", "counts"),
    [
        (60, {"Pong": 1, "Breakout": 2, "Hero": 3}, (10, 20, 30)),
        (8, {"hero": 2.0}, (2, 2, 4)),
        (10, {"Pong": 0.01, "Hero": 1000}, (1, 1, 8)),  # none is left out
        (3, {"Hero": 5}, (1, 1, 1)),
        (7, {}, (3, 2, 2)),
    ],
    ids=str,
)
def test_weights(num_envs, shares, counts):
    found = share_out(GAMES, num_envs, shares)
    assert Counter(found) == dict(zip(GAMES, counts, strict=True))
    assert list(found) == sorted(found, key=GAMES.index)


def test_list():
    names = ("Hero", "Pong", "Hero", "Breakout")
    assert share_out(GAMES, shares=["hero", "Pong", "Hero", "breakout"]) == names
    assert share_out(GAMES, 4, names) == names
    assert share_out(GAMES, shares=["Hero"]) == ("Hero",)


@pytest.mark.parametrize(
    ("num_envs", "shares", "message"),
    [
        (2, None, "at least 3, one environment a game, got 2; give more environments"),
        (2, {"Pong": 2}, "at least 3, one environment a game, got 2"),
        (4, {"Freeway": 2}, "Pong, Breakout, Hero; got 'Freeway'"),
        (4, {"Hera": 2}, "Unknown game 'Hera'. Did you mean 'Hero'"),
        (4, {"Pong": 0}, "share of Pong must be a positive number, got 0"),
        (4, {"Pong": float("nan")}, "share of Pong must be a positive number, got nan"),
        (4, {"Pong": -1}, "share of Pong must be a positive number, got -1"),
        (4, ["Pong"], "must have 4 entries, one an environment, got 1"),
        (None, [], "must have 1 entries, one an environment, got 0"),
        (None, ["Pong", "Freeway"], "Pong, Breakout, Hero; got 'Freeway'"),
    ],
    ids=str,
)
def test_refused_shares(num_envs, shares, message):
    with pytest.raises(ValueError, match=message):
        share_out(GAMES, num_envs, shares)

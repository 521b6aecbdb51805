"""The table of games and the suites."""

import json
import math
import pickle

import gymnasium
import pytest

from mgdt_envs import GAMES, SUITES, game, resolve_games, suite

WITHOUT_HUMAN = {"AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan"}


def test_table_has_every_game_of_the_suite_once():
    assert len(GAMES) == 62
    assert len({entry.name for entry in GAMES}) == 62
    assert [entry.name for entry in GAMES] == sorted(entry.name for entry in GAMES)
    # ale-py's own table has more games, none of them in the replay or the papers.
    assert {f"ALE/{entry.name}-v5" for entry in GAMES} <= set(gymnasium.registry)


def test_scores():
    assert all(math.isfinite(entry.random) and math.isfinite(entry.human) for entry in GAMES)
    assert all(entry.human > entry.random for entry in GAMES)
    assert {entry.name for entry in GAMES if not entry.has_human_reference} == WITHOUT_HUMAN
    assert {entry.name for entry in GAMES if entry.dqn is None} == {"Defender", "Surround"}
    # Spot checks against dqn_zoo's atari_data.py.
    assert (game("Pong").random, game("Pong").human) == (-20.7, 14.6)
    assert (game("Breakout").random, game("Breakout").human) == (1.7, 30.5)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("all", 62),
        ("atari57", 57),
        ("dqn_replay60", 60),
        ("mgdt41", 41),
        ("mgdt5", 5),
        ("mgdt46", 46),
        ("atari5", 5),
        ("atari10", 10),
        ("atari3_val", 3),
        ("bundled", 12),
    ],
)
def test_suite_sizes(name, size):
    assert len(suite(name)) == len(set(suite(name))) == size
    assert set(suite(name)) <= {entry.name for entry in GAMES}


def test_suites_fit_together():
    assert len(SUITES) == 10
    assert set(suite("mgdt41")) | set(suite("mgdt5")) == set(suite("mgdt46"))
    assert set(suite("mgdt5")) == {"Alien", "MsPacman", "Pong", "SpaceInvaders", "StarGunner"}
    assert not set(suite("atari57")) & WITHOUT_HUMAN


def test_rom_match():
    # Lists of the comparison of atari-py 0.2.5 with ale-py 0.12.1; docs/roms.md shows it whole.
    matches = {entry.name: entry.rom_match for entry in GAMES}
    assert {name for name in matches if matches[name] == "not_recorded"} == {"Defender", "Surround"}
    assert {name for name in matches if matches[name] == "small_shift"} == {
        *("BattleZone", "Berzerk", "IceHockey", "Krull", "NameThisGame", "Pitfall", "Riverraid")
    }
    assert {name for name in matches if matches[name] == "identical_in_test"} == {
        *("Atlantis", "DemonAttack", "Gravitar", "KungFuMaster", "MsPacman", "SpaceInvaders"),
        *("Venture", "YarsRevenge"),
    }
    assert sum(match == "large_shift" for match in matches.values()) == 14
    assert sum(match == "same_hash" for match in matches.values()) == 31


def test_rom_faithful():
    faithful = suite("mgdt41").rom_faithful()
    assert len(faithful) == 25
    assert {"Breakout", "Atlantis"} < set(faithful) < set(suite("mgdt41"))
    assert not set(faithful) & {"Amidar", "Krull"}
    assert suite("mgdt5").rom_faithful() == suite("mgdt5")
    assert len(suite("dqn_replay60").rom_faithful()) == 39
    # There is no recording to be faithful to.
    assert "Defender" not in suite("atari57").rom_faithful()
    assert faithful.rom_faithful() == faithful


def test_suites_are_tuples():
    games = suite("mgdt5")
    assert games == ("Alien", "MsPacman", "Pong", "SpaceInvaders", "StarGunner")
    assert json.loads(json.dumps(games)) == list(games)
    assert pickle.loads(pickle.dumps(games)).rom_faithful() == games


def test_loose_names():
    assert game("ms_pacman") is game("mspacman") is game("MsPacman")


def test_resolve_games():
    assert resolve_games("Pong") == ("Pong",)
    assert resolve_games("mgdt5") == suite("mgdt5")
    assert resolve_games("mgdt41:rom_faithful") == suite("mgdt41").rom_faithful()
    assert suite("mgdt41:rom_faithful") == suite("mgdt41").rom_faithful()
    assert resolve_games(suite("mgdt41").rom_faithful()) == suite("mgdt41").rom_faithful()
    assert resolve_games(["yars_revenge", "atari3_val"]) == ("YarsRevenge", "Assault", "MsPacman")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: game("Pang"), "Unknown game 'Pang'.*'Pong'"),
        (lambda: game("xyzzy"), "Unknown game 'xyzzy'. Known names: AirRaid, .*Zaxxon"),
        (lambda: suite("mgdt40"), "Unknown suite 'mgdt40'.*'mgdt4[16]'"),
        (lambda: suite("mgdt41:rom_faithfull"), "Unknown suite.*'mgdt41:rom_faithful'"),
        (lambda: suite("mgdt41:rom"), "Unknown suite 'mgdt41:rom'.*'mgdt41:rom_faithful'"),
        (lambda: resolve_games(["Pong", "atari58"]), "game or suite 'atari58'.*'atari57'"),
        (lambda: resolve_games([]), "at least one game, got none.*bundled"),
        (lambda: resolve_games(None), "game or suite, or several, got None"),  # type: ignore[arg-type]
        (lambda: resolve_games(["Pong", 3]), "suite, got 3"),  # type: ignore[list-item]
    ],
)
def test_errors_suggest_a_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

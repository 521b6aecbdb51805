"""Gymnasium ids: one for all games, and one for each; games from outside the package."""

import dataclasses
import re
from typing import Any

import gymnasium as gym
from ale_py import roms

from mgdt_envs import games
from mgdt_envs.emulator import minimal_actions
from mgdt_envs.errors import InvalidArgument


def register_envs() -> None:
    """Register `MultiGameAtari-v0` and `MultiGameAtari/<Game>-v0` for every game."""
    _register("MultiGameAtari-v0")
    for game in games.GAMES:
        _register(f"MultiGameAtari/{game.name}-v0", games=game.name)


def register_game(game: games.Game) -> None:
    """Make one more game of ale-py's known, to the environments, replay and commands.

    It has its `MultiGameAtari/<Game>-v0`, and is in none of the suites.

    Args:
        game: what is known of it; `human_source="self-played"` where no human score is published,
            and then no human-normalized score is computed.

    Raises:
        ValueError: if there is a game or suite of this name or ROM, ale-py has no such ROM, its
            minimal actions are others, its name cannot be part of an id, or its scores cannot be
            normalized as it says.
    """
    if not re.fullmatch(r"[\w:.-]+", game.name):  # before half of it is done
        raise InvalidArgument(
            "Expected a name of letters, digits, '_', '-', '.' or ':', as Gymnasium's ids are, got "
            f"{game.name!r}."
        )
    if game.rom not in (known := roms.get_all_rom_ids()):
        raise InvalidArgument(
            f"ale-py has no ROM {game.rom!r}. {games.did_you_mean(game.rom, known)}"
        )
    found = minimal_actions(game)  # which the games of the suite are known to have
    if tuple(game.minimal_actions) != found:
        raise InvalidArgument(
            f"{game.name} has the minimal actions {found}, got {game.minimal_actions}."
        )
    if game.minimal_actions != found:  # a list
        game = dataclasses.replace(game, minimal_actions=found)
    if game.has_human_reference and game.human == game.random:
        raise InvalidArgument(
            f"Expected other scores of a human and of the random policy in {game.name}, got "
            f"{game.human} for both; human_source='self-played' says that there is none."
        )
    games.add(game)
    _register(f"MultiGameAtari/{game.name}-v0", games=game.name)


def _register(env_id: str, **kwargs: Any) -> None:
    gym.register(
        env_id,
        entry_point="mgdt_envs.env:MultiGameAtariEnv",
        vector_entry_point="mgdt_envs.vector_env:MultiGameAtariVectorEnv",
        kwargs=kwargs,
    )

"""Gymnasium ids: one for all games, and one for each."""

import gymnasium as gym

from mgdt_envs.games import GAMES


def register_envs() -> None:
    """Register `MultiGameAtari-v0` and `MultiGameAtari/<Game>-v0` for every game."""
    kwargs_by_id: dict[str, dict[str, str]] = {"MultiGameAtari-v0": {}}
    for game in GAMES:
        kwargs_by_id[f"MultiGameAtari/{game.name}-v0"] = {"games": game.name}
    for env_id, kwargs in kwargs_by_id.items():
        gym.register(
            env_id,
            entry_point="mgdt_envs.env:MultiGameAtariEnv",
            vector_entry_point="mgdt_envs.vector_env:MultiGameAtariVectorEnv",
            kwargs=kwargs,
        )

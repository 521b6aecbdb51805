"""An environment suite of Atari games with one observation space and one action space.

Importing this registers `MultiGameAtari-v0` and `MultiGameAtari/<Game>-v0` with Gymnasium.
"""

from mgdt_envs.env import MultiGameAtariEnv
from mgdt_envs.games import GAMES, SUITES, Game, game, resolve_games, suite
from mgdt_envs.protocol import PROTOCOLS, AtariProtocol
from mgdt_envs.registration import register_envs, register_game
from mgdt_envs.vector_env import MultiGameAtariVectorEnv

__all__ = [
    "GAMES",
    "PROTOCOLS",
    "SUITES",
    "AtariProtocol",
    "Game",
    "MultiGameAtariEnv",
    "MultiGameAtariVectorEnv",
    "game",
    "register_game",
    "resolve_games",
    "suite",
]
__version__ = "0.1.0"

register_envs()

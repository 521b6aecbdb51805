"""How the environments of a vector environment are shared out to games."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import game


def share_out(
    games: Sequence[str],
    num_envs: int | None = None,
    shares: Mapping[str, float] | Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Return the game of each environment.

    Args:
        games: canonical names.
        num_envs: number of environments; by default one a game, or one an entry of a sequence.
        shares: `None` shares equally, the rest to the first games. A mapping has weights of
            games, 1 where it has none; every game gets at least one environment, and those of
            one game are neighbors. A sequence is the game of each environment.

    Raises:
        ValueError: for fewer environments than games, a game that is not one of `games`, a weight
            that is not a positive number, or a sequence of another length than `num_envs`.

    Example:
        >>> share_out(["Pong", "Breakout"], 5)
        ('Pong', 'Pong', 'Pong', 'Breakout', 'Breakout')
        >>> share_out(["Pong", "Breakout"], 4, {"Breakout": 3})
        ('Pong', 'Breakout', 'Breakout', 'Breakout')
        >>> share_out(["Pong", "Breakout"], shares=["Breakout", "Pong", "Breakout"])
        ('Breakout', 'Pong', 'Breakout')
    """
    names = [] if shares is None else [game(name).name for name in shares]
    if outside := [name for name in names if name not in games]:
        raise InvalidArgument(
            f"shares must be of the environment's games, {', '.join(games)}; got {outside[0]!r}"
        )
    if shares is not None and not isinstance(shares, Mapping):
        expected = max(1, len(names)) if num_envs is None else num_envs
        if len(names) != expected:
            raise InvalidArgument(
                f"shares must have {expected} entries, one an environment, got {len(names)}"
            )
        return tuple(names)
    num_envs = len(games) if num_envs is None else num_envs
    if num_envs < len(games):
        raise InvalidArgument(
            f"num_envs must be at least {len(games)}, one environment a game, got {num_envs}; "
            "give more environments or fewer games"
        )
    weights = dict.fromkeys(games, 1.0)
    weights.update(zip(names, (shares or {}).values(), strict=True))
    for name, weight in weights.items():
        if not (weight > 0 and math.isfinite(weight)):
            raise InvalidArgument(f"The share of {name} must be a positive number, got {weight}")
    # The next environment goes to the game that has the fewest for its weight (D'Hondt's method).
    counts = np.ones(len(games), int)
    for _ in range(num_envs - len(games)):
        counts[np.argmax(np.array(list(weights.values())) / (counts + 1))] += 1
    return tuple(np.repeat(games, counts).tolist())

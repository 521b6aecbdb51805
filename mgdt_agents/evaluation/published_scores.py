"""Published scores: what others report of their agents, a mean score a game, with its source."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean, game

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedAgent:
    """An agent that others have played. Nothing here has been checked by playing it."""

    name: str
    scores: Mapping[str, float]
    """Mean raw score by game."""
    source: str
    """Where the scores are from."""
    protocol: str
    """The rules of play, as far as the source says."""
    note: str
    """What else one must know to compare, such as what was tuned at test time."""


def published_tables() -> tuple[str, ...]:
    """Return the names of the tables that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load_published(name: str | Path) -> tuple[PublishedAgent, ...]:
    """Return the agents of a table.

    Args:
        name: one of `published_tables()`, or a JSON file of the same form: "source", "protocol" and
            "agents", each with "name", "scores" by game, and "note".

    Raises:
        ValueError: if there is no such table, or it has another form.
    """
    path = FOLDER / f"{name}.json" if name in published_tables() else Path(name)
    if not path.is_file():
        raise InvalidArgument(
            f"Unknown table of scores {str(name)!r}: neither a name nor a file. "
            f"{did_you_mean(str(name), published_tables())}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        common = {name: content[name] for name in ("source", "protocol")}
        return tuple(published_agent({**common, **agent}) for agent in content["agents"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{path} is no table of published scores: {error!r}.") from error


def published_agent(fields: Mapping[str, Any]) -> PublishedAgent:
    """Return the agent with the given fields.

    Raises:
        ValueError: if a game is unknown, a score is no finite number, or a text is none.
    """
    scores = {game(name).name: float(score) for name, score in fields["scores"].items()}
    if bad := [score for score in scores.values() if not math.isfinite(score)]:
        raise InvalidArgument(f"Expected finite scores of {fields['name']!r}, got {bad[0]}.")
    agent = PublishedAgent(**{"note": "", **fields, "scores": scores})
    for name in ("name", "source", "protocol", "note"):
        if not isinstance(text := getattr(agent, name), str):
            raise InvalidArgument(
                f"Expected {name} of a published agent to be a text, got {text!r}."
            )
    return agent

"""Check results without the agents: play every traced episode again and recompute every score."""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mgdt_agents.evaluation.benchmark import hash_of_rules
from mgdt_agents.evaluation.episode_log import EpisodeLog, EpisodeTrace
from mgdt_agents.evaluation.place import Emulators, Place
from mgdt_agents.evaluation.results import Episode, Results
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import InvalidArgument

BATCH_SIZE = 64


def verify(folder: Path, on_episode: Callable[[Episode], object] = lambda episode: None) -> Results:
    """Return the results in a folder if all that they say can be played again.

    Args:
        folder: what `mgdt-bench --trace` wrote: `results.json` and `episodes.jsonl`.
        on_episode: called with every episode that was played again.

    Raises:
        ValueError: naming what is not as the results say: an episode without a trace, with another
            score, length or end, with other frames; or a figure that does not follow from the
            episodes.
    """
    results = Results.load(folder / "results.json")
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(results.to_dict())).items():
        if name != "agents" and not _agree(content.get(name), value):
            raise InvalidArgument(
                f"{folder / 'results.json'}: {name!r} does not follow from the episodes"
                f"{_first_difference(content.get(name), value)}."
            )
    if (played_with := results.versions["ale-py"]) != version("ale-py"):
        raise InvalidArgument(
            f"The results were played with ale-py {played_with}, and {version('ale-py')} is "
            f"installed: pip install ale-py=={played_with}."
        )
    for agent, info in results.agents.items():
        if len(info.weights) != info.runs:
            raise InvalidArgument(
                f"Expected the checksums of the weights of {agent}'s {info.runs} runs, got "
                f"{len(info.weights)}."
            )
    log = EpisodeLog(folder)
    emulators = Emulators()
    for protocol, rules in results.protocols.items():
        checksum = hash_of_rules(results, protocol)
        traced = []
        for episode in results.episodes:
            if episode.protocol != protocol:
                continue
            weights = results.agents[episode.agent].weights[episode.run]
            trace = log.trace(weights, checksum, episode)
            if trace is None:
                raise InvalidArgument(
                    f"{_name(episode)}: there is no trace in {log.path}. "
                    "`mgdt-bench --trace` keeps them."
                )
            traced.append((episode, trace))
        for first in range(0, len(traced), BATCH_SIZE):
            batch = traced[first : first + BATCH_SIZE]
            _play_again(batch, rules, results, on_episode, emulators)
        for episode, _ in traced:
            weights = results.agents[episode.agent].weights[episode.run]
            logged = log.find(weights, checksum, episode)
            if logged != episode:
                raise InvalidArgument(
                    f"{_name(episode)}: played again it is as the results say, but {log.path} says "
                    f"{logged}."
                )
    return results


def _play_again(
    traced: Sequence[tuple[Episode, EpisodeTrace]],
    protocol: AtariProtocol,
    results: Results,
    on_episode: Callable[[Episode], object],
    emulators: Emulators,
) -> None:
    """Play episodes side by side and compare them with what is said of them."""
    playing = []
    for episode, trace in traced:
        if not trace.actions or max(trace.actions) > 17:
            raise InvalidArgument(f"{_name(episode)}: the trace has no actions, or unknown ones.")
        place = Place(protocol, emulators)
        place.begin(episode.game, episode.seed)
        playing.append(_Replay(episode, trace, place, results))
    while playing:
        for replay in playing:
            replay.send()
        for replay in playing:
            replay.receive()
        for replay in [replay for replay in playing if replay.has_ended]:
            replay.compare()
            replay.place.leave()
            on_episode(replay.episode)
        playing = [replay for replay in playing if not replay.has_ended]


class _Replay:
    """An episode that is being played again."""

    def __init__(
        self, episode: Episode, trace: EpisodeTrace, place: Place, results: Results
    ) -> None:
        self.episode, self.trace, self.place, self.results = episode, trace, place, results
        self.score, self.checksum = 0.0, 0

    @property
    def has_ended(self) -> bool:
        return bool(self.place.end()) or self.place.steps == len(self.trace.actions)

    def send(self) -> None:
        place, results = self.place, self.results
        if place.end(results.max_steps, results.idle_steps):
            raise InvalidArgument(
                f"{_name(self.episode)}: it goes on after step {place.steps}, where the rules of "
                "the results give it up."
            )
        self.checksum = zlib.crc32(self.place.observation[-1], self.checksum)
        self.place.send(self.trace.actions[self.place.steps])

    def receive(self) -> None:
        self.place.receive()
        self.score += self.place.reward

    def compare(self) -> None:
        """Raise an error if the episode is not what was said of it."""
        place, results, steps = self.place, self.results, len(self.trace.actions)
        end = place.end(results.max_steps, results.idle_steps) or "not at all"
        checksum = zlib.crc32(self.trace.actions, self.checksum)
        for what, found, expected in (
            ("steps", place.steps, steps),
            ("steps", place.steps, self.episode.steps),
            ("score", self.score, self.episode.score),
            ("end", end, self.episode.end),
            ("checksum of actions and frames", checksum, self.trace.checksum),
        ):
            if found != expected:
                raise InvalidArgument(
                    f"{_name(self.episode)}: played again, its {what} is {found}, not {expected} "
                    "as the results say."
                )


def _name(episode: Episode) -> str:
    return (
        f"{episode.agent}, run {episode.run}, {episode.protocol}, {episode.game}, "
        f"seed {episode.seed}"
    )


def _first_difference(found: object, expected: object) -> str:
    """Return where two lists of rows differ first."""
    if not (isinstance(found, list) and isinstance(expected, list)):
        return ""
    for row, other in zip(found, expected, strict=False):
        if not _agree(row, other) and isinstance(other, dict):
            names = [str(other[name]) for name in ("agent", "protocol", "game") if name in other]
            return f": see {', '.join(names)}"
    return ""


def _agree(found: Any, expected: Any) -> bool:
    """Return whether JSON values are equal, but for the last digits of fractions.

    Those may differ from machine to machine in what is computed.
    """
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(
            _agree(found[name], value) for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_agree, found, expected))
    return bool(found == expected)

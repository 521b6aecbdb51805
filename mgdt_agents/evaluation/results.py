"""The results of a benchmark: every episode's score, and what follows from them.

Whatever shows results reads this type: tables, lines, the cards of agents. It is kept in
`results.json`, in which only the episodes count: means, intervals and aggregates are written there
for other programs, and computed anew when the file is read.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgdt_agents.evaluation.published_scores import PublishedAgent, published_agent
from mgdt_agents.replay.files import replace
from mgdt_envs import AtariProtocol, resolve_games
from mgdt_envs.aggregates import (
    AGGREGATES,
    CONFIDENCE,
    RESAMPLES,
    Metric,
    interval_over_episodes,
    interval_over_runs,
    mean,
)
from mgdt_envs.atari_subsets import MedianEstimate, estimate_atari57_median
from mgdt_envs.errors import InvalidArgument, MGDTError
from mgdt_envs.scoring import human_normalized_scores

FORMAT, VERSION = "mgdt-results", 2

FEWEST_SCORES_OF_IQM = 4
"""With fewer scores a quarter of them is less than one, and the IQM is the plain mean."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One whole episode of an agent."""

    agent: str
    run: int = 0
    """Which of the agent's training runs played, counted from 0."""
    protocol: str = "default"
    """A key of `Results.protocols`."""
    game: str
    seed: int
    score: float
    """Sum of the game's own rewards."""
    steps: int
    """Agent steps."""
    end: str = "terminated"
    """"terminated", "truncated" by the protocol's `max_frames`, or given up: "idle" or at the
    "step limit"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentInfo:
    """What is known about an agent beside its scores."""

    kind: str
    """Such as "dt"."""
    runs: int = 1
    """Training runs, each a network of its own, that played."""
    weights: tuple[str, ...] = ()
    """Of each run, a checksum of what decides how it acts."""
    trained_on: tuple[str, ...] = ()
    """Names of games; empty if that is not known, or nothing was learned."""
    trained_under: AtariProtocol | None = None
    """The rules of the data; None if they are not known, or nothing was learned."""
    parameters: int | None = None
    """Of its network; None if it has none."""
    trained_windows: int | None = None
    """Training windows that each run has seen, as its card says; None if that is not known."""
    decisions_per_second: float | None = None
    """Of `predict` alone on the machine of the benchmark, in a batch as large as was played; None
    if it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """An agent's score in one game."""

    mean: float
    """Raw score, over all episodes of all runs."""
    interval: Interval | None
    """Of the mean; None where a single episode shows no noise."""
    human_normalized: float | None
    """The mean, human-normalized; None where there is no reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """A figure over games."""

    value: float
    interval: Interval | None
    games: int
    """How many had a human-normalized score."""
    scores: int
    """How many scores it is made of: one for each game and training run."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Episodes of agents in games under protocols.

    Every agent has as many episodes of every game under every protocol, with the same seeds.

    Example:
        >>> from mgdt_agents import load_agent
        >>> from mgdt_agents.evaluation import BenchmarkConfig, run_benchmark
        >>> config = BenchmarkConfig(games=("Freeway",), episodes=2)
        >>> results = run_benchmark({"random": load_agent("random")}, config)
        >>> results.scores("random", "Freeway").shape  # (runs, episodes)
        (1, 2)
        >>> results.summaries["random", "default", "Freeway"].mean
        0.0
    """

    agents: Mapping[str, AgentInfo]
    """By the name that they have in the table."""
    games: tuple[str, ...]
    protocols: Mapping[str, AtariProtocol]
    """The rules of play, by name."""
    seeds: range
    """Of the episodes of each game."""
    deterministic: bool
    """Whether the likeliest actions were taken instead of drawn ones."""
    max_steps: int | None = None
    """Agent steps after which episodes were given up; None if they were not."""
    idle_steps: int | None = None
    """Agent steps without a reward after which episodes were given up; None if they were not."""
    versions: Mapping[str, str]
    """Of the packages that play depends on."""
    episodes: tuple[Episode, ...]
    published: tuple[PublishedAgent, ...] = ()
    """Agents of others, to stand beside; nothing of theirs was played."""

    @cached_property
    def _rows(self) -> dict[tuple[str, str, str], list[list[Episode]]]:
        """The episodes by agent, protocol and game, of each run, in the order of their seeds."""
        rows: dict[tuple[str, str, str], list[list[Episode]]] = {
            (agent, protocol, game): [[] for _ in range(info.runs)]
            for agent, info in self.agents.items()
            for protocol in self.protocols
            for game in self.games
        }
        for episode in sorted(self.episodes, key=lambda episode: episode.seed):
            rows[episode.agent, episode.protocol, episode.game][episode.run].append(episode)
        for names, runs in rows.items():
            for run, episodes in enumerate(runs):
                if [episode.seed for episode in episodes] != list(self.seeds):
                    raise InvalidArgument(
                        f"Expected an episode of each seed {self.seeds.start} to "
                        f"{self.seeds.stop - 1} of {', '.join(names)}, run {run}; "
                        f"got {[episode.seed for episode in episodes]}."
                    )
        return rows

    def scores(self, agent: str, game: str, protocol: str = "default") -> NDArray[np.float64]:
        """Return the raw scores of an agent's episodes of a game, `(runs, episodes)`."""
        return np.array(
            [[episode.score for episode in run] for run in self._rows[agent, protocol, game]]
        )

    def human_normalized(
        self, agent: str, protocol: str = "default"
    ) -> dict[str, NDArray[np.float64]]:
        """Return the human-normalized scores by game, `(runs, episodes)`, where there are any."""
        scores = {game: self.scores(agent, game, protocol) for game in self.games}
        return human_normalized_scores(scores, self.protocols[protocol]).scores

    def left_out(self, protocol: str = "default") -> dict[str, str]:
        """Return why games have no human-normalized score, by game."""
        none = dict.fromkeys(self.games, 0.0)
        return human_normalized_scores(none, self.protocols[protocol]).left_out

    @cached_property
    def summaries(self) -> dict[tuple[str, str, str], Summary]:
        """The score of each agent, protocol and game."""
        summaries = {}
        for agent in self.agents:
            for protocol in self.protocols:
                normalized = self.human_normalized(agent, protocol)
                for game in self.games:
                    scores = self.scores(agent, game, protocol)
                    summaries[agent, protocol, game] = Summary(
                        mean=float(scores.mean()),
                        interval=_interval(mean, {game: scores}),
                        human_normalized=(
                            float(normalized[game].mean()) if game in normalized else None
                        ),
                    )
        return summaries

    @cached_property
    def aggregates(self) -> dict[tuple[str, str], dict[str, Aggregate]]:
        """The figures over games of each agent and protocol; none if no game has a reference.

        They are "mean", "median", "optimality_gap", and "iqm" if there are scores enough.
        """
        aggregates: dict[tuple[str, str], dict[str, Aggregate]] = {}
        for agent in self.agents:
            for protocol in self.protocols:
                normalized = self.human_normalized(agent, protocol)
                aggregates[agent, protocol] = {
                    name: _aggregate(metric, normalized)
                    for name, metric in AGGREGATES.items()
                    if normalized
                    and (
                        name != "iqm" or sum(map(len, normalized.values())) >= FEWEST_SCORES_OF_IQM
                    )
                }
        return aggregates

    @cached_property
    def atari57_medians(self) -> dict[tuple[str, str], MedianEstimate]:
        """Estimates of the Atari-57 median, where the games of a subset were played."""
        estimates = {
            (agent, protocol): estimate_atari57_median(self.human_normalized(agent, protocol))
            for agent in self.agents
            for protocol in self.protocols
        }
        return {key: estimate for key, estimate in estimates.items() if estimate is not None}

    def headline(self) -> str:
        """Return the name of the main figure: "iqm", or "mean" where some agent has too few."""
        few = any(figures and "iqm" not in figures for figures in self.aggregates.values())
        return "mean" if few else "iqm"

    def of(self, *agents: str) -> "Results":
        """Return the results of some of the agents alone."""
        return dataclasses.replace(
            self,
            agents={agent: self.agents[agent] for agent in agents},
            episodes=tuple(episode for episode in self.episodes if episode.agent in agents),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON types; "rows" has the episodes of each agent and game."""
        rows = []
        for (agent, protocol, game), runs in self._rows.items():
            rows.append(
                {
                    "agent": agent,
                    "protocol": protocol,
                    "game": game,
                    **dataclasses.asdict(self.summaries[agent, protocol, game]),
                    "scores": [[episode.score for episode in run] for run in runs],
                    "steps": [[episode.steps for episode in run] for run in runs],
                    "ends": [[episode.end for episode in run] for run in runs],
                }
            )
        return {
            "format": FORMAT,
            "version": VERSION,
            "versions": dict(self.versions),
            "protocols": {name: rules.to_dict() for name, rules in self.protocols.items()},
            "games": list(self.games),
            "seeds": [self.seeds.start, self.seeds.stop],
            "deterministic": self.deterministic,
            "max_steps": self.max_steps,
            "idle_steps": self.idle_steps,
            "intervals": {"confidence": CONFIDENCE, "resamples": RESAMPLES},
            "agents": {agent: dataclasses.asdict(info) for agent, info in self.agents.items()},
            "rows": rows,
            "aggregates": [
                {
                    "agent": agent,
                    "protocol": protocol,
                    "metric": name,
                    "over": "runs" if self.agents[agent].runs > 1 else "episodes",
                    **dataclasses.asdict(figure),
                }
                for (agent, protocol), figures in self.aggregates.items()
                for name, figure in figures.items()
            ],
            "atari57_medians": [
                {"agent": agent, "protocol": protocol, **dataclasses.asdict(estimate)}
                for (agent, protocol), estimate in self.atari57_medians.items()
            ],
            "left_out": {name: self.left_out(name) for name in self.protocols},
            "published": [dataclasses.asdict(agent) for agent in self.published],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Results":
        """Return the results that `to_dict` returned.

        Raises:
            ValueError: if they are not the benchmark's.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InvalidArgument("Expected the results of `mgdt-bench`, which say so in 'format'.")
        if content.get("version") != VERSION:
            raise InvalidArgument(
                f"Expected version {VERSION} of the format of results, got "
                f"{content.get('version')!r}: another version of mgdt wrote them. Read them with "
                "that one, or play again."
            )
        try:
            if not content["agents"]:
                raise InvalidArgument("Expected the results of an agent, and there is none.")
            seeds = range(*content["seeds"])
            results = cls(
                agents={agent: _agent_info(info) for agent, info in content["agents"].items()},
                games=resolve_games(content["games"]),
                protocols={
                    name: AtariProtocol.from_dict(rules)
                    for name, rules in content["protocols"].items()
                },
                seeds=seeds,
                deterministic=content["deterministic"],
                max_steps=content["max_steps"],
                idle_steps=content["idle_steps"],
                versions=content["versions"],
                episodes=tuple(_episodes(content["rows"], seeds)),
                published=tuple(map(published_agent, content["published"])),
            )
            _ = results._rows
            _ = results.versions["mgdt"], results.versions["ale-py"]  # which every table names
        except MGDTError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InvalidArgument(f"The results are damaged: {error!r}.") from error
        return results

    def save(self, path: str | Path) -> None:
        """Write the file `path`, one row a line; a kill leaves the old one or the new one."""
        content = self.to_dict()
        parts = []
        for name, value in content.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in value)
                text = f"[\n  {rows}\n ]"
            else:
                text = json.dumps(value, allow_nan=False)
            parts.append(f" {json.dumps(name)}: {text}")
        replace(Path(path), ("{\n" + ",\n".join(parts) + "\n}\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Return the results in the file `path`.

        Raises:
            ValueError: if it is not the `results.json` of `mgdt-bench`.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"Cannot read results from {path}: {error}") from error
        try:
            return cls.from_dict(content)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error}") from error


def run_means(scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return means over episodes, `(runs, games)`, of scores `(runs, episodes)` by game."""
    return np.stack([runs.mean(axis=1) for runs in scores.values()], axis=1)


def _aggregate(metric: Metric, normalized: Mapping[str, NDArray[np.float64]]) -> Aggregate:
    means = run_means(normalized)
    return Aggregate(
        value=float(metric(means)),
        interval=_interval(metric, normalized),
        games=means.shape[1],
        scores=means.size,
    )


def _interval(metric: Metric, scores: Mapping[str, NDArray[np.float64]]) -> Interval | None:
    """Return the interval over runs, or over the episodes of a single one; None without noise."""
    if len(next(iter(scores.values()))) > 1:
        low, high = interval_over_runs(metric, run_means(scores))
    else:
        low, high = interval_over_episodes(metric, {game: runs[0] for game, runs in scores.items()})
    return None if math.isnan(low) else (float(low), float(high))


def _agent_info(fields: Mapping[str, Any]) -> AgentInfo:
    under = fields["trained_under"]
    return AgentInfo(
        **{
            **fields,
            "trained_on": tuple(fields["trained_on"]),
            "weights": tuple(fields["weights"]),
            "trained_under": None if under is None else AtariProtocol.from_dict(under),
        }
    )


def _episodes(rows: Iterable[Mapping[str, Any]], seeds: range) -> Iterable[Episode]:
    for row in rows:
        for run, columns in enumerate(zip(row["scores"], row["steps"], row["ends"], strict=True)):
            for seed, score, steps, end in zip(seeds, *columns, strict=True):
                yield Episode(
                    agent=row["agent"],
                    run=run,
                    protocol=row["protocol"],
                    game=row["game"],
                    seed=seed,
                    score=float(score),
                    steps=steps,
                    end=end,
                )

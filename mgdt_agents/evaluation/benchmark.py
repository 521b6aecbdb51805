"""The benchmark: which episodes are played, and by whom."""

import dataclasses
import platform
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.episode_log import (
    EpisodeLog,
    EpisodeTrace,
    checksum_of,
    fingerprint,
    network_of,
)
from mgdt_agents.evaluation.place import Emulators
from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_agents.evaluation.rollout import RolloutStep, play
from mgdt_envs import AtariProtocol, __version__, resolve_games
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.seeds import BENCHMARK_SEED

MEASURED_SECONDS = 1.0
"""In which an agent's decisions are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """What is played, and under which rules."""

    games: tuple[str, ...]
    """Names of games; names of suites are resolved."""
    episodes: int = 16
    """Whole episodes of each game, for each agent."""
    seed: int = BENCHMARK_SEED
    """Of the first episode of each game; the others count up from it."""
    protocols: Mapping[str, AtariProtocol] = field(
        default_factory=lambda: {"default": AtariProtocol()}
    )
    """Preprocessing and episode rules by name, the same for all agents."""
    deterministic: bool = False
    """Take the likeliest action; published scores of the Decision Transformer are sampled."""
    max_steps: int | None = None
    """Give an episode up after so many agent steps; None plays on."""
    idle_steps: int | None = None
    """Give an episode up after so many agent steps without a reward; None plays on."""
    batch_size: int = 64
    """Episodes for which an agent decides at once, at most; changes no score."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "games", resolve_games(self.games))

    @property
    def seeds(self) -> range:
        """Seeds of the episodes of each game."""
        return range(self.seed, self.seed + self.episodes)

    def play_options(self, protocol: str) -> dict[str, Any]:
        """Return the keyword arguments of `rollout.play` under one of the protocols."""
        return {
            "protocol": self.protocols[protocol],
            "deterministic": self.deterministic,
            "batch_size": self.batch_size,
            "max_steps": self.max_steps,
            "idle_steps": self.idle_steps,
        }


Agents = Mapping[str, Agent | Sequence[Agent]]
"""Agents by the name they get in the results; several training runs of one are a sequence."""


class Played(NamedTuple):
    """An episode that has just ended, and what it can be played again from."""

    episode: Episode
    trace: EpisodeTrace


def run_benchmark(
    agents: Agents,
    config: BenchmarkConfig,
    log: EpisodeLog | None = None,
    on_step: Callable[[str, RolloutStep], object] = lambda name, step: None,
    *,
    traced: bool = False,
) -> Results:
    """Play every agent on every game and return the results.

    Args:
        agents: the agents by the name they get in the results.
        config: what is played.
        log: where episodes are kept as they end; those that are there are not played again.
        on_step: called with the agent's name and every step, for a progress bar.
        traced: keep in the log what every episode can be played again from.
    """
    # Played now, so that agents are checked before anything is said of them.
    episodes = list(play_episodes(agents, config, log, on_step, traced=traced))
    return results_of(agents, config, episodes)


def play_episodes(
    agents: Agents,
    config: BenchmarkConfig,
    log: EpisodeLog | None = None,
    on_step: Callable[[str, RolloutStep], object] = lambda name, step: None,
    *,
    traced: bool = False,
) -> Iterator[Episode]:
    """Play every agent on every game, and yield each episode as it ends.

    Args:
        agents: the agents by the name they get in the episodes.
        config: what is played.
        log: where episodes are kept as they end; those that are there come first, unplayed.
        on_step: called with the agent's name and every step, for a progress bar.
        traced: keep in the log what every episode can be played again from.
    """
    check_agents(agents, config)
    emulators = Emulators()
    for name, run, agent in runs_of(agents):
        agent_hash = fingerprint(agent)
        for protocol in config.protocols:
            played_by = agent_hash, name, run
            found, waiting = find_episodes(config, log, *played_by, protocol, traced=traced)
            yield from found
            hashes = agent_hash, hash_of_rules(config, protocol)
            steps = play(agent, waiting, emulators=emulators, **config.play_options(protocol))
            for episode, trace in finished(steps, name, run, protocol, partial(on_step, name)):
                if log is not None:
                    log.append(*hashes, episode, trace if traced else None)
                yield episode


def check_agents(agents: Agents, config: BenchmarkConfig) -> None:
    """Check that every agent is one, and can play by every protocol.

    Raises:
        ValueError: for what is no agent, or naming the agent and the protocol.
    """
    if not isinstance(agents, Mapping):
        raise InvalidArgument(
            f"Expected agents by name, such as {{'dt': load_agent('dt')}}, got {agents!r}."
        )
    for name, _, agent in runs_of(agents):
        for protocol, rules in config.protocols.items():
            expected = (rules.stack, rules.screen_size, rules.screen_size)
            if agent.observation_space.shape != expected:
                raise InvalidArgument(
                    f"{name} sees {agent.observation_space.shape}, and under the protocol "
                    f"{protocol} observations are {expected}; it cannot play."
                )


def find_episodes(
    config: BenchmarkConfig,
    log: EpisodeLog | None,
    agent_hash: str,
    name: str,
    run: int,
    protocol: str,
    *,
    traced: bool = False,
) -> tuple[list[Episode], list[tuple[str, int]]]:
    """Return an agent's episodes that are in the log, and game and seed of those that are not."""
    hashes = agent_hash, hash_of_rules(config, protocol)
    found: list[Episode] = []
    waiting: list[tuple[str, int]] = []
    for game in config.games:
        for seed in config.seeds:
            wanted = Episode(
                agent=name, run=run, protocol=protocol, game=game, seed=seed, score=0, steps=0
            )
            episode = None if log is None else log.find(*hashes, wanted, traced=traced)
            if episode is None:
                waiting.append((game, seed))
            else:
                found.append(episode)
    return found, waiting


def finished(
    steps: Iterable[RolloutStep],
    agent: str,
    run: int,
    protocol: str,
    on_step: Callable[[RolloutStep], object] = lambda step: None,
) -> Iterator[Played]:
    """Sum up the steps of a rollout, and yield the episodes as they end."""
    playing: dict[tuple[str, int], _Sum] = {}
    for step in steps:
        keys = list(zip(step.games.tolist(), step.seeds.tolist(), strict=True))
        for row, key in enumerate(keys):
            if key not in playing:
                playing[key] = _Sum()
            playing[key].add(step, row)
        on_step(step)
        for row in np.flatnonzero(step.ends).tolist():
            game, seed = keys[row]
            total = playing.pop(keys[row])
            episode = Episode(
                agent=agent,
                run=run,
                protocol=protocol,
                game=game,
                seed=seed,
                score=total.score,
                steps=len(total.actions),
                end=step.ends[row],
            )
            actions = bytes(total.actions)
            yield Played(episode, EpisodeTrace(actions, zlib.crc32(actions, total.checksum)))


class _Sum:
    """What is known of an episode so far."""

    def __init__(self) -> None:
        self.score, self.actions, self.checksum = 0.0, bytearray(), 0

    def add(self, step: RolloutStep, row: int) -> None:
        self.score += float(step.rewards[row])
        self.actions.append(step.actions[row])
        self.checksum = zlib.crc32(step.observations[row, -1], self.checksum)


def runs_of(agents: Agents) -> Iterator[tuple[str, int, Agent]]:
    """Yield each training run of each agent: its name, the number of the run, the agent."""
    for name, runs in agents.items():
        given: Any = [runs] if isinstance(runs, str) or not isinstance(runs, Sequence) else runs
        for number, agent in enumerate(given):
            if not isinstance(agent, Agent):
                raise InvalidArgument(
                    f"Expected an agent for {name!r}, got {agent!r}; load_agent gives one."
                )
            yield name, number, agent


def hash_of_rules(play: BenchmarkConfig | Results, protocol: str) -> str:
    """Return the hash of the rules of one of the protocols that are or were played by."""
    ale_py = play.versions["ale-py"] if isinstance(play, Results) else version("ale-py")
    return checksum_of(
        {
            "protocol": play.protocols[protocol].to_dict(),
            "deterministic": play.deterministic,
            "max_steps": play.max_steps,
            "idle_steps": play.idle_steps,
            "ale-py": ale_py,
        }
    )


def results_of(agents: Agents, config: BenchmarkConfig, episodes: Iterable[Episode]) -> Results:
    """Return the results that all episodes of a benchmark make.

    Args:
        agents: who played, by name.
        config: what was played.
        episodes: what `play_episodes` yielded, in any order.
    """
    return Results(
        agents={
            name: agent_info([runs] if isinstance(runs, Agent) else runs)
            for name, runs in agents.items()
        },
        games=config.games,
        protocols=config.protocols,
        seeds=config.seeds,
        deterministic=config.deterministic,
        max_steps=config.max_steps,
        idle_steps=config.idle_steps,
        versions=versions(),
        episodes=tuple(episodes),
    )


def agent_info(runs: Sequence[Agent]) -> AgentInfo:
    """Return what an agent, of which there may be several training runs, tells of itself."""
    agent = runs[0]
    network = network_of(agent)
    return AgentInfo(
        kind=agent.kind,
        runs=len(runs),
        weights=tuple(map(fingerprint, runs)),
        trained_on=tuple(agent.games),
        # An agent that names no games has learned nothing, or does not know from what.
        trained_under=agent.protocol if agent.games and not agent.protocol_is_assumed else None,
        parameters=(
            None
            if network is None
            else sum(parameter.numel() for parameter in network.parameters())
        ),
        trained_windows=getattr(agent, "trained_windows", None) or None,
    )


def with_speeds(results: Results, agents: Agents, config: BenchmarkConfig) -> Results:
    """Return the results with each agent's decisions per second, measured now for a second."""
    infos = dict(results.agents)
    rows = min(config.batch_size, len(config.games) * config.episodes)
    for name, _, agent in runs_of(agents):
        if infos[name].decisions_per_second is None:
            speed = decisions_per_second(agent, rows)
            infos[name] = dataclasses.replace(infos[name], decisions_per_second=speed)
    return dataclasses.replace(results, agents=infos)


def decisions_per_second(agent: Agent, rows: int) -> float:
    """Measure how many rows an agent decides in a second, of a batch of so many noise pictures."""
    shape = (rows, *agent.observation_space.shape)
    observations = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    games = [(agent.games or ("Pong",))[0]] * rows
    _, state = agent.predict(observations, game=games)  # the first call is slower
    calls, begin = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begin < MEASURED_SECONDS:
        _, state = agent.predict(observations, state, reward=np.zeros(rows), game=games)
        calls += 1
    return calls * rows / (time.perf_counter() - begin)


def versions() -> dict[str, str]:
    """Return the versions of what play depends on."""
    packages = ("ale-py", "gymnasium", "numpy", "torch", "stable-baselines3")
    return {
        "mgdt": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }

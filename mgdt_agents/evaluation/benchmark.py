"""The benchmark: which episodes are played, and by whom."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import numpy as np
from torch import nn

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_agents.evaluation.rollout import RolloutStep, rollout
from mgdt_envs import AtariProtocol, __version__
from mgdt_envs.seeds import BENCHMARK_SEED


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """What is played, and under which rules."""

    games: tuple[str, ...]
    """Names of games."""
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


def run_benchmark(
    agents: Mapping[str, Agent],
    config: BenchmarkConfig,
    on_step: Callable[[str, RolloutStep], object] = lambda name, step: None,
) -> Results:
    """Play every agent on every game and return the results.

    Args:
        agents: the agents by the name they get in the results.
        config: what is played.
        on_step: called with the agent's name and every step, for a progress bar.
    """
    return results_of(agents, config, play_episodes(agents, config, on_step))


def play_episodes(
    agents: Mapping[str, Agent],
    config: BenchmarkConfig,
    on_step: Callable[[str, RolloutStep], object] = lambda name, step: None,
) -> Iterator[Episode]:
    """Play every agent on every game, and yield each episode as it ends.

    Args:
        agents: the agents by the name they get in the episodes.
        config: what is played.
        on_step: called with the agent's name and every step, for a progress bar.
    """
    for name, agent in agents.items():
        for protocol_name, protocol in config.protocols.items():
            steps = rollout(
                agent,
                config.games,
                episodes=config.episodes,
                seed=config.seed,
                protocol=protocol,
                deterministic=config.deterministic,
            )
            yield from _ended(steps, name, protocol_name, partial(on_step, name))


def _ended(
    steps: Iterable[RolloutStep],
    agent: str,
    protocol: str,
    on_step: Callable[[RolloutStep], object],
) -> Iterator[Episode]:
    """Sum up rewards and yield the episodes that end."""
    playing: dict[tuple[str, int], tuple[float, int]] = {}
    for step in steps:
        keys = list(zip(step.games.tolist(), step.seeds.tolist(), strict=True))
        for key, reward in zip(keys, step.rewards.tolist(), strict=True):
            score, length = playing.get(key, (0.0, 0))
            playing[key] = (score + reward, length + 1)
        for row in np.flatnonzero(step.terminated | step.truncated):
            game, seed = keys[row]
            score, length = playing.pop(keys[row])
            yield Episode(
                agent=agent,
                protocol=protocol,
                game=game,
                seed=seed,
                score=score,
                steps=length,
                end="terminated" if step.terminated[row] else "truncated",
            )
        on_step(step)


def results_of(
    agents: Mapping[str, Agent], config: BenchmarkConfig, episodes: Iterable[Episode]
) -> Results:
    """Return the results that all episodes of a benchmark make.

    Args:
        agents: who played, by name.
        config: what was played.
        episodes: what `play_episodes` yielded, in any order.
    """
    return Results(
        agents={name: agent_info(agent) for name, agent in agents.items()},
        games=config.games,
        protocols=config.protocols,
        seeds=range(config.seed, config.seed + config.episodes),
        deterministic=config.deterministic,
        versions=versions(),
        episodes=tuple(episodes),
    )


def agent_info(agent: Agent) -> AgentInfo:
    """Return what an agent tells of itself."""
    model = getattr(agent, "model", None)
    # A model of stable-baselines3 holds its network.
    network = getattr(model, "policy", model)
    return AgentInfo(
        kind=agent.kind,
        trained_on=agent.games,
        # An agent that names no games has learned nothing, or does not know from what.
        trained_under=agent.protocol if agent.games and not agent.protocol_is_assumed else None,
        parameters=(
            sum(parameter.numel() for parameter in network.parameters())
            if isinstance(network, nn.Module)
            else None
        ),
    )


def versions() -> dict[str, str]:
    """Return the versions of what play depends on."""
    packages = ("ale-py", "gymnasium", "numpy", "torch", "stable-baselines3")
    return {
        "mgdt": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }

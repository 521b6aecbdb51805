"""Scores of agents on games, as they are kept in `results.json`."""

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.rollout import RolloutStep, rollout
from mgdt_envs import AtariProtocol, __version__
from mgdt_envs.aggregates import (
    AGGREGATES,
    CONFIDENCE,
    RESAMPLES,
    Metric,
    interval_over_episodes,
    mean,
)
from mgdt_envs.scoring import human_normalised_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """What is played, and under which rules."""

    games: tuple[str, ...]
    """Names of games."""
    episodes: int = 16
    """Whole episodes of each game, for each agent."""
    seed: int = 0
    """Of the first episode of each game; the others count up from it."""
    protocol: AtariProtocol = field(default_factory=AtariProtocol)
    """Preprocessing and episode rules, the same for all agents."""
    deterministic: bool = False
    """Take the likeliest action; published scores of the Decision Transformer are sampled."""


def run_benchmark(
    agents: Mapping[str, Agent],
    config: BenchmarkConfig,
    on_step: Callable[[str, RolloutStep], object] = lambda name, step: None,
) -> dict[str, Any]:
    """Play every agent on every game and return the results as JSON types.

    Args:
        agents: the agents by the name they get in the results.
        config: what is played.
        on_step: called with the agent's name and every step, for a progress bar.

    Returns:
        "protocol", "versions", the configuration, what the "intervals" are, and "agents": for
        each its "games" with the score and length of every episode and their summary; the
        "iqm", "mean", "median" and "optimality_gap" of its human-normalised scores over games
        (None if no game has one); and the games that are "left_out" of them, with the reason.
    """
    return {
        "format": "mgdt-results",
        "version": 1,
        "protocol": config.protocol.to_dict(),
        "episodes": config.episodes,
        "seed": config.seed,
        "deterministic": config.deterministic,
        "versions": versions(),
        "intervals": {"over": "episodes", "confidence": CONFIDENCE, "resamples": RESAMPLES},
        "agents": {
            name: _scores(agent, config, partial(on_step, name)) for name, agent in agents.items()
        },
    }


def _scores(
    agent: Agent, config: BenchmarkConfig, on_step: Callable[[RolloutStep], object]
) -> dict[str, Any]:
    scores = {name: np.zeros(config.episodes) for name in config.games}
    lengths = {name: np.zeros(config.episodes, np.int64) for name in config.games}
    for step in rollout(
        agent,
        config.games,
        episodes=config.episodes,
        seed=config.seed,
        protocol=config.protocol,
        deterministic=config.deterministic,
    ):
        for name, seed, reward in zip(step.games, step.seeds, step.rewards, strict=True):
            scores[name][seed - config.seed] += reward
            lengths[name][seed - config.seed] += 1
        on_step(step)
    normalised, left_out = human_normalised_scores(scores, config.protocol)
    return {
        "trained_on": list(agent.games),
        "games": {
            name: _summary(scores[name], lengths[name], normalised.get(name))
            for name in config.games
        },
        "left_out": left_out,
        **{name: _aggregate(metric, normalised) for name, metric in AGGREGATES.items()},
    }


def _summary(
    scores: np.ndarray, lengths: np.ndarray, normalised: np.ndarray | None
) -> dict[str, Any]:
    """Return the scores and lengths (agent steps) of one game's episodes, and their means."""
    return {
        "mean": float(scores.mean()),
        "interval": _interval(mean, {"": scores}),
        "human_normalised": None if normalised is None else float(normalised.mean()),
        "scores": scores.tolist(),
        "lengths": lengths.tolist(),
    }


def _aggregate(metric: Metric, normalised: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the metric of the games' mean scores; `None` if there is no game."""
    if not normalised:
        return None
    means = [values.mean() for values in normalised.values()]
    return {
        "value": float(metric(means)),
        "interval": _interval(metric, normalised),
        "games": len(means),
    }


def _interval(metric: Metric, episodes_by_game: Mapping[str, np.ndarray]) -> list[float] | None:
    """Return the interval over episodes as JSON has it; a single episode has none."""
    low, high = interval_over_episodes(metric, episodes_by_game)
    return None if math.isnan(low) else [float(low), float(high)]


def versions() -> dict[str, str]:
    """Return the versions of what play depends on."""
    packages = ("ale-py", "gymnasium", "numpy", "torch", "stable-baselines3")
    return {
        "mgdt": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }

"""Play agents and say how well they play."""

from mgdt_agents.evaluation.benchmark import BenchmarkConfig, play_episodes, run_benchmark
from mgdt_agents.evaluation.results import Results
from mgdt_agents.evaluation.rollout import RolloutStep, rollout

__all__ = [
    "BenchmarkConfig",
    "Results",
    "RolloutStep",
    "play_episodes",
    "rollout",
    "run_benchmark",
]

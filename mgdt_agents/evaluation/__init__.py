"""Play agents and say how well they play."""

from mgdt_agents.evaluation.benchmark import BenchmarkConfig, run_benchmark
from mgdt_agents.evaluation.rollout import RolloutStep, rollout

__all__ = ["BenchmarkConfig", "RolloutStep", "rollout", "run_benchmark"]

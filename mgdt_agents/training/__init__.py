"""Offline training: the loop, its configuration, the optimizers."""

from mgdt_agents.training.optimizers import LAMB
from mgdt_agents.training.trainer import TrainingConfig, train

__all__ = ["LAMB", "TrainingConfig", "train"]

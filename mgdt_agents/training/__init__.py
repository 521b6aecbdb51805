"""Offline training: the loop, its configuration, augmentation, the optimizers."""

from mgdt_agents.training.augmentation import Augmentation
from mgdt_agents.training.optimizers import LAMB
from mgdt_agents.training.trainer import TrainingConfig, train

__all__ = ["LAMB", "Augmentation", "TrainingConfig", "train"]

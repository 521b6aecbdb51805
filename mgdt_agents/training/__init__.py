"""Offline training: the configuration, the loop, checkpoints, several processes, the optimizers."""

from mgdt_agents.training.augmentation import Augmentation
from mgdt_agents.training.config import FineTuningConfig, TrainingConfig
from mgdt_agents.training.loop import train
from mgdt_agents.training.optimizers import LAMB

__all__ = ["LAMB", "Augmentation", "FineTuningConfig", "TrainingConfig", "train"]

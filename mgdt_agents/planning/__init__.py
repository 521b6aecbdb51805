"""An agent that plans: a tokenizer of frames, a model of what follows, and a search in it."""

from mgdt_agents.planning.config import PRESETS, TrajectoryTransformerConfig
from mgdt_agents.planning.planning_agent import TrajectoryTransformerAgent
from mgdt_agents.planning.search import Search

__all__ = ["PRESETS", "Search", "TrajectoryTransformerAgent", "TrajectoryTransformerConfig"]

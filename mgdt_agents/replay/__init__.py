"""Recorded play: stores of frames, windows drawn from them, and traces that regenerate them."""

from mgdt_agents.replay.sampler import WindowBatch, WindowSampler
from mgdt_agents.replay.store import ReplayStore, ReplayWriter
from mgdt_agents.replay.trace import Trace, expand

__all__ = ["ReplayStore", "ReplayWriter", "Trace", "WindowBatch", "WindowSampler", "expand"]

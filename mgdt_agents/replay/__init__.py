"""Recorded play: stores of frames, windows drawn from them, and traces that regenerate them."""

from mgdt_agents.replay.expansion import expand
from mgdt_agents.replay.parts import Part
from mgdt_agents.replay.sampler import WindowBatch, WindowSampler
from mgdt_agents.replay.store import ReplayStore
from mgdt_agents.replay.trace import Trace
from mgdt_agents.replay.writer import ReplayWriter, trim

__all__ = [
    "Part",
    "ReplayStore",
    "ReplayWriter",
    "Trace",
    "WindowBatch",
    "WindowSampler",
    "expand",
    "trim",
]

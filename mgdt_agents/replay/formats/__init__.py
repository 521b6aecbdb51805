"""Formats of others: DQN Replay, RLU Atari, Minari, stable-baselines3's buffer."""

from mgdt_agents.replay.formats.importing import import_recording

__all__ = ["import_recording"]

"""Agents that play many Atari games with one network, trained on recorded play or by playing."""

from mgdt_agents.agent import Agent, NetworkAgent
from mgdt_agents.registry import load_agent, make_agent, register_agent

__all__ = ["Agent", "NetworkAgent", "load_agent", "make_agent", "register_agent"]

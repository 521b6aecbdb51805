"""Agents that learn the value of each action."""

from mgdt_agents.q_learning.cql import CQLAgent, CQLConfig

__all__ = ["CQLAgent", "CQLConfig"]

"""Agents that learn a policy and, to learn it by, a value."""

from mgdt_agents.actor_critic.impala_agent import ImpalaAgent, ImpalaAgentConfig

__all__ = ["ImpalaAgent", "ImpalaAgentConfig"]

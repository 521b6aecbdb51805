"""The Multi-Game Decision Transformer (Lee et al. 2022): model, acting rule, agent."""

from mgdt_agents.decision_transformer.agent import DecisionTransformerAgent
from mgdt_agents.decision_transformer.config import PRESETS, DecisionTransformerConfig
from mgdt_agents.decision_transformer.inference import ExpertReturn
from mgdt_agents.decision_transformer.model import DecisionTransformer

__all__ = [
    "PRESETS",
    "DecisionTransformer",
    "DecisionTransformerAgent",
    "DecisionTransformerConfig",
    "ExpertReturn",
]

"""The Multi-Game Decision Transformer (Lee et al. 2022): model, acting rules, agent."""

from mgdt_agents.decision_transformer.agent import DecisionTransformerAgent
from mgdt_agents.decision_transformer.config import PRESETS, DecisionTransformerConfig
from mgdt_agents.decision_transformer.model import DecisionTransformer
from mgdt_agents.decision_transformer.released import from_released_checkpoint
from mgdt_agents.decision_transformer.rules import (
    ActingRule,
    BestOfSamples,
    ExpertReturn,
    Greedy,
    PredictedReturn,
    TargetReturn,
)
from mgdt_agents.decision_transformer.value_agent import ValueTransformerAgent
from mgdt_agents.decision_transformer.value_model import ValueTransformerConfig

__all__ = [
    "PRESETS",
    "ActingRule",
    "BestOfSamples",
    "DecisionTransformer",
    "DecisionTransformerAgent",
    "DecisionTransformerConfig",
    "ExpertReturn",
    "Greedy",
    "PredictedReturn",
    "TargetReturn",
    "ValueTransformerAgent",
    "ValueTransformerConfig",
    "from_released_checkpoint",
]

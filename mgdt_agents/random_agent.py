"""The uniformly random policy: what a score of zero, human-normalized, is measured against."""

import numpy as np

from mgdt_agents.agent import Agent
from mgdt_agents.step_inputs import State, StepInputs


class RandomAgent(Agent):
    """Draws each of the 18 actions equally often; `deterministic` changes nothing.

    In a game with fewer actions the others are NOOP, so this is not the published random policy,
    which draws from the game's own actions alone.
    """

    kind = "random"
    memory = ()

    def identity(self) -> str | None:
        """Return nothing: all random agents act alike."""
        return ""

    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        return (inputs.draws.uniform() * 18).astype(np.int64), None

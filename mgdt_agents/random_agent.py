"""The uniformly random policy: what a score of zero, human-normalised, is measured against."""

import numpy as np
import torch

from mgdt_agents.agent import Agent, State


class RandomAgent(Agent):
    """Draws each of the 18 actions equally often; `deterministic` changes nothing.

    In a game with fewer actions the others are NOOP, so this is not the published random policy,
    which draws from the game's own actions alone.
    """

    kind = "random"

    def _act(
        self,
        observations: np.ndarray,
        state: State | None,
        starts: np.ndarray,
        rewards: np.ndarray,
        deterministic: bool,
    ) -> tuple[np.ndarray, State | None]:
        drawn = torch.randint(18, (len(observations),), generator=self.generator)
        return drawn.numpy(), state

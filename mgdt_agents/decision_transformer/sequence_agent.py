"""What agents share whose network reads a window of steps."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.decision_transformer.rules import moved_on
from mgdt_agents.decision_transformer.tokens import encode_rewards
from mgdt_agents.step_inputs import State, checked_inputs

PADDING = -1
"""Target of the steps that are not learned."""


class SequenceAgent(NetworkAgent):
    """An agent that reads past steps: its state begins with their actions and reward tokens."""

    def with_actions(self, state: State | None, actions: np.ndarray) -> State | None:
        """Return the state as if `predict` had chosen other actions."""
        if state is None:
            return None
        past_actions, *rest = state
        changed = past_actions.copy()
        changed[:, -1:] = actions[:, None]  # a window of one step keeps none
        return (changed, *rest)

    def _checked(
        self,
        observation: np.ndarray,
        state: State | None,
        episode_start: np.ndarray | None,
        reward: np.ndarray | float | None,
    ) -> tuple[np.ndarray, State]:
        """Return the batch and its past, of the arguments of `predict`."""
        inputs = checked_inputs(self, observation, state, episode_start, reward)
        return inputs[0], self._past(*inputs[1:])

    def _past(self, state: State | None, starts: np.ndarray, rewards: np.ndarray) -> State:
        """Return the state with the last rewards in it, and forgotten in rows that begin."""
        if state is None:
            state = tuple(np.zeros((len(starts), width), np.int64) for width in self.memory or ())
        past_actions, past_rewards, *rest = state
        past_rewards = moved_on(past_rewards, encode_rewards(rewards))
        goes_on = ~starts[:, None]
        return (past_actions * goes_on, past_rewards * goes_on, *rest)

    def _steps(self, past: State) -> list[Tensor]:
        """Return the actions and the reward tokens of the steps that the model sees."""
        # The current step's action and reward are not known yet; no token that is read sees them.
        return [self._to_device(np.pad(part, ((0, 0), (0, 1)))) for part in past[:2]]


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """Return the sum of the valid steps' cross-entropies."""
    # Not logits[valid]: a GPU's program would wait there, to learn how many they are.
    return F.cross_entropy(
        logits_BTV.float().flatten(0, 1),
        targets_BT.masked_fill(~valid_BT, PADDING).flatten(),
        ignore_index=PADDING,
        reduction="sum",
    )

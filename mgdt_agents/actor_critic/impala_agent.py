"""The policy that IMPALA learns, as an agent; the learner is in `online/impala.py`."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from mgdt_agents.action_sets import allowed_in_rows
from mgdt_agents.actor_critic.policy_network import (
    NO_ACTION,
    ImpalaAgentConfig,
    Memory,
    PolicyNetwork,
    masked_logits,
)
from mgdt_agents.agent import NetworkAgent
from mgdt_agents.random_streams import sample
from mgdt_agents.step_inputs import State, StepInputs
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol


class ImpalaAgent(NetworkAgent):
    """Draws actions from the policy, or takes the likeliest, of those that the game has.

    Args:
        config: the sizes, or the name of a preset.
        games, protocol, device: see `NetworkAgent`. With PopArt, the games of the values.

    Example:
        >>> agent = ImpalaAgent("small", games=["Freeway"], device="cpu")
        >>> action, state = agent.predict(np.zeros((4, 84, 84), np.uint8))
        >>> int(action) in (0, 2, 5)
        True
    """

    model: PolicyNetwork
    kind = "impala"
    config_class = ImpalaAgentConfig
    presets: ClassVar[dict[str, Any]] = {
        # For two cores. Norms and changes let it see small things that move after few steps.
        "small": ImpalaAgentConfig(
            blocks=1,
            stem_stride=2,
            stages=(16, 32),
            halve_frames=True,
            layer_norm=True,
            changes=True,
        ),
        # Espeholt et al. 2018, figure 3, with the 18 actions of Atari.
        "deep": ImpalaAgentConfig(),
    }

    def __init__(
        self,
        config: ImpalaAgentConfig | str = "deep",
        *,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(config, games=games, protocol=protocol, device=device)
        if self.config.value_games not in (0, len(self.games)):
            raise InvalidArgument(
                f"value_games must be 0 or the number of games, {len(self.games)}, "
                f"got {self.config.value_games}"
            )

    def _make_model(self) -> PolicyNetwork:
        return PolicyNetwork(self.config)

    @property
    def has_parts_of_games(self) -> bool:
        """Whether each game has a value of its own scale."""
        return self.config.value_games > 0

    @property
    def memory(self) -> tuple[int, ...]:
        """The LSTM's hidden state and cell, and the last action; nothing without one."""
        units = self.config.lstm
        return (units, units, 1) if units else ()

    def with_actions(self, state: State | None, actions: np.ndarray) -> State | None:
        """Return the state as if other `(n,)` actions had been chosen."""
        return None if state is None else (*state[:2], np.asarray(actions, np.int64)[:, None])

    @torch.no_grad()
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        rows = len(inputs.observations)
        memory, last_actions = None, np.full((rows, 1), NO_ACTION)
        if inputs.state is not None and self.config.lstm:
            hidden, cell, last_actions = inputs.state
            memory = Memory(self._to_device(hidden), self._to_device(cell))
        outputs = self.model(
            self._to_device(self.config.pixels(inputs.observations))[None],
            memory,
            self._to_device(inputs.starts)[None],
            self._to_device(last_actions[:, 0])[None],
            self._to_device(np.clip(inputs.rewards, -1, 1).astype(np.float32))[None],
        )
        allowed = allowed_in_rows(inputs.games, rows, self.games, self.protocol)
        logits = masked_logits(outputs.logits[0], self._to_device(allowed)).cpu()
        actions = sample(logits, None if inputs.deterministic else inputs.draws).numpy()
        if not self.config.lstm:
            return actions, None
        hidden, cell = (part.cpu().numpy() for part in outputs.memory)
        return actions, (hidden, cell, actions[:, None])

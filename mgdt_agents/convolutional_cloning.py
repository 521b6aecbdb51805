"""Behavioral cloning with the network of `cql`: is it the transformer that helps?"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.action_sets import actions_of_batch
from mgdt_agents.agent import NetworkAgent
from mgdt_agents.config_checks import check_interval
from mgdt_agents.q_learning.cql import CQLAgent
from mgdt_agents.q_learning.networks import ImpalaConfig, ImpalaNetwork
from mgdt_agents.random_streams import sample
from mgdt_agents.replay.sampler import WindowBatch
from mgdt_agents.step_inputs import State, StepInputs
from mgdt_envs.protocol import AnyProtocol

_FIELDS = [field.name for field in dataclasses.fields(ImpalaConfig)]


class ConvolutionalCloningAgent(NetworkAgent):
    """Draws actions as the play that it was trained on did, from the last frames alone.

    Args:
        config: the sizes, or the name of a preset; they are those of `cql`.
        action_temperature: what logits are divided by; below 1, likely actions become likelier.
        games, protocol, device: see `NetworkAgent`.
    """

    model: ImpalaNetwork
    kind = "bc_conv"
    memory = ()
    config_class = ImpalaConfig
    settings = ("action_temperature",)
    presets: ClassVar[dict[str, Any]] = {
        size: ImpalaConfig(**{name: getattr(config, name) for name in _FIELDS})
        for size, config in CQLAgent.presets.items()
    }

    def __init__(
        self,
        config: ImpalaConfig | str = "5m",
        *,
        action_temperature: float = 0.5,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(config, games=games, protocol=protocol, device=device)
        self.action_temperature = float(action_temperature)
        check_interval(self, "(0, inf)", "action_temperature")

    def _make_model(self) -> ImpalaNetwork:
        return ImpalaNetwork(self.config, 1)

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy of the windows' last actions."""
        actions, _ = actions_of_batch(batch, self.games, self.protocol)
        logits = self.model(self._to_device(batch.frames))[..., 0]
        targets = self._to_device(actions[:, -1])
        loss = F.cross_entropy(logits, targets)
        accuracy = (logits.argmax(-1) == targets).float().mean()
        return loss, {"action_loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        logits = self.model(self._to_device(inputs.observations))[..., 0].float().cpu()
        logits /= self.action_temperature
        return sample(logits, None if inputs.deterministic else inputs.draws).numpy(), None

"""What RLlib plays and learns with: IMPALA's network as its module, and connectors to the suite.

A connector is what RLlib calls a step of the way from an environment to the module, and from
episodes to a batch that is learned.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from mgdt_agents.action_sets import allowed_actions
from mgdt_agents.actor_critic.policy_network import (
    ImpalaAgentConfig,
    PolicyNetwork,
    PolicyOutputs,
    masked_logits,
)
from mgdt_agents.devices import bf16_pays
from mgdt_envs import AtariProtocol

ALLOWED = "allowed_actions"
"""Column of `(18,)` bool: the actions that the step's game has."""


class PolicyModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, ValueFunctionAPI):
    """The network of `ImpalaAgent`; `model_config["network"]` has the fields of its config."""

    def setup(self) -> None:
        """Make the network, randomly initialized."""
        self.network = PolicyNetwork(ImpalaAgentConfig(**self.model_config["network"]))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs = _outputs(self.network, batch)
        return {Columns.ACTION_DIST_INPUTS: _logits(outputs, batch)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs = _outputs(self.network, batch)
        return {
            Columns.ACTION_DIST_INPUTS: _logits(outputs, batch),
            Columns.EMBEDDINGS: outputs.values[0, :, 0],
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Return `(n,)` values; the embeddings are those already."""
        if embeddings is not None:
            return embeddings
        return _outputs(self.network, batch).values[0, :, 0]

    def get_non_inference_attributes(self) -> list[str]:
        """Return what is not sent to the env runners."""
        return ["target"]

    def make_target_networks(self) -> None:
        """Make APPO's second network."""
        self.target = make_target_network(self.network)

    def get_target_network_pairs(self) -> list[tuple[PolicyNetwork, PolicyNetwork]]:
        """Return APPO's networks."""
        return [(self.network, self.target)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the policy of APPO's second network."""
        outputs = _outputs(self.target, batch)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: _logits(outputs, batch)}


def _outputs(network: PolicyNetwork, batch: dict[str, Any]) -> PolicyOutputs:
    """Return what the network says of `n` single steps."""
    pixels = batch[Columns.OBS]
    with torch.autocast(pixels.device.type, torch.bfloat16, bf16_pays(pixels.device)):
        return network(pixels[None])


def _logits(outputs: PolicyOutputs, batch: dict[str, Any]) -> Tensor:
    return masked_logits(outputs.logits[0], batch[ALLOWED])


class ToPixels(SingleAgentObservationPreprocessor):
    """Turns observations into what the network sees of them, in the episodes, too.

    So a quarter goes over the wire where frames are halved.
    """

    def __init__(self, *args: Any, network: ImpalaAgentConfig, **kwargs: Any) -> None:
        self.network = network
        super().__init__(*args, **kwargs)

    def recompute_output_observation_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        """Return the space of what the network sees."""
        return gym.spaces.Box(0, 255, self.network.pixels_shape, np.uint8)

    def preprocess(self, observation: np.ndarray, episode: Any) -> np.ndarray:
        """Return what the network sees of `(stack, height, width)`."""
        return self.network.pixels(observation[None])[0]


class AllowedActions(ConnectorV2):
    """Adds the actions that each step's game has, by `info["game"]`."""

    def __init__(self, *args: Any, protocol: AtariProtocol, **kwargs: Any) -> None:
        self.protocol = protocol
        super().__init__(*args, **kwargs)

    def __call__(self, *, batch: dict[str, Any], episodes: list[Any], **kwargs: Any) -> Any:
        """Return the batch with the column `ALLOWED`."""
        for episode in self.single_agent_episode_iterator(episodes):
            allowed = allowed_actions([episode.get_infos(-1)["game"]], self.protocol)[0]
            self.add_batch_item(batch, ALLOWED, allowed, episode)
        return batch


class LearnerView(AllowedActions):
    """Adds what is learned from: allowed actions, clipped rewards, a lost life as an end.

    Args:
        protocol: the rules of play.
        life_loss_ends: whether a lost life is an end.
    """

    def __init__(self, *args: Any, life_loss_ends: bool, **kwargs: Any) -> None:
        self.life_loss_ends = life_loss_ends
        super().__init__(*args, **kwargs)

    def __call__(self, *, batch: dict[str, Any], episodes: list[Any], **kwargs: Any) -> Any:
        """Return the batch with the columns `ALLOWED`, rewards, and whether a step is the last."""
        for episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            count, infos = len(episode), episode.get_infos()
            allowed = allowed_actions([infos[0]["game"]], self.protocol).repeat(count, 0)
            self.add_n_batch_items(batch, ALLOWED, allowed, count, episode)
            rewards = np.clip(episode.get_rewards(), -1, 1).astype(np.float32)
            self.add_n_batch_items(batch, Columns.REWARDS, rewards, count, episode)
            if self.life_loss_ends:
                lost = np.diff([info["lives"] for info in infos]) < 0
                ends = batch[Columns.TERMINATEDS][(episode.id_,)]
                ends[:] = (np.array(ends) | lost[:count]).tolist()
        return batch

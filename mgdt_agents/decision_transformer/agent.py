"""The agent around the model: its memory, its loss, its way of acting."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.agent import NetworkAgent, State
from mgdt_agents.decision_transformer.config import PRESETS, DecisionTransformerConfig
from mgdt_agents.decision_transformer.inference import ExpertReturn, sample
from mgdt_agents.decision_transformer.model import DecisionTransformer
from mgdt_agents.decision_transformer.tokens import encode_returns, encode_rewards
from mgdt_agents.replay.sampler import WindowBatch
from mgdt_envs import AtariProtocol


class DecisionTransformerAgent(NetworkAgent):
    """The Multi-Game Decision Transformer of Lee et al. 2022.

    At each step it predicts the return that an expert would get from here, and draws an action
    given that return. Its state is the last actions and rewards of each row.

    Args:
        config: the model's sizes, or the name of a preset.
        rule: how the return is chosen.
        games, protocol, device: see `NetworkAgent`.
    """

    kind = "dt"
    config_class = DecisionTransformerConfig
    presets: ClassVar[dict[str, Any]] = PRESETS

    def __init__(
        self,
        config: DecisionTransformerConfig | str = "10m",
        *,
        rule: ExpertReturn | None = None,
        games: Sequence[str] = (),
        protocol: AtariProtocol | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        """Make the agent, randomly initialised."""
        self.rule = rule or ExpertReturn()
        super().__init__(config, games=games, protocol=protocol, device=device)
        if (self.config.steps, self.config.frame_size) != self.observation_space.shape[:2]:
            raise ValueError(
                f"The model reads {self.config.steps} frames of {self.config.frame_size} pixels, "
                f"the protocol gives {self.protocol.stack} of {self.protocol.screen_size}."
            )

    def _make_model(self) -> DecisionTransformer:
        return DecisionTransformer(self.config)

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the cross-entropies of return, action and reward (section 3.1).

        `config.loss_weights` says how they are weighed.

        Actions and rewards count at the steps of the episode, not at padded ones. With a single
        return token only the first return is learned, as released; padded steps count there,
        because that is where the first returns of an episode are predicted from.
        """
        actions = self._to_device(batch.actions)
        rewards = self._to_device(encode_rewards(batch.rewards))
        valid = self._to_device(batch.valid)
        inputs = [self._to_device(batch.frames), actions, rewards]
        if self.config.return_tokens != "none":
            returns = self._to_device(
                encode_returns(batch.returns_to_go, self.config.min_return, self.config.max_return)
            )
            inputs.append(returns)
        logits = self.model(*inputs)
        terms = {
            "action_loss": F.cross_entropy(logits["action"][valid].float(), actions[valid]),
            "reward_loss": F.cross_entropy(logits["reward"][valid].float(), rewards[valid]),
        }
        if self.config.return_tokens != "none":
            trained = slice(0, 1 if self.config.return_tokens == "single" else None)
            terms["return_loss"] = F.cross_entropy(
                logits["return"][:, trained].float().flatten(0, 1), returns[:, trained].flatten()
            )
        if self.config.loss_weights == "equal":
            return torch.stack(list(terms.values())).mean(), terms
        sizes = {
            "action_loss": self.config.actions,
            "reward_loss": self.config.rewards,
            "return_loss": self.config.returns,
        }
        return torch.stack([term / sizes[name] for name, term in terms.items()]).mean(), terms

    @torch.no_grad()
    def _act(
        self,
        observations: np.ndarray,
        state: State | None,
        starts: np.ndarray,
        rewards: np.ndarray,
        deterministic: bool,
    ) -> tuple[np.ndarray, State | None]:
        self.model.eval()
        memory = (len(observations), self.config.steps - 1)
        past_actions, past_rewards = state or (np.zeros(memory, int), np.zeros(memory, int))
        past_rewards = np.concatenate([past_rewards[:, 1:], encode_rewards(rewards)[:, None]], 1)
        keep = ~starts[:, None]
        past_actions, past_rewards = past_actions * keep, past_rewards * keep
        # The current step's action and reward are not known yet; no token that is read sees them.
        window = [
            self._to_device(observations),
            self._to_device(np.pad(past_actions, ((0, 0), (0, 1)))),
            self._to_device(np.pad(past_rewards, ((0, 0), (0, 1)))),
        ]
        if self.config.return_tokens != "none":
            window.append(self._choose_returns(window, deterministic))
        logits = self.model(*window)["action"][:, -1]
        actions = sample(logits, self.generator, deterministic=deterministic).cpu().numpy()
        past_actions = np.concatenate([past_actions[:, 1:], actions[:, None]], 1)
        return actions, (past_actions, past_rewards)

    def _choose_returns(self, window: list[Tensor], deterministic: bool) -> Tensor:
        """Return `(n, steps)` return bins, those of the steps that carry a return token."""
        frames, actions, rewards = window
        returns = torch.zeros_like(actions)
        # A return sees only what comes before it, so the window's first step is enough for the
        # single return, and of several each needs those before it.
        last = 1 if self.config.return_tokens == "single" else self.config.steps
        for step in range(last):
            logits = self.model(
                frames[:, : step + 1],
                actions[:, : step + 1],
                rewards[:, : step + 1],
                returns[:, : step + 1],
            )["return"][:, step]
            returns[:, step] = self.rule.choose_return(
                logits, self.config, self.generator, deterministic=deterministic
            )
        return returns

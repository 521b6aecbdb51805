"""The agent that looks ahead in a learned model: the Trajectory Transformer's idea on Atari."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.action_sets import actions_of_batch, allowed_in_rows, effective_actions
from mgdt_agents.config_checks import check_interval
from mgdt_agents.decision_transformer.rules import moved_on
from mgdt_agents.decision_transformer.sequence_agent import SequenceAgent, cross_entropy
from mgdt_agents.decision_transformer.tokens import encode_rewards
from mgdt_agents.planning.config import PRESETS, TrajectoryTransformerConfig
from mgdt_agents.planning.imagination import Imagined, imagine
from mgdt_agents.planning.search import Found, Search, search
from mgdt_agents.planning.tokenizer import reconstruction_losses
from mgdt_agents.planning.world_model import PlanningModel, WorldModel
from mgdt_agents.q_learning.window_values import value_terms
from mgdt_agents.random_streams import sample
from mgdt_agents.replay.sampler import WindowBatch
from mgdt_agents.step_inputs import State, StepInputs, as_games, as_given
from mgdt_envs.emulator import NUM_ACTIONS
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol


class TrajectoryTransformerAgent(SequenceAgent):
    """Imagines what its likely actions lead to, and prefers those with the best plans.

    Planning by beam search over a sequence model is the Trajectory Transformer's (Janner et al.
    2021); frames as tokens and values at the leaves are JOWA's (Cheng et al. 2025). Actions are
    drawn by likelihood times exp(beta score), to the power of 1 / action_temperature.

    It is trained in two stages: `config.tokenizer_steps` gradient steps for the tokenizer, which is
    then frozen, and the others for the world model.

    Attributes:
        search: how far it looks ahead; it may be replaced at any time.
        beta: how much scores count; it may be replaced, too.
        action_temperature: below 1, likely actions become likelier, as with an `ActingRule`.

    Args:
        config: the model's sizes, or the name of a preset.
        search: how far to look ahead; None looks as far as the model was trained to.
        beta: how much scores count.
        action_temperature: see above; 0.5 plays better than 1 at size `small` (docs/planning.md).
        games, protocol, device: see `NetworkAgent`.

    Example:
        >>> import numpy as np
        >>> agent = TrajectoryTransformerAgent("tiny", search=Search(horizon=1), device="cpu")
        >>> action, state = agent.predict(np.zeros((4, 84, 84), np.uint8))
    """

    model: PlanningModel
    target: WorldModel
    kind = "tt"
    config_class = TrajectoryTransformerConfig
    settings = ("beta", "action_temperature")
    presets: ClassVar[dict[str, Any]] = PRESETS

    def __init__(
        self,
        config: TrajectoryTransformerConfig | str = "base",
        *,
        search: Search | None = None,
        beta: float = 10.0,
        action_temperature: float = 0.5,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(config, games=games, protocol=protocol, device=device)
        sizes: TrajectoryTransformerConfig = self.config
        self.search = Search(horizon=sizes.horizon) if search is None else search
        if not isinstance(self.search, Search):
            raise TypeError(f"Expected a search, such as {Search()}, got {search!r}.")
        self.beta, self.action_temperature = float(beta), float(action_temperature)
        self._check_settings()
        if sizes.context > self.protocol.stack or sizes.frame_size != self.protocol.screen_size:
            raise InvalidArgument(
                f"The tokenizer reads {sizes.context} frames of {sizes.frame_size} pixels, the "
                f"protocol gives {self.protocol.stack} of {self.protocol.screen_size}. Fewer "
                "frames than it gives may be read, but of its size."
            )
        self.target = copy.deepcopy(self.model.world).requires_grad_(False).eval()
        self.learns_tokenizer = False

    def _check_settings(self) -> None:
        """Raise `InvalidArgument` for a beta or a temperature that cannot be; both may be set."""
        check_interval(self, "[0, inf)", "beta")
        check_interval(self, "(0, inf)", "action_temperature")

    def _make_model(self) -> PlanningModel:
        return PlanningModel(self.config)

    def _options_to_save(self) -> dict[str, Any]:
        return {"search": dataclasses.asdict(self.search)} | super()._options_to_save()

    @classmethod
    def _saved_options(cls, content: dict[str, Any]) -> dict[str, Any]:
        search = {"search": Search(**content["search"])} if "search" in content else {}
        return search | super()._saved_options(content)

    @property
    def windows(self) -> dict[str, Any]:
        """Windows of the context up to the drawn step, what can be imagined, and the target's rows.

        Every step of an episode, its last ones too, is thus learned where decisions are made.
        """
        config = self.config
        return {"steps": config.context, "future": config.horizon + config.n_steps}

    @property
    def stages(self) -> tuple[int, ...]:
        """The tokenizer's, and the world model's."""
        return 0, self.config.tokenizer_steps

    def after_step(self, step: int) -> None:
        """Begin the stage that the next step is of, and copy the target network when it is time."""
        self.learns_tokenizer = step < self.config.tokenizer_steps
        if step % self.config.target_period == 0:
            self.target.load_state_dict(self.model.world.state_dict())

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the stage that training is at; when measured, of both together.

        So held-out losses of the two stages can be compared.
        """
        if not self.model.training:
            first, figures = self._tokenizer_loss(batch)
            second, others = self._world_loss(batch)
            return first + second, figures | others
        return self._tokenizer_loss(batch) if self.learns_tokenizer else self._world_loss(batch)

    def _tokenizer_loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the squared error of two frames of each window, and of what changed in them."""
        # Not all rows: those of a window are alike.
        rows = slice(self.config.context - 1, self.config.context + 1)
        frames = self._to_device(batch.frames[:, rows])
        valid = self._to_device(batch.valid[:, rows])
        found = self.model(frames)["reconstruction"]
        of_all, of_changed = reconstruction_losses(frames, found, valid)
        return of_all + self.config.changed_weight * of_changed, {
            "frame_error": of_all,
            "changed_error": of_changed,
        }

    def _world_loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the weighted losses of all that the world model says."""
        config = self.config
        T, N = config.steps, config.n_steps
        valid = self._to_device(batch.valid)
        actions, allowed = map(self._to_device, actions_of_batch(batch, self.games, self.protocol))
        rewards = self._to_device(encode_rewards(batch.rewards))
        terminated = self._to_device(batch.terminated)
        outputs = self.model(self._to_device(batch.frames), actions[:, :T], rewards[:, :T])
        tokens = outputs["tokens"]
        # Of all steps, padded ones among them, so that parts of a batch average to the whole.
        steps = valid[:, :T].numel()
        next_tokens = tokens[:, 1 : T + 1]
        frame_losses = F.cross_entropy(
            outputs["frame"].float().flatten(0, -2), next_tokens.flatten(), reduction="none"
        )
        of_steps = frame_losses.unflatten(0, next_tokens.shape).sum(-1).mean(-1)
        followed = valid[:, :T] & valid[:, 1 : T + 1]
        ends = F.binary_cross_entropy_with_logits(
            outputs["end"].float(), terminated[:, :T].float(), reduction="none"
        )
        terms = {
            "frame_loss": (of_steps * followed).sum() / steps,
            "reward_loss": cross_entropy(outputs["reward"], rewards[:, :T], valid[:, :T]) / steps,
            "end_loss": (ends * valid[:, :T]).sum() / steps,
            "action_loss": cross_entropy(outputs["action"], actions[:, :T], valid[:, :T]) / steps,
        }
        terms |= value_terms(
            outputs["value"],
            self.target(tokens[:, N : N + T], actions[:, N : N + T], rewards[:, N : N + T]),
            actions[:, :T],
            self._to_device(batch.rewards),
            terminated,
            valid,
            allowed,
            config,
        )
        weights = {
            "frame_loss": config.frame_weight,
            "reward_loss": config.reward_weight,
            "end_loss": config.end_weight,
            "action_loss": config.action_weight,
            "value_loss": config.value_weight,
            "conservative_loss": config.value_weight * config.conservative_weight,
        }
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        hits = (outputs["action"].argmax(-1) == actions[:, :T]) & valid[:, :T]
        return loss, {**terms, "accuracy": hits.sum() / steps}

    @property
    def memory(self) -> tuple[int, ...]:
        """Past actions and reward tokens."""
        return (self.config.context - 1,) * 2

    def action_scores(
        self,
        observation: np.ndarray,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        *,
        reward: np.ndarray | float | None = None,
        game: str | Sequence[str] | None = None,
    ) -> np.ndarray:
        """Return the scores that the search gives to actions.

        The arguments are those that `predict` would be called with at this step. Nothing is drawn
        or remembered.

        Returns:
            `(A,)` for one observation, `(n, A)` for a batch, float32: the score of the best plan
            that begins with each action; minus infinity where there is none.

        Raises:
            ValueError: as `predict` does.
        """
        batch, past = self._checked(observation, state, episode_start, reward)
        names = None if game is None else as_games(game, len(batch))
        scores = self._search(batch, past, self._allowed(len(batch), names)).scores.cpu().numpy()
        return as_given(scores, observation)

    def imagine(
        self,
        observation: np.ndarray,
        actions: np.ndarray,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        *,
        reward: np.ndarray | float | None = None,
        game: str | Sequence[str] | None = None,
    ) -> Imagined:
        """Return what the model imagines of the next actions.

        The other arguments are those that `predict` would be called with at this step.

        Args:
            observation: a batch of n observations.
            actions: `(n, H)` int64 full-set ids, the next action and those after it.
            state: what `predict` last returned.
            episode_start: see `predict`.
            reward: see `predict`.
            game: see `predict`; actions that the game does not have are what they amount to in it.

        Raises:
            ValueError: as `predict` does, for actions of another shape, or for what is no action.
        """
        batch, past = self._checked(observation, state, episode_start, reward)
        actions = np.asarray(actions)
        if actions.ndim != 2 or len(actions) != len(batch) or not actions.size:
            raise InvalidArgument(
                f"Expected actions of shape ({len(batch)}, H), H at least 1, got {actions.shape}."
            )
        if actions.dtype.kind not in "iu" or not np.isin(actions, range(NUM_ACTIONS)).all():
            raise InvalidArgument(f"Expected actions that are integers in 0..17, got {actions}.")
        actions = actions.astype(np.int64)
        if game is not None:  # as in training
            names = as_games(game, len(batch))
            actions = np.take_along_axis(effective_actions(names, self.protocol), actions, 1)
        coming = self._to_device(actions)
        tokens, rewards, ends = imagine(self.model.world, *self._window(batch, past), coming)
        frames = self.model.tokenizer.decode(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return Imagined(*(part.cpu().numpy() for part in (frames, rewards, ends)))

    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        self._check_settings()
        past = self._past(inputs.state, inputs.starts, inputs.rewards)
        allowed = self._allowed(len(inputs.observations), inputs.games)
        found = self._search(inputs.observations, past, allowed)
        policy, scores = found.policy.cpu().double(), found.scores.cpu().double()
        logits = (policy + self.beta * scores) / self.action_temperature
        logits = logits.masked_fill(scores.isneginf(), -torch.inf)  # where beta is 0, too
        actions = sample(logits, None if inputs.deterministic else inputs.draws).numpy()
        return actions, (moved_on(past[0], actions), past[1])

    @torch.no_grad()
    def _window(self, observations: np.ndarray, past: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return frames, actions and rewards, as tokens, of the real steps that the model sees."""
        if self.model.training:
            self.model.eval()
        frames = self._to_device(observations[:, -self.config.context :])
        tokens = self.model.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        actions, rewards = self._steps(past)
        return tokens, actions, rewards

    def _search(self, observations: np.ndarray, past: State, allowed: np.ndarray) -> Found:
        window = self._window(observations, past)
        return search(self.model.world, *window, self._to_device(allowed), self.search)

    def _allowed(self, rows: int, games: Sequence[str] | None) -> np.ndarray:
        """Return `(n, A)` bool: the actions of each row's game, or of any of the agent's games.

        Raises:
            ValueError: for a game that the agent was not trained on.
        """
        if games and self.games and (unknown := set(games) - set(self.games)):
            raise InvalidArgument(
                f"This {self.kind} agent cannot imagine {sorted(unknown)}: it was trained on "
                f"{list(self.games)}. mgdt-train --init fine-tunes it to others."
            )
        return allowed_in_rows(games, rows, self.games, self.protocol)

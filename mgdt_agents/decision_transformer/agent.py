"""The agent around the model: its memory, its loss, its way of acting."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgdt_agents.config_checks import check_unread
from mgdt_agents.decision_transformer.config import PRESETS, DecisionTransformerConfig
from mgdt_agents.decision_transformer.decide import Decision, decide
from mgdt_agents.decision_transformer.model import DecisionTransformer
from mgdt_agents.decision_transformer.rules import (
    ActingRule,
    ExpertReturn,
    moved_on,
    rule_from_dict,
    rule_to_dict,
)
from mgdt_agents.decision_transformer.sequence_agent import SequenceAgent, cross_entropy
from mgdt_agents.decision_transformer.tokens import (
    encode_ranks,
    encode_returns,
    encode_rewards,
)
from mgdt_agents.random_streams import RowStreams, sample
from mgdt_agents.replay.sampler import WindowBatch, WindowSampler
from mgdt_agents.step_inputs import State, StepInputs, as_given
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol


class DecisionTransformerAgent(SequenceAgent):
    """The Multi-Game Decision Transformer of Lee et al. 2022.

    At each step it predicts the return that an expert would get from here, and draws an action
    given that return. Its state is the last actions and rewards of each row.

    Attributes:
        rule: how returns and actions are chosen; it may be replaced between episodes.
        predicted_returns: `(n, R)` float32, what return the last `predict` expected at its
            windows' first steps, before one was chosen, which later steps repeat; None if it
            chose none.

    Args:
        config: the model's sizes, or the name of a preset.
        rule: how returns and actions are chosen; None is the paper's rule.
        games, protocol, device: see `NetworkAgent`.

    Example:
        >>> import numpy as np
        >>> from mgdt_agents.decision_transformer import Greedy
        >>> agent = DecisionTransformerAgent("tiny", rule=Greedy(), device="cpu")
        >>> frames = np.zeros((4, 84, 84), np.uint8)
        >>> action, state = agent.predict(frames)
        >>> agent.return_distribution(frames).shape, agent.action_distribution(frames).shape
        ((121,), (18,))
    """

    model: DecisionTransformer
    kind = "dt"
    config_class = DecisionTransformerConfig
    presets: ClassVar[dict[str, Any]] = PRESETS
    unread: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that the agent does not read, and so does not train with another value
    of."""

    def __init__(
        self,
        config: DecisionTransformerConfig | str = "10m",
        *,
        rule: ActingRule | None = None,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(config, games=games, protocol=protocol, device=device)
        self.rule = self.default_rule() if rule is None else rule
        self.predicted_returns: np.ndarray | None = None
        if not isinstance(self.rule, ActingRule):
            raise TypeError(f"Expected an acting rule, such as {ExpertReturn()}, got {rule!r}.")
        steps, size = self.config.steps, self.config.frame_size
        if steps < self.protocol.stack or size != self.protocol.screen_size:
            raise InvalidArgument(
                f"The model reads {steps} frames of {size} pixels, the protocol gives "
                f"{self.protocol.stack} of {self.protocol.screen_size}. More frames than it gives "
                "are remembered, fewer are not read."
            )

    def default_rule(self) -> ActingRule:
        """Return the paper's rule; for episode ranks, which it has not, with our settings."""
        if not self.config.ranks:
            return ExpertReturn()
        # docs/three_games.md and docs/results.md have what was tried.
        return ExpertReturn(kappa=100.0, action_temperature=0.5, guidance=1.0)

    def identity(self) -> str | None:
        """Return the network's sizes and the rule; None for a rule that cannot be written down."""
        return None if rule_to_dict(self.rule) is None else super().identity()

    def _options_to_save(self) -> dict[str, Any]:
        rule = rule_to_dict(self.rule)
        return ({} if rule is None else {"rule": rule}) | super()._options_to_save()

    @classmethod
    def _saved_options(cls, content: dict[str, Any]) -> dict[str, Any]:
        rule = {"rule": rule_from_dict(content["rule"])} if "rule" in content else {}
        return rule | super()._saved_options(content)

    def _make_model(self) -> DecisionTransformer:
        return DecisionTransformer(self.config)

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the cross-entropies of return, action and reward (section 3.1).

        `config.loss_weights` and the weights after it say how they are weighed.

        Actions and rewards count at the steps of the episode, not at padded ones. With a single
        return token only the first return is learned, as released; padded steps count there,
        because that is where the first returns of an episode are predicted from.
        """
        config = self.config
        actions = self._to_device(batch.actions)
        rewards = self._to_device(encode_rewards(batch.rewards))
        valid = self._to_device(batch.valid)
        inputs = [self._to_device(batch.frames), actions, rewards]
        if config.return_tokens != "none":
            returns = self._to_device(self._return_bins(batch))
            inputs.append(returns)
        logits = self.model(*inputs)
        terms = {"action_loss": cross_entropy(logits["action"], actions, valid) / batch.num_valid}
        weights = {"action_loss": config.action_weight}
        if config.reward_tokens:
            reward_loss = cross_entropy(logits["reward"], rewards, valid)
            terms["reward_loss"] = reward_loss / batch.num_valid
            weights["reward_loss"] = config.reward_weight
        hits = (logits["action"].argmax(-1) == actions) & valid
        if config.return_tokens != "none":
            trained = slice(0, 1 if config.return_tokens == "single" else None)
            terms["return_loss"] = F.cross_entropy(
                logits["return"][:, trained].float().flatten(0, 1), returns[:, trained].flatten()
            )
            weights["return_loss"] = config.return_weight
        if config.loss_weights == "vocabulary":
            weights = {
                name: weight / logits[name.removesuffix("_loss")].shape[-1]
                for name, weight in weights.items()
            }
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).mean()
        return loss, {**terms, "accuracy": hits.sum() / batch.num_valid}

    @property
    def windows(self) -> dict[str, Any]:
        """Windows of the model's steps, with its returns."""
        return {"steps": self.config.steps, "discount": self.config.discount}

    def begin_training(self, sampler: WindowSampler) -> None:
        """Take the replay's games.

        Raises:
            ValueError: if more than half of its returns are outside of the bins; of fewer, a
                warning says the share. If a field of the config is set that is not read.
        """
        config = self.config
        # Not where a config is made: agents of earlier versions have such fields, and still load.
        check_unread(config, f"by {self.kind}", *self.unread)
        if config.return_tokens != "none" and config.to_go:
            returns = sampler.some_returns_to_go()
            margin = config.return_bin / 2
            low, high = config.min_return - margin, config.max_return + margin
            outside = ((returns < low) | (returns > high)).mean()
            if outside > 0.5:
                raise InvalidArgument(
                    f"{outside:.0%} of the replay's returns, {returns.min():g} to "
                    f"{returns.max():g}, are outside of the bins, {config.min_return:g} to "
                    f"{config.max_return:g}: widen min_return and max_return, or lower discount."
                )
            if outside:
                warnings.warn(
                    f"{outside:.1%} of the replay's returns are outside of the bins, "
                    f"{config.min_return:g} to {config.max_return:g}, and count as the last ones.",
                    stacklevel=2,
                )
        super().begin_training(sampler)

    def _return_bins(self, batch: WindowBatch) -> np.ndarray:
        """Return the `(B, T)` return tokens of a batch."""
        config = self.config
        bins = np.zeros_like(batch.actions)
        if config.ranks:
            bins += encode_ranks(batch.episode_ranks, config.rank_bins)[:, None]
        if config.to_go:
            low, high = config.min_return, config.max_return
            to_go = encode_returns(batch.returns_to_go, low, high, config.return_bin)
            bins = bins * config.to_go_bins + to_go
        return bins

    @property
    def memory(self) -> tuple[int, ...]:
        """Past actions, reward tokens and frames, and what the rule remembers."""
        config = self.config
        frames = (config.steps - self.protocol.stack) * config.frame_size**2
        return (*(config.steps - 1,) * 2, frames, *self.rule.memory(config.steps))

    def return_distribution(
        self,
        observation: np.ndarray,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        *,
        reward: np.ndarray | float | None = None,
    ) -> np.ndarray:
        """Return what return the model expects, before the rule chooses one.

        The arguments are those that `predict` would be called with at this step. Nothing is drawn
        or remembered. With a return token at every step, the returns before are the rule's
        likeliest.

        Returns:
            `(R,)` for one observation, `(n, R)` for a batch, float32: the probability of each
            bin from the least return to the largest (`config.return_range`): of the return from
            the window's first step to the end of the episode, or from its last step where every
            step has a return token; of the episode's rank; or of pairs of both, by rank first.

        Raises:
            ValueError: for a model without return tokens, and as `predict` does: for a rule, too,
                that gives other returns than the model's.
        """
        if self.config.return_tokens == "none":
            raise InvalidArgument(
                f"Expected a model with return tokens, and this {self.kind} has return_tokens="
                "'none': it predicts no returns."
            )
        batch, past = self._checked(observation, state, episode_start, reward)
        decision = self._decide(batch, past, None, predict_returns=True)
        return as_given(_on_cpu(decision.return_logits[-1]).softmax(-1).numpy(), observation)

    def action_distribution(
        self,
        observation: np.ndarray,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        *,
        reward: np.ndarray | float | None = None,
    ) -> np.ndarray:
        """Return what `predict` draws the action from, given the return likeliest under the rule.

        The arguments are those that `predict` would be called with at this step. Nothing is drawn
        or remembered.

        Returns:
            `(A,)` for one observation, `(n, A)` for a batch, float32: the probability of each
            action.

        Raises:
            ValueError: as `predict` does.
        """
        batch, past = self._checked(observation, state, episode_start, reward)
        decision = self._decide(batch, past, None)
        logits = self.rule.action_logits(_on_cpu(decision.action_logits))
        return as_given(logits.softmax(-1).numpy(), observation)

    def attention_maps(
        self,
        observation: np.ndarray,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        *,
        reward: np.ndarray | float | None = None,
    ) -> np.ndarray:
        """Return where in the frames the action looks, given the return likeliest under the rule.

        The arguments are those that `predict` would be called with at this step. Nothing is drawn
        or remembered.

        Returns:
            `(layers, heads, steps, rows, columns)` for one observation, with n before it for a
            batch, float32: the attention of the token that the action is read at to each patch of
            each frame, oldest first. Rows and columns are 1 where a frame is one token. What is
            missing from 1 goes to returns, actions and rewards.

        Raises:
            ValueError: as `predict` does.
        """
        batch, past = self._checked(observation, state, episode_start, reward)
        returns_BT = self._decide(batch, past, None).returns
        with torch.no_grad():
            maps = self.model.attention(*self._window(batch, past), returns_BT)
        side = math.isqrt(self.config.observation_tokens)
        return as_given(maps.float().cpu().unflatten(-1, (side, side)).numpy(), observation)

    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        past = self._past(inputs.state, inputs.starts, inputs.rewards)
        draws = None if inputs.deterministic else inputs.draws
        decision = self._decide(inputs.observations, past, draws)
        actions = sample(self.rule.action_logits(_on_cpu(decision.action_logits)), draws).numpy()
        first = decision.return_logits[:1]
        self.predicted_returns = _on_cpu(first[0]).softmax(-1).numpy() if first else None
        past_actions, past_rewards, frames, *of_rule = past
        oldest = inputs.observations[:, 0].reshape(len(actions), -1)
        frames = np.concatenate([frames, oldest], 1)[:, oldest.shape[1] :]
        return actions, (moved_on(past_actions, actions), past_rewards, frames, *of_rule)

    def _past(self, state: State | None, starts: np.ndarray, rewards: np.ndarray) -> State:
        """Return the state with the last rewards in it, and forgotten in rows that begin."""
        actions, reward_tokens, frames, *memory = super()._past(state, starts, rewards)
        frames = frames.astype(np.uint8) * ~starts[:, None]
        return (actions, reward_tokens, frames, *self.rule.remember(tuple(memory), starts, rewards))

    def _window(self, observations: np.ndarray, past: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return frames, actions and reward tokens of the steps that the model sees."""
        earlier = past[2].reshape(len(observations), -1, *observations.shape[2:])
        frames = np.concatenate([earlier, observations], 1)
        actions, rewards = self._steps(past)
        return self._to_device(frames), actions, rewards

    @torch.no_grad()
    def _decide(
        self,
        observations: np.ndarray,
        past: State,
        draws: RowStreams | None,
        *,
        predict_returns: bool = False,
    ) -> Decision:
        """Return the model's decision, given returns that are chosen by the rule.

        Args:
            observations: frames of the batch.
            past: what `_past` returned.
            draws: what returns are drawn from; None takes the likeliest.
            predict_returns: have the returns' logits in the decision even if the rule needs none.
        """
        if self.model.training:
            self.model.eval()

        def choose(logits_BR: Tensor) -> Tensor:
            return sample(self.rule.return_logits(_on_cpu(logits_BR)), draws).to(self.device)

        returns: Tensor | Callable[[Tensor], Tensor] = choose
        given = self.rule.given_returns(past[3:])
        if given is not None:
            if self.config.ranks or self.config.discount != 1:
                tokens = "episode ranks" if self.config.ranks else "discounted"
                raise InvalidArgument(
                    f"{self.rule} gives returns to go, and this {self.kind} agent's return tokens "
                    f"are {tokens}: take a rule that draws them, such as ExpertReturn()."
                )
            config = self.config
            bins = encode_returns(given, config.min_return, config.max_return, config.return_bin)
            returns_BT = self._to_device(bins)
            columns = iter(returns_BT.T)
            returns = (lambda _: next(columns)) if predict_returns else returns_BT
        frames_BTYX, actions_BT, rewards_BT = self._window(observations, past)
        window = self.model.stem(frames_BTYX), actions_BT, rewards_BT
        decision = decide(self.model, *window, returns)
        if self.rule.guidance and self.config.return_tokens != "none":
            config = self.config
            # Of a pair, the least rank alone: the least return to go beside it is hardly ever seen.
            least_BT = decision.returns % (
                config.to_go_bins if config.ranks and config.to_go else 1
            )
            least = decide(self.model, *window, least_BT)
            both = _on_cpu(decision.action_logits), _on_cpu(least.action_logits)
            decision = decision._replace(action_logits=self.rule.guided(*both))
        return decision


def _on_cpu(logits: Tensor) -> Tensor:
    """Return fp32 logits where rules and draws are computed, the same for every device."""
    return logits.float().cpu()

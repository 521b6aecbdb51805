"""Ways of acting: how logits become the return to aim at and the action to take.

A rule changes the logits that returns and actions are drawn from, or gives the returns; what it
needs to remember for that is part of the agent's state. Any rule goes with any model; a model
without return tokens has no use for what it says of returns.

Shape suffixes: B rows, T steps of a window, R return bins from the least return up, A actions,
V either vocabulary.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgdt_agents.config_checks import check_interval
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

GUIDANCE_LIMIT = 3.0
"""Largest difference of log likelihoods that guidance counts. Larger ones are of actions that are
hardly ever taken, of whose likelihoods a model knows little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActingRule:
    """What all rules are; logits come as fp32 on the CPU, whatever the model computes in.

    Example:
        >>> import torch
        >>> class NoOp(ActingRule):
        ...     def action_logits(self, logits_BA):
        ...         return logits_BA.masked_fill(torch.arange(logits_BA.shape[-1]) > 0, -torch.inf)
        >>> NoOp().action_logits(torch.zeros(1, 3))
        tensor([[0., -inf, -inf]])
    """

    action_temperature: float = 1.0
    """What the logits of actions are divided by; below 1, likely actions become likelier."""
    guidance: float = 0.0
    """Weight of log P(action | the returns aimed at) - log P(action | the least return), which is
    added to an action's logit, as in classifier-free guidance (Ho & Salimans 2022): what good play
    does oftener than bad play becomes likelier. Of pairs of rank and return to go, the least has
    the same return to go. The difference counts up to `GUIDANCE_LIMIT`. Ours; it takes a second
    pass through the model, and does nothing in a model without return tokens."""

    def __post_init__(self) -> None:
        check_interval(self, "[0, inf)", "guidance")
        if not 0 < self.action_temperature < math.inf:
            raise InvalidArgument(
                f"action_temperature must be above 0 and finite, got {self.action_temperature}; "
                "deterministic=True, or the rule Greedy, takes the likeliest action."
            )

    def return_logits(self, logits_BR: Tensor) -> Tensor:
        """Return the `(B, R)` logits that the return is drawn from, of the model's."""
        return logits_BR

    def action_logits(self, logits_BA: Tensor) -> Tensor:
        """Return the `(B, A)` logits that the action is drawn from, of the model's."""
        return logits_BA / self.action_temperature

    def guided(self, logits_BA: Tensor, least_BA: Tensor) -> Tensor:
        """Return the `(B, A)` logits that `action_logits` is given, with guidance.

        Args:
            logits_BA: of the actions, given the returns that are aimed at.
            least_BA: of the actions, given the least return at every step.
        """
        gain_BA = logits_BA.log_softmax(-1) - least_BA.log_softmax(-1)
        return logits_BA + self.guidance * gain_BA.clamp(-GUIDANCE_LIMIT, GUIDANCE_LIMIT)

    def memory(self, steps: int) -> tuple[int, ...]:
        """Return the columns of each array that the rule remembers, for windows of `steps`."""
        return ()

    def remember(
        self, memory: tuple[np.ndarray, ...], starts: np.ndarray, rewards: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return what is remembered at a step.

        Args:
            memory: `(B, columns)` each, what this returned at the step before.
            starts: `(B,)` bool, rows that begin an episode; what their memory holds is void.
            rewards: `(B,)`, what each row's last action brought.
        """
        return memory

    def given_returns(self, memory: tuple[np.ndarray, ...]) -> np.ndarray | None:
        """Return the `(B, T)` returns to act on; None has them drawn from `return_logits`."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedReturn(ActingRule):
    """Plain cloning: draw a return as the model predicts it, and an action given that return.

    Example:
        >>> PredictedReturn()
        PredictedReturn(action_temperature=1.0, guidance=0.0)
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertReturn(ActingRule):
    """The paper's rule: draw a return that an expert would get, then an action.

    The return is drawn from P(R) exp(kappa (R - low) / (high - low)), low and high being the least
    and the largest return (Lee et al. 2022, section 3.4), at every step anew.

    Example:
        >>> import torch
        >>> ExpertReturn(kappa=2).return_logits(torch.zeros(1, 3))
        tensor([[0., 1., 2.]])
    """

    kappa: float = 10.0
    """How much better than the data an expert is (footnote 4)."""

    def __post_init__(self) -> None:
        ActingRule.__post_init__(self)
        check_interval(self, "(-inf, inf)", "kappa")

    def return_logits(self, logits_BR: Tensor) -> Tensor:
        """Return the logits of the tilted distribution."""
        return logits_BR + torch.linspace(0, self.kappa, logits_BR.shape[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfSamples(ActingRule):
    """The release's rule: the best of many returns, and one of the likelier half of the actions.

    The numbers are those of the released notebook (google-research, multi_game_dt): 128 samples of
    the return, `return_temperature=0.75`, `action_top_percentile=50`.

    Example:
        >>> import torch
        >>> BestOfSamples().action_logits(torch.tensor([[1.0, 3.0, 0.0, 2.0]]))
        tensor([[-inf, 3., -inf, 2.]])
    """

    samples: int = 128
    """Returns drawn, of which the largest is taken."""
    logit_scale: float = 0.75
    """The model's return logits are multiplied by this; the notebook calls it a temperature."""
    action_share: float = 0.5
    """Share of the actions that are not ruled out, the likeliest."""

    def __post_init__(self) -> None:
        ActingRule.__post_init__(self)
        check_interval(self, "[1, inf)", "samples")
        check_interval(self, "(0, inf)", "logit_scale")
        check_interval(self, "(0, 1]", "action_share")

    def return_logits(self, logits_BR: Tensor) -> Tensor:
        """Return the logits of the largest of the samples.

        It is at most R with probability P(a return is at most R)^samples, so one draw does.
        """
        at_most_BR = (self.logit_scale * logits_BR.double()).softmax(-1).cumsum(-1) ** self.samples
        return at_most_BR.diff(dim=-1, prepend=torch.zeros_like(at_most_BR[:, :1])).log()

    def action_logits(self, logits_BA: Tensor) -> Tensor:
        """Return the logits without those of the less likely actions."""
        logits_BA = ActingRule.action_logits(self, logits_BA)
        kept = max(1, int(self.action_share * logits_BA.shape[-1]))
        return _without_others(logits_BA, logits_BA.topk(kept, -1).indices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Greedy(ActingRule):
    """The likeliest return, and the likeliest action given that return.

    Example:
        >>> import torch
        >>> Greedy().action_logits(torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([[-inf, 3., -inf]])
    """

    def return_logits(self, logits_BR: Tensor) -> Tensor:
        """Return the logits of the likeliest return alone."""
        return _without_others(logits_BR, logits_BR.argmax(-1, keepdim=True))

    def action_logits(self, logits_BA: Tensor) -> Tensor:
        """Return the logits of the likeliest action alone."""
        return _without_others(logits_BA, logits_BA.argmax(-1, keepdim=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetReturn(ActingRule):
    """A given return for the episode, reduced by the rewards that come (Chen et al. 2021).

    `predict` must be told the rewards, or the return stays what it was. As in training, they count
    clipped to [-1, 1], and what is left of the return is kept in the model's range.

    Example:
        >>> TargetReturn(target=20)
        TargetReturn(action_temperature=1.0, guidance=0.0, target=20)
    """

    target: float
    """Return of the whole episode, of clipped rewards."""

    def __post_init__(self) -> None:
        ActingRule.__post_init__(self)
        check_interval(self, "(-inf, inf)", "target")

    def memory(self, steps: int) -> tuple[int, ...]:
        """Return the columns of what is left of the target at each step of the window."""
        return (steps,)

    def remember(
        self, memory: tuple[np.ndarray, ...], starts: np.ndarray, rewards: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return what is left of the target, `(B, T)`."""
        (left,) = memory
        left = moved_on(left, left[:, -1] - np.clip(rewards, -1, 1))
        # As in training, steps before the episode carry the return of all of it.
        return (np.where(starts[:, None], float(self.target), left),)

    def given_returns(self, memory: tuple[np.ndarray, ...]) -> np.ndarray:
        """Return what is left of the target."""
        return memory[0]


RULES: dict[str, type[ActingRule]] = {
    rule.__name__: rule
    for rule in (ExpertReturn, BestOfSamples, TargetReturn, Greedy, PredictedReturn)
}


def rule_to_dict(rule: ActingRule) -> dict[str, Any] | None:
    """Return the rule as JSON types; None for one that is not in `RULES`."""
    name = type(rule).__name__
    return {"name": name, **dataclasses.asdict(rule)} if RULES.get(name) is type(rule) else None


def rule_from_dict(content: Mapping[str, Any]) -> ActingRule:
    """Return the rule that `rule_to_dict` described.

    Raises:
        ValueError: if there is no rule of this name. The message suggests the nearest.
        TypeError: if it has not these fields.
    """
    fields = dict(content)
    return _rule_class(fields.pop("name", None))(**fields)


def rule_fields(name: str) -> dict[str, Any]:
    """Return what `rule_to_dict` gives of a rule with its defaults; None for what has none.

    Raises:
        ValueError: if there is no rule of this name. The message suggests the nearest.
    """
    fields = dataclasses.fields(_rule_class(name))
    defaults = {field.name: field.default for field in fields}
    return {"name": name} | {
        field: None if value is dataclasses.MISSING else value for field, value in defaults.items()
    }


def _rule_class(name: Any) -> type[ActingRule]:
    if name not in RULES:
        raise InvalidArgument(f"Unknown rule {name!r}. {did_you_mean(str(name), RULES)}")
    return RULES[name]


def moved_on(columns: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Return `(n, columns)` without the oldest column and with the newest."""
    return np.concatenate([columns, newest[:, None]], 1)[:, 1:]


def _without_others(logits_BV: Tensor, kept: Tensor) -> Tensor:
    """Return the logits, with minus infinity for all ids but those `kept` of each row."""
    return torch.full_like(logits_BV, -torch.inf).scatter(-1, kept, logits_BV.gather(-1, kept))

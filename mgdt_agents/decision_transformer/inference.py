"""How logits become the return to aim at and the action to take."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mgdt_agents.decision_transformer.config import DecisionTransformerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertReturn:
    """The paper's rule: sample a return that an expert would get, then an action.

    The return is drawn from P(R) exp(kappa (R - low) / (high - low)), low and high being the least
    and the largest return (Lee et al. 2022, section 3.4), at every step anew.
    """

    kappa: float = 10.0
    """How much better than the data an expert is (footnote 4)."""

    def choose_return(
        self,
        logits_BR: Tensor,
        config: DecisionTransformerConfig,
        generator: torch.Generator,
        *,
        deterministic: bool,
    ) -> Tensor:
        """Return `(B,)` return bins; the likeliest under the rule if `deterministic`."""
        optimism_R = torch.linspace(0, self.kappa, config.returns, device=logits_BR.device)
        return sample(logits_BR + optimism_R, generator, deterministic=deterministic)


def sample(logits_BV: Tensor, generator: torch.Generator, *, deterministic: bool) -> Tensor:
    """Return `(B,)` ids drawn from the softmax of the logits, or the likeliest."""
    if deterministic:
        return logits_BV.argmax(-1)
    # Drawn on the CPU, so that a seed gives the same play on every device.
    probabilities = logits_BV.float().softmax(-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits_BV.device)

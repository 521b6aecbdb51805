"""An estimate of the Atari-57 median from a few games, by Aitchison et al. 2022 (arXiv 2210.02019).

They searched for the few games whose scores tell most of the median over 57: a linear regression
from log10(1 + 100 h), h the human-normalized score and at least 0, to the same of the median,
without intercept. Their repository (github.com/maitchison/Atari-5, commit 118cad54) has the method
and the data (`dataset.csv`); the coefficients here are the fit to it of each subset, and the errors
those of leaving out one agent at a time. The subsets are the paper's: their search was repeated for
`atari3_val` alone, which it found.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mgdt_envs.aggregates import CONFIDENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class AtariSubset:
    """A few games, and how their scores tell the median of Atari-57."""

    coefficients: Mapping[str, float]
    """Of each game."""
    error: float
    """Root mean square, in log10, over the published agents, each left out of the fit."""
    agents: int
    """How many published agents the fit rests on."""


SUBSETS = {
    "atari5": AtariSubset(
        coefficients={
            "BattleZone": 0.38197512,
            "DoubleDunk": 0.06790995,
            "NameThisGame": 0.31080415,
            "Phoenix": 0.12412619,
            "Qbert": 0.08048518,
        },
        error=0.0573,
        agents=44,
    ),
    "atari10": AtariSubset(
        coefficients={
            "BattleZone": 0.18882009,
            "DoubleDunk": 0.08519154,
            "NameThisGame": 0.12869696,
            "Phoenix": 0.16432707,
            "Qbert": 0.05922864,
            "Amidar": 0.08246357,
            "Bowling": 0.05590328,
            "Frostbite": 0.06912573,
            "KungFuMaster": 0.09861732,
            "Riverraid": 0.04859429,
        },
        error=0.0406,
        agents=42,
    ),
    "atari3_val": AtariSubset(
        coefficients={"Assault": 0.33525298, "MsPacman": 0.42363799, "YarsRevenge": 0.19161846},
        error=0.1030,
        agents=44,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MedianEstimate:
    """An estimate of the median human-normalized score over the 57 games."""

    value: float
    interval: tuple[float, float]
    """Of 95 %: the regression's error, and the noise of the episodes if there are several."""
    subset: str


def estimate_atari57_median(normalized: Mapping[str, ArrayLike]) -> MedianEstimate | None:
    """Return the estimate from the best subset whose games are all there; None if none is.

    Args:
        normalized: human-normalized scores by game, of one episode or more.

    Example:
        >>> from mgdt_envs.atari_subsets import SUBSETS, estimate_atari57_median
        >>> estimate = estimate_atari57_median(dict.fromkeys(SUBSETS["atari5"].coefficients, 1.0))
        >>> estimate.subset, round(estimate.value, 2)
        ('atari5', 0.85)
    """
    usable = [
        name for name, subset in SUBSETS.items() if subset.coefficients.keys() <= set(normalized)
    ]
    if not usable:
        return None
    name = min(usable, key=lambda name: SUBSETS[name].error)
    subset = SUBSETS[name]
    logarithm, variance = 0.0, subset.error**2
    for game, coefficient in subset.coefficients.items():
        scores = np.ravel(normalized[game]).astype(np.float64)
        percent = max(0.0, 100 * scores.mean())
        logarithm += coefficient * np.log10(1 + percent)
        if len(scores) > 1:
            noise = 100 * scores.std(ddof=1) / np.sqrt(len(scores))
            variance += (coefficient * noise / ((1 + percent) * np.log(10))) ** 2
    assert CONFIDENCE == 0.95
    half = 1.96 * np.sqrt(variance)
    value, low, high = (
        float(10**power - 1) / 100 for power in (logarithm, logarithm - half, logarithm + half)
    )
    return MedianEstimate(value=value, interval=(low, high), subset=name)

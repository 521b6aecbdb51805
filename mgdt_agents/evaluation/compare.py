"""Two agents side by side: which is better, and whether that is more than noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgdt_agents.evaluation.results import FEWEST_SCORES_OF_IQM, Interval, Results, run_means
from mgdt_envs.aggregates import (
    FEWEST_EPISODES,
    interval_over_episodes,
    interval_over_runs,
    iqm,
    mean,
    probability_of_improvement,
)
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.scoring import human_normalized_scores

NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A figure of two agents, and whether it tells them apart."""

    what: str
    """A game, whose raw scores are compared, or a figure over games."""
    a: float | None
    b: float | None
    value: float
    """How much A has more than B; of a probability, itself."""
    interval: Interval | None
    better: str
    """The name of an agent, or that no difference is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What two agents' scores in the same games say of each other."""

    a: str
    b: str
    over: str
    """What the intervals are over: "episodes" of the same seeds, "episodes" or "training runs"."""
    games: tuple[Difference, ...]
    overall: tuple[Difference, ...]
    """The probability that A scores more than B, and the difference of human-normalized figures."""


def compare(a: Results, b: Results, protocol: str) -> Comparison:
    """Compare two agents in the games that both have played; B beside A is A beside B mirrored.

    Args:
        a: results of one agent.
        b: results of another one under the same protocol.
        protocol: its name.

    Raises:
        ValueError: if there are several agents, no common game, or other rules.
    """
    (name_a,), (name_b,) = a.agents, b.agents
    if name_a == name_b:
        name_a, name_b = f"{name_a} (A)", f"{name_b} (B)"
    _check_rules(a, b, protocol)
    games = sorted(set(a.games) & set(b.games))
    if not games:
        raise InvalidArgument("Expected results in the same games, and there is no common one.")
    scores_a = {game: a.scores(next(iter(a.agents)), game, protocol) for game in games}
    scores_b = {game: b.scores(next(iter(b.agents)), game, protocol) for game in games}
    # Which of two columns the bootstrap draws first moves an interval's ends a little.
    mirrored = [scores.tolist() for scores in scores_b.values()] < [
        scores.tolist() for scores in scores_a.values()
    ]
    if mirrored:
        name_a, name_b, scores_a, scores_b = name_b, name_a, scores_b, scores_a
    several = all(len(scores[games[0]]) > 1 for scores in (scores_a, scores_b))
    paired = a.seeds == b.seeds and not several
    episodes = min(scores[games[0]].shape[1] for scores in (scores_a, scores_b))
    verdict = partial(_verdict, name_a, name_b)
    rows = []
    for game in games:
        x, y = scores_a[game], scores_b[game]
        if several:
            interval = interval_over_runs(
                _difference_of(mean), x.mean(axis=1)[:, None], y.mean(axis=1)[:, None]
            )
        elif paired:
            interval = interval_over_episodes(mean, {game: x.mean(axis=0) - y.mean(axis=0)})
        else:
            interval = interval_over_episodes(_difference_of(mean), {game: x}, {game: y})
        interval = _with_noise(interval, episodes)
        rows.append(_difference(game, x.mean(), y.mean(), interval, verdict(interval, 0.0)))
    comparison = Comparison(
        a=name_a,
        b=name_b,
        over="training runs" if several else "episodes" + paired * " of the same seeds",
        games=tuple(rows),
        overall=tuple(_overall(a, scores_a, scores_b, protocol, several, verdict)),
    )
    return _mirrored(comparison) if mirrored else comparison


def _overall(
    results: Results,
    scores_a: dict[str, NDArray[np.float64]],
    scores_b: dict[str, NDArray[np.float64]],
    protocol: str,
    several: bool,
    verdict: Callable[[NDArray[np.float64], float], str],
) -> list[Difference]:
    units = []
    for scores in (scores_a, scores_b):
        runs = [values.mean(axis=1) if several else values.ravel() for values in scores.values()]
        units.append(np.stack(runs, axis=1))
    probability = probability_of_improvement(*units)
    episodes = min(len(next(iter(scores.values()))[0]) for scores in (scores_a, scores_b))
    interval = _with_noise(interval_over_runs(probability_of_improvement, *units), episodes)
    unit = "run" if several else "episode"
    rows = [
        Difference(
            what=f"probability that {'a' if several else 'an'} {unit} of A scores more",
            a=None,
            b=None,
            value=float(probability),
            interval=_finite(interval),
            better=verdict(interval, 0.5),
        )
    ]
    rules = results.protocols[protocol]
    normalized_a = human_normalized_scores(scores_a, rules).scores
    normalized_b = human_normalized_scores(scores_b, rules).scores
    if normalized_a:
        means = [run_means(scores) for scores in (normalized_a, normalized_b)]
        fewest = min(values.size for values in means)
        metric, name = (iqm, "IQM") if fewest >= FEWEST_SCORES_OF_IQM else (mean, "mean")
        if several:
            interval = interval_over_runs(_difference_of(metric), *means)
        else:
            interval = interval_over_episodes(_difference_of(metric), normalized_a, normalized_b)
        interval = _with_noise(interval, episodes)
        a, b = map(metric, means)
        what, better = f"{name}, human-normalized", verdict(interval, 0.0)
        rows.append(_difference(what, a, b, interval, better))
    return rows


def _difference(
    what: str, a: Any, b: Any, interval: NDArray[np.float64], better: str
) -> Difference:
    """Return the row of a figure that both agents have."""
    a, b = float(a), float(b)
    return Difference(what=what, a=a, b=b, value=a - b, interval=_finite(interval), better=better)


def _mirrored(comparison: Comparison) -> Comparison:
    """Return the comparison of B with A."""

    def mirrored(row: Difference) -> Difference:
        whole = 1.0 if row.a is None else 0.0  # a probability, or a difference
        low, high = row.interval or (np.nan, np.nan)
        return replace(
            row,
            a=row.b,
            b=row.a,
            value=whole - row.value,
            interval=row.interval and (whole - high, whole - low),
        )

    return replace(
        comparison,
        a=comparison.b,
        b=comparison.a,
        games=tuple(map(mirrored, comparison.games)),
        overall=tuple(map(mirrored, comparison.overall)),
    )


def _check_rules(a: Results, b: Results, protocol: str) -> None:
    for results in (a, b):
        if protocol not in results.protocols:
            raise InvalidArgument(
                f"Expected results under the protocol {protocol!r}, got "
                f"{', '.join(results.protocols)}."
            )
    for name in ("protocols", "deterministic", "max_steps", "idle_steps"):
        found = [getattr(results, name) for results in (a, b)]
        if name == "protocols":
            found = [rules[protocol] for rules in found]
        if found[0] != found[1]:
            raise InvalidArgument(
                f"The results were not made under the same rules: {name} is {found[0]} and "
                f"{found[1]}."
            )


def _difference_of(metric: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: metric(x) - metric(y)


def _verdict(a: str, b: str, interval: NDArray[np.float64], equal: float) -> str:
    low, high = interval
    if low > equal:
        return a
    return b if high < equal else NO_DIFFERENCE


def _finite(interval: NDArray[np.float64]) -> Interval | None:
    low, high = map(float, interval)
    return None if np.isnan(low) else (low, high)


def _with_noise(interval: NDArray[np.float64], episodes: int) -> NDArray[np.float64]:
    """Return the interval; NaN where a few episodes of equal scores showed no noise."""
    low, high = interval
    return np.full(2, np.nan) if low == high and episodes < FEWEST_EPISODES else interval

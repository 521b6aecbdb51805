"""Two agents side by side: what is told apart, and what is not."""

import dataclasses
import json

import numpy as np
import pytest

from mgdt_agents.evaluation.compare import NO_DIFFERENCE, compare
from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_envs import AtariProtocol
from mgdt_envs.aggregates import interval_over_episodes, iqm, mean, probability_of_improvement
from mgdt_envs.scoring import human_normalized_score

GAMES = ("Pong", "Breakout", "Freeway", "Boxing")
EPISODES = 16


def make(agent, means, runs=1, first=0, noise=1.0, shared=0):
    """Return results with noise, of which `shared` is that of the seed."""
    random = np.random.default_rng([len(agent), ord(agent[0]), first])
    of_seed = np.random.default_rng(99).normal(size=(len(GAMES), EPISODES))
    return Results(
        agents={agent: AgentInfo(kind="dt", runs=runs)},
        games=GAMES,
        protocols={"default": AtariProtocol()},
        seeds=range(first, first + EPISODES),
        deterministic=False,
        versions={},
        episodes=tuple(
            Episode(
                agent=agent,
                run=run,
                game=game,
                seed=first + n,
                score=float(
                    means[g] + noise * random.normal() + shared * of_seed[g, n] + run * 0.01
                ),
                steps=1,
            )
            for run in range(runs)
            for g, game in enumerate(GAMES)
            for n in range(EPISODES)
        ),
    )


def by_name(rows):
    return {row.what: row for row in rows}


def test_difference_and_none():
    a, b = make("dt", (5, 10, 20, 3)), make("bc", (2, 10, 25, 3))
    comparison = compare(a, b, "default")
    games = by_name(comparison.games)
    assert [games[game].better for game in ("Pong", "Freeway")] == ["dt", "bc"]
    for game in ("Breakout", "Boxing"):
        assert games[game].better == NO_DIFFERENCE
        assert games[game].interval[0] < 0 < games[game].interval[1]
    assert comparison.over == "episodes of the same seeds"
    for game in GAMES:
        x, y = a.scores("dt", game)[0], b.scores("bc", game)[0]
        assert games[game].value == pytest.approx(x.mean() - y.mean())
        interval = interval_over_episodes(mean, {game: x - y})
        assert games[game].interval == pytest.approx(tuple(interval))


def test_pairs_of_episodes_share_the_noise_of_the_seed():
    a = make("dt", (1.5, 0, 0, 0), shared=30)
    b = make("bc", (0, 0, 0, 0), shared=30)
    assert by_name(compare(a, b, "default").games)["Pong"].better == "dt"
    # The same scores under other seeds are no pairs, and the noise hides the difference.
    moved = dataclasses.replace(
        b,
        seeds=range(100, 100 + EPISODES),
        episodes=tuple(dataclasses.replace(e, seed=e.seed + 100) for e in b.episodes),
    )
    comparison = compare(a, moved, "default")
    assert comparison.over == "episodes"
    assert by_name(comparison.games)["Pong"].better == NO_DIFFERENCE


def test_overall():
    a, b = make("dt", (5, 10, 20, 3)), make("bc", (2, 10, 15, 3))
    probability, normalized = compare(a, b, "default").overall
    x, y = (np.stack([r.scores(n, g)[0] for g in GAMES], 1) for r, n in ((a, "dt"), (b, "bc")))
    assert probability.value == pytest.approx(probability_of_improvement(x, y))
    assert probability.interval[0] > 0.5
    assert probability.better == "dt"
    assert "an episode of A" in probability.what
    means = [
        [human_normalized_score(g, v[:, n]).mean() for n, g in enumerate(GAMES)] for v in (x, y)
    ]
    assert normalized.what == "IQM, human-normalized"
    assert (normalized.a, normalized.b) == pytest.approx(tuple(iqm(m) for m in means))
    assert normalized.value == pytest.approx(iqm(means[0]) - iqm(means[1]))


def test_several_runs():
    a, b = make("dt", (5, 10, 20, 3), runs=3), make("bc", (2, 10, 20, 3), runs=2)
    comparison = compare(a, b, "default")
    assert comparison.over == "training runs"
    assert by_name(comparison.games)["Pong"].better == "dt"
    assert "a run of A" in comparison.overall[0].what
    json.dumps(dataclasses.asdict(comparison), allow_nan=False)


@pytest.mark.parametrize("first", [0, 100])
def test_several_runs_beside_one(first):
    """Each run plays another game well, which hides in a mean over runs."""
    a, b = make("dt", (0, 0, 0, 0), runs=3), make("bc", (6, 8, 14, 6), first=first)
    scores = {"Pong": 90.0, "Breakout": 90.0, "Freeway": 90.0}
    a = dataclasses.replace(
        a,
        episodes=tuple(
            dataclasses.replace(e, score=e.score + scores.get(e.game, 0.0))
            if GAMES[e.run] == e.game
            else e
            for e in a.episodes
        ),
    )
    for comparison in (compare(a, b, "default"), compare(b, a, "default")):
        assert comparison.over.startswith("episodes")
        for row in (*comparison.games, *comparison.overall):
            assert row.interval[0] < row.value < row.interval[1], row.what
        for results in (a, b):
            (agent,) = results.agents
            figure = results.aggregates[agent, "default"]["iqm"].value
            side = "a" if comparison.a == agent else "b"
            assert getattr(comparison.overall[-1], side) == pytest.approx(figure)
        assert comparison.overall[-1].better == "bc"


def test_equal_agents_are_told_apart_seldom():
    found = 0
    for first in range(0, 2000, 100):
        a, b = make("dt", (1, 1, 1, 1), first=first), make("bc", (1, 1, 1, 1), first=first)
        comparison = compare(a, b, "default")
        found += sum(row.better != NO_DIFFERENCE for row in comparison.games)
    assert found <= 10  # of 80, of which 4 are expected


def test_a_few_equal_scores_show_no_noise():
    few = {"noise": 0.0}
    a, b = (
        dataclasses.replace(
            results, seeds=range(2), episodes=tuple(e for e in results.episodes if e.seed < 2)
        )
        for results in (make("dt", (5, 10, 20, 3), **few), make("bc", (2, 9, 19, 2), **few))
    )
    comparison = compare(a, b, "default")
    for row in (*comparison.games, *comparison.overall):
        assert (row.interval, row.better) == (None, NO_DIFFERENCE), row.what
    a, b = make("dt", (5, 10, 20, 3), **few), make("bc", (2, 9, 19, 2), **few)
    assert {row.better for row in compare(a, b, "default").games} == {"dt"}


def test_what_cannot_be_compared():
    a, b = make("dt", (1, 1, 1, 1)), make("bc", (1, 1, 1, 1))
    with pytest.raises(ValueError, match="under the protocol 'nature', got default"):
        compare(a, b, "nature")
    other = dataclasses.replace(b, protocols={"default": AtariProtocol(sticky=0)})
    with pytest.raises(ValueError, match="not made under the same rules: protocols"):
        compare(a, other, "default")
    with pytest.raises(ValueError, match="not made under the same rules: deterministic"):
        compare(a, dataclasses.replace(b, deterministic=True), "default")
    none = dataclasses.replace(
        b, games=("Pong",), episodes=tuple(e for e in b.episodes if e.game == "Pong")
    )
    elsewhere = dataclasses.replace(
        a, games=("Boxing",), episodes=tuple(e for e in a.episodes if e.game == "Boxing")
    )
    with pytest.raises(ValueError, match="no common one"):
        compare(elsewhere, none, "default")


@pytest.mark.parametrize("runs", [1, 3])
def test_the_other_way_round_it_is_the_same(runs):
    a, b = make("dt", (5, 10, 20, 3), runs), make("bc", (4.6, 10, 21, 3.2), runs)
    b = dataclasses.replace(b, games=GAMES[::-1])
    one, other = compare(a, b, "default"), compare(b, a, "default")
    assert (one.a, one.b) == (other.b, other.a)
    for row, mirrored in zip(
        (*one.games, *one.overall), (*other.games, *other.overall), strict=True
    ):
        whole = 1 if "probability" in row.what else 0
        assert (row.a, row.b, row.better) == (mirrored.b, mirrored.a, mirrored.better)
        assert row.value == pytest.approx(whole - mirrored.value)
        low, high = mirrored.interval
        assert row.interval == pytest.approx((whole - high, whole - low))

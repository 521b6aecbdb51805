"""The results of a benchmark: what follows from the episodes, and the file that keeps them."""

import dataclasses
import json

import numpy as np
import pytest

from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_envs import AtariProtocol
from mgdt_envs.aggregates import (
    AGGREGATES,
    interval_over_episodes,
    interval_over_runs,
    mean,
)
from mgdt_envs.scoring import human_normalized_score

GAMES = ("Pong", "Breakout", "Carnival", "Freeway", "Boxing")
WITH_REFERENCE = tuple(game for game in GAMES if game != "Carnival")
SEEDS = range(40, 46)


def make(runs=1, games=GAMES, seeds=SEEDS, protocols=("default",), agents=("dt",), spread=1.0):
    random = np.random.default_rng(0)
    return Results(
        agents={agent: AgentInfo(kind="dt", runs=runs, parameters=7) for agent in agents},
        games=games,
        protocols={name: AtariProtocol(stack=4) for name in protocols},
        seeds=seeds,
        deterministic=False,
        versions={"mgdt": "9.8.7", "ale-py": "6.5.4"},
        episodes=tuple(
            Episode(
                agent=agent,
                run=run,
                protocol=protocol,
                game=game,
                seed=seed,
                score=round(random.normal(10, spread), 2),
                steps=int(random.integers(100)),
                end="truncated" if seed % 2 else "terminated",
            )
            for agent in agents
            for run in range(runs)
            for protocol in protocols
            for game in games
            for seed in reversed(seeds)
        ),
    )


def test_scores_are_by_run_and_seed():
    results = make(runs=2, agents=("dt", "bc"))
    scores = results.scores("bc", "Boxing")
    assert scores.shape == (2, 6)
    for episode in results.episodes:
        if (episode.agent, episode.game) == ("bc", "Boxing"):
            assert scores[episode.run, episode.seed - 40] == episode.score
    assert not np.array_equal(results.scores("dt", "Boxing"), scores)


def test_one_run_has_intervals_over_episodes():
    results = make()
    for game in GAMES:
        (scores,) = results.scores("dt", game)
        summary = results.summaries["dt", "default", game]
        assert summary.mean == pytest.approx(scores.mean())
        assert summary.interval == tuple(interval_over_episodes(mean, {game: scores}))
        if game == "Carnival":
            assert summary.human_normalized is None
        else:
            assert summary.human_normalized == pytest.approx(
                human_normalized_score(game, scores.mean())
            )
    normalized = {
        game: human_normalized_score(game, results.scores("dt", game)[0]) for game in WITH_REFERENCE
    }
    figures = results.aggregates["dt", "default"]
    assert set(figures) == set(AGGREGATES)
    for name, metric in AGGREGATES.items():
        value = metric([scores.mean() for scores in normalized.values()])
        assert figures[name].value == pytest.approx(value)
        assert figures[name].interval == tuple(interval_over_episodes(metric, normalized))
        assert (figures[name].games, figures[name].scores) == (4, 4)
    assert results.left_out() == {"Carnival": "Carnival has no published human score"}


def test_several_runs_have_intervals_over_runs():
    results = make(runs=3)
    means = np.stack(
        [
            human_normalized_score(game, results.scores("dt", game)).mean(axis=1)
            for game in WITH_REFERENCE
        ],
        axis=1,
    )
    for name, metric in AGGREGATES.items():
        figure = results.aggregates["dt", "default"][name]
        assert figure.value == pytest.approx(metric(means))
        assert figure.interval == pytest.approx(tuple(interval_over_runs(metric, means)))
        assert (figure.games, figure.scores) == (4, 12)
    scores = results.scores("dt", "Pong")
    expected = interval_over_runs(mean, scores.mean(axis=1, keepdims=True))
    assert results.summaries["dt", "default", "Pong"].interval == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("games", "runs", "headline"),
    [(4, 1, "iqm"), (3, 1, "mean"), (2, 2, "iqm"), (1, 3, "mean")],
)
def test_the_mean_of_few_scores_is_not_called_iqm(games, runs, headline):
    results = make(runs=runs, games=WITH_REFERENCE[:games])
    assert results.headline() == headline
    assert ("iqm" in results.aggregates["dt", "default"]) == (headline == "iqm")


def test_single_episode_has_no_interval():
    results = make(seeds=range(5, 6))
    assert {summary.interval for summary in results.summaries.values()} == {None}
    assert {figure.interval for figure in results.aggregates["dt", "default"].values()} == {None}


def test_games_without_reference_have_no_aggregates():
    results = make(games=("Carnival",))
    assert results.aggregates["dt", "default"] == {}


@pytest.mark.parametrize("options", [{}, {"runs": 2, "protocols": ("default", "nature")}])
def test_file(tmp_path, options):
    results = make(agents=("dt", "a [b]"), **options)
    results = dataclasses.replace(
        results,
        agents={
            **results.agents,
            "a [b]": AgentInfo(
                kind="bc",
                runs=options.get("runs", 1),
                trained_on=("Pong",),
                trained_under=AtariProtocol(sticky=0),
            ),
        },
    )
    results.save(tmp_path / "results.json")
    read = Results.load(tmp_path / "results.json")
    assert read.to_dict() == results.to_dict()
    assert set(read.episodes) == set(results.episodes)
    assert dict(read.agents) == dict(results.agents)
    assert dict(read.protocols) == dict(results.protocols)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["rows"][0]["mean"] == results.summaries["dt", "default", "Pong"].mean
    # What follows from the episodes is computed, not believed.
    content["rows"][0]["mean"] = 1e9
    assert Results.from_dict(content).summaries["dt", "default", "Pong"].mean < 1e3


def test_some_agents_alone():
    results = make(agents=("dt", "bc"))
    alone = results.of("bc")
    assert list(alone.agents) == ["bc"]
    assert alone.summaries["bc", "default", "Pong"] == results.summaries["bc", "default", "Pong"]


def test_missing_and_repeated_episodes_are_refused():
    results = make()
    for episodes in (results.episodes[1:], results.episodes + results.episodes[:1]):
        damaged = dataclasses.replace(results, episodes=episodes)
        with pytest.raises(ValueError, match="each seed 40 to 45 of dt, default, Pong, run 0"):
            damaged.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("format"), "say so in 'format'"),
        (lambda content: content.update(version=1), "Expected version 2 .* got 1"),
        (lambda content: content.pop("rows"), "damaged: KeyError\\('rows'\\)"),
        (lambda content: content["rows"].pop(), "an episode of each seed"),
        (lambda content: content["rows"][0]["scores"][0].pop(), "damaged"),
        (lambda content: content["rows"][0].update(game="Pang"), "damaged|Unknown game"),
        (lambda content: content["versions"].pop("ale-py"), "damaged: KeyError\\('ale-py'\\)"),
        (lambda content: content.update(agents={}), "Expected the results of an agent"),
        (
            lambda content: [
                content["rows"][0][name].append(content["rows"][0][name][0])
                for name in ("scores", "steps", "ends")
            ],
            "damaged: IndexError",
        ),
        (lambda content: content["protocols"]["default"].update(skip=4), "Unknown fields"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    content = json.loads(json.dumps(make().to_dict()))
    change(content)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_of_results(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(ValueError, match=r"Cannot read results from .*No such file"):
        Results.load(path)
    for text in ("{", "[]", '"results"'):
        path.write_text(text)
        with pytest.raises(ValueError, match="results"):
            Results.load(path)

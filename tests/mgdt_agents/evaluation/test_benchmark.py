"""The benchmark's results: what was played, summed and normalised."""

import dataclasses
import json
from importlib.metadata import version

import numpy as np
import pytest

from mgdt_agents import load_agent
from mgdt_agents.agent import Agent
from mgdt_agents.evaluation import BenchmarkConfig, rollout, run_benchmark
from mgdt_envs import AtariProtocol, __version__
from mgdt_envs.aggregates import (
    interval_over_episodes,
    iqm,
    mean,
    median,
    optimality_gap,
)
from mgdt_envs.scoring import human_normalised_score

# Sixty steps an episode.
PROTOCOL = AtariProtocol(max_frames=240)
# Carnival has no human reference.
GAMES = ("Riverraid", "Boxing", "Carnival")


class OneActionAgent(Agent):
    """Does the same always."""

    kind = "one-action"

    def __init__(self, action, games=()):
        super().__init__(games, PROTOCOL)
        self.action = action

    def _act(self, observations, state, starts, rewards, deterministic):
        return np.full(len(observations), self.action), None


@pytest.fixture(scope="module")
def config():
    return BenchmarkConfig(games=GAMES, episodes=2, seed=20, protocol=PROTOCOL)


@pytest.fixture(scope="module")
def results(config):
    agents = {"fire": OneActionAgent(1, ["Boxing"]), "noop": OneActionAgent(0)}
    return run_benchmark(agents, config)


def test_scores_are_those_of_the_rollout(results):
    keys = [(game, seed) for game in GAMES for seed in (20, 21)]
    scores, lengths = dict.fromkeys(keys, 0.0), dict.fromkeys(keys, 0)
    for step in rollout(OneActionAgent(1), GAMES, episodes=2, seed=20, protocol=PROTOCOL):
        for game, seed, reward in zip(step.games, step.seeds, step.rewards, strict=True):
            scores[game, seed] += reward
            lengths[game, seed] += 1
    games = results["agents"]["fire"]["games"]
    assert list(games) == list(GAMES)
    for game in GAMES:
        assert games[game]["scores"] == [scores[game, 20], scores[game, 21]]
        assert games[game]["lengths"] == [lengths[game, 20], lengths[game, 21]] == [60, 60]
    assert games["Riverraid"]["mean"] > 0
    assert results["agents"]["noop"]["games"] != games


def test_summaries(results):
    for agent in results["agents"].values():
        for game, summary in agent["games"].items():
            scores = np.array(summary["scores"])
            assert summary["mean"] == scores.mean()
            assert summary["interval"] == interval_over_episodes(mean, {game: scores}).tolist()
            assert summary["interval"][0] <= summary["mean"] <= summary["interval"][1]
            if game == "Carnival":
                assert summary["human_normalised"] is None
            else:
                expected = human_normalised_score(game, scores.mean())
                assert summary["human_normalised"] == pytest.approx(expected)
        normalised = {
            game: human_normalised_score(game, agent["games"][game]["scores"])
            for game in ("Riverraid", "Boxing")
        }
        means = [scores.mean() for scores in normalised.values()]
        metrics = {
            "iqm": iqm,
            "mean": mean,
            "median": median,
            "optimality_gap": optimality_gap,
        }
        for name, metric in metrics.items():
            assert agent[name] == {
                "value": metric(means),
                "interval": interval_over_episodes(metric, normalised).tolist(),
                "games": 2,
            }
        assert agent["left_out"] == {"Carnival": "Carnival has no published human score"}


def test_what_the_results_say_of_themselves(results):
    assert (results["format"], results["version"]) == ("mgdt-results", 1)
    assert AtariProtocol.from_dict(results["protocol"]) == PROTOCOL
    assert (results["episodes"], results["seed"], results["deterministic"]) == (2, 20, False)
    assert results["intervals"]["over"] == "episodes"
    assert results["versions"]["mgdt"] == __version__
    assert results["versions"]["ale-py"] == version("ale-py")
    assert results["agents"]["fire"]["trained_on"] == ["Boxing"]
    assert results["agents"]["noop"]["trained_on"] == []
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_repeated_benchmark_gives_the_same_results():
    short = BenchmarkConfig(games=("Riverraid",), episodes=1, seed=3, protocol=PROTOCOL)
    agents = {"random": load_agent("random")}
    first = run_benchmark(agents, short)
    assert run_benchmark(agents, short) == first
    other = dataclasses.replace(short, seed=5)
    assert run_benchmark(agents, other)["agents"] != first["agents"]


def test_single_episode_has_no_interval():
    config = BenchmarkConfig(games=("Riverraid", "Carnival"), episodes=1, protocol=PROTOCOL)
    results = run_benchmark({"fire": OneActionAgent(1)}, config)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    agent = results["agents"]["fire"]
    assert [summary["interval"] for summary in agent["games"].values()] == [None, None]
    for name in ("iqm", "mean", "median", "optimality_gap"):
        assert agent[name]["interval"] is None
    assert agent["iqm"]["value"] == agent["games"]["Riverraid"]["human_normalised"]


def test_games_without_reference_have_no_iqm():
    config = BenchmarkConfig(games=("Carnival",), episodes=1, protocol=PROTOCOL)
    agent = run_benchmark({"fire": OneActionAgent(1)}, config)["agents"]["fire"]
    assert agent["iqm"] is agent["mean"] is agent["median"] is agent["optimality_gap"] is None


def test_episodes_that_end_with_a_life_are_not_normalised():
    protocol = AtariProtocol(life_loss_ends=True, max_frames=240)
    config = BenchmarkConfig(games=("Breakout",), episodes=1, protocol=protocol)
    agent = run_benchmark({"fire": OneActionAgent(1)}, config)["agents"]["fire"]
    assert agent["games"]["Breakout"]["lengths"][0] < 60
    assert agent["games"]["Breakout"]["human_normalised"] is None
    assert agent["iqm"] is None
    assert "lost life" in agent["left_out"]["Breakout"]


def test_on_step_sees_every_step():
    seen = {"a": 0, "b": 0}

    def count(name, step):
        seen[name] += len(step.actions)

    short = BenchmarkConfig(games=("Riverraid",), episodes=1, protocol=PROTOCOL)
    results = run_benchmark({"a": OneActionAgent(0), "b": OneActionAgent(1)}, short, count)
    for name, agent in results["agents"].items():
        assert seen[name] == sum(agent["games"]["Riverraid"]["lengths"])

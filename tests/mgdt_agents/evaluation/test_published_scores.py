"""Published scores: they are those of their sources, and keep what one must know."""

import json

import numpy as np
import pytest

from mgdt_agents.evaluation.published_scores import load_published, published_tables
from mgdt_envs import suite
from mgdt_envs.aggregates import iqm
from mgdt_envs.atari_subsets import SUBSETS, estimate_atari57_median
from mgdt_envs.scoring import human_normalized_score, human_normalized_scores

# Medians in percent, as published in the papers.
MEDIANS = {"MuZero": 2041.1, "IMPALA (deep)": 191.8, "Ape-X": 434.1}


def test_tables():
    assert published_tables() == ("atari57", "jowa15")
    for name in published_tables():
        for agent in load_published(name):
            assert agent.source
            assert agent.protocol


def test_jowa_s_games_give_the_published_iqm():
    agents = {agent.name: agent for agent in load_published("jowa15")}
    assert len(agents) == 10
    published = {"MGDT 200M": 0.490, "Scaled QL 80M": 0.390, "JOWA 150M with search": 0.847}
    for name, expected in published.items():
        scores = agents[name].scores
        assert len(scores) == 15
        normalized = human_normalized_scores(scores).scores
        # JOWA's own reference where none is published.
        carnival = (scores["Carnival"] - 700.8) / (3800 - 700.8)
        assert set(scores) - set(normalized) == {"Carnival"}
        assert iqm([*normalized.values(), carnival]) == pytest.approx(expected, abs=5e-4)
    assert "per game at test time" in agents["JOWA 150M with search"].note


def test_atari57_medians():
    agents = {agent.name: agent for agent in load_published("atari57")}
    for agent in agents.values():
        assert set(agent.scores) == set(suite("atari57"))
    for name, percent in MEDIANS.items():
        normalized = human_normalized_scores(agents[name].scores).scores
        assert 100 * np.median(list(normalized.values())) == pytest.approx(percent, rel=0.002)


@pytest.mark.parametrize("name", ["atari5", "atari10"])
def test_estimates_agree_with_published_medians_to_the_stated_error(name):
    errors, inside = [], []
    for agent in load_published("atari57"):
        normalized = human_normalized_scores(agent.scores).scores
        median = np.median(list(normalized.values()))
        estimate = estimate_atari57_median({game: normalized[game] for game in suite(name)})
        assert estimate.subset == name
        errors.append(np.log10(1 + 100 * estimate.value) - np.log10(1 + 100 * median))
        inside.append(estimate.interval[0] <= median <= estimate.interval[1])
    assert np.sqrt(np.mean(np.square(errors))) < 1.1 * SUBSETS[name].error
    assert np.mean(inside) > 0.85


def test_own_tables(tmp_path):
    path = tmp_path / "mine.json"
    content = {
        "source": "a paper",
        "protocol": "its rules",
        "agents": [{"name": "A", "scores": {"pong": 14.6}}],
    }
    path.write_text(json.dumps(content))
    (agent,) = load_published(path)
    assert (agent.name, agent.source, agent.note) == ("A", "a paper", "")
    assert human_normalized_score("Pong", agent.scores["Pong"]) == 1
    with pytest.raises(ValueError, match=r"Unknown table of scores 'jowa'.*Did you mean 'jowa15'"):
        load_published("jowa")
    for damaged in ({"agents": []}, {**content, "agents": [{"name": "A"}]}, []):
        path.write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match="no table of published scores"):
            load_published(path)
    for agent, message in (
        ({"name": "A", "scores": {"Pang": 1}}, "'Pang'"),
        ({"name": "A", "scores": {"atari5": 1}}, "'atari5'"),
        ({"name": "A", "scores": {"Pong": float("nan")}}, "finite scores of 'A', got nan"),
        ({"name": 7, "scores": {"Pong": 1}}, "Expected name of a published agent to be a text"),
        ({"name": "A", "scores": {"Pong": 1}, "note": 5}, "Expected note of .*, got 5"),
    ):
        path.write_text(json.dumps({**content, "agents": [agent]}))
        with pytest.raises(ValueError, match=message):
            load_published(path)

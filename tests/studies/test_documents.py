"""The tables of scores in README and cards: they are those of the committed results."""

import pytest

from mgdt_agents.evaluation.results import Results
from mgdt_agents.registry import bundled_agents
from mgdt_envs.seeds import BENCHMARK_SEED
from tests.studies import documents


@pytest.fixture(scope="module")
def results():
    return Results.load(documents.RESULTS)


def test_documents_hold_the_committed_results(results):
    wanted = documents.documents(results)
    assert len(wanted) == len(bundled_agents()) + 2 + len(documents.KEPT)
    for path, text in wanted.items():
        assert path.read_text() == text, f"{path}: make it anew, as {documents.__name__} says"


def test_results_are_of_the_agents_that_come_with_the_package(results):
    assert {*results.agents, "impala"} == {*bundled_agents(), "random"}
    assert results.seeds.start == BENCHMARK_SEED
    for agent in {*results.agents} - {"random"}:
        assert results.agents[agent].kind == agent.split("-")[0]
        summary = results.summaries[agent, "default", "Pong"]
        assert f"{summary.mean:.1f} [" in documents.card_scores(results, agent)


def test_scores_take_the_place_between_the_marks():
    text = "a\n<!-- scores -->\nold\n<!-- /scores -->\nb\n"
    assert (
        documents.with_scores(text, r"n\1w") == "a\n<!-- scores -->\nn\\1w\n<!-- /scores -->\nb\n"
    )
    for bad in ("a", text + text):
        with pytest.raises(ValueError, match="one pair of marks"):
            documents.with_scores(bad, "new")

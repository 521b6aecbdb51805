"""Tables of scores in documents, made from a `results.json`.

`python -m tests.studies.documents results/<folder>/results.json` keeps the results beside
the pretrained agents, and makes the tables of their cards, of the README and of docs/results.md
anew. The card of an agent with a `results.json` of its own, which plays other games, has the table
of that. A table stands between two marks, which do not show:

    <!-- scores -->
    <!-- /scores -->
"""

import argparse
import re
from pathlib import Path

from mgdt_agents.evaluation.report import (
    counted,
    intervals_over,
    markdown_by_game,
    markdown_of_agent,
    protocol_sheet,
)
from mgdt_agents.evaluation.results import Results
from mgdt_agents.registry import PRETRAINED, bundled_agents
from mgdt_envs import suite
from mgdt_envs.errors import InvalidArgument

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
RESULTS = PRETRAINED / "results.json"
KEPT = {
    DOCS / "three_games.md": DOCS / "experiment/results/comparison.json",
    DOCS / "impala.md": PRETRAINED / "impala" / RESULTS.name,
    DOCS / "planning.md": DOCS / "experiment/results/planning.json",
}
"""Documents that have a table of other results, which are kept, and those."""
REFERENCE_AGENT = "random"
"""Who stands beside an agent in its card."""

BEGIN, END = "<!-- scores -->", "<!-- /scores -->"


def readme_scores(results: Results) -> str:
    """Return what the README says of the pretrained agents' scores."""
    table = markdown_by_game(results)
    return f"{_heading(results)}\n\n{table}\n\nProtocol: {protocol_sheet(results)}."


def card_scores(results: Results, agent: str) -> str:
    """Return what the card of a pretrained agent says of its scores."""
    beside = results.of(agent, REFERENCE_AGENT)
    table = markdown_of_agent(results, agent, REFERENCE_AGENT)
    return f"{_heading(results)}\n\n{table}\n\nProtocol: {protocol_sheet(beside)}."


def with_scores(text: str, scores: str) -> str:
    """Return a document with `scores` between its marks.

    Raises:
        ValueError: if it has not one pair of marks.
    """
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(marked.findall(text)) != 1:
        raise InvalidArgument(f"Expected one pair of marks {BEGIN} ... {END}.")
    return marked.sub(lambda _: f"{BEGIN}\n{scores}\n{END}", text)


def documents(results: Results) -> dict[Path, str]:
    """Return README, documents and cards as they ought to be, by path."""
    wanted = dict.fromkeys((REPOSITORY / "README.md", DOCS / "results.md"), readme_scores(results))
    for document, kept in KEPT.items():
        wanted[document] = readme_scores(Results.load(kept))
    for agent in bundled_agents():
        own = PRETRAINED / agent / RESULTS.name
        of_agent = Results.load(own) if own.exists() else results
        wanted[PRETRAINED / agent / "card.md"] = card_scores(of_agent, agent)
    return {
        path: with_scores(path.read_text(encoding="utf-8"), scores)
        for path, scores in wanted.items()
    }


def _heading(results: Results) -> str:
    options = {"agents": ",".join(results.agents)}
    if results.games != suite("bundled"):
        options["games"] = ",".join(results.games)
    options["episodes"] = str(len(results.seeds))
    if results.idle_steps is not None:
        options["idle-steps"] = str(results.idle_steps)
    command = " ".join(f"--{name} {value}" for name, value in options.items())
    return (
        f"`mgdt-bench {command}`: mean score of "
        f"{counted(len(results.seeds), 'episode')} a game and its 95 % interval over "
        f"{intervals_over(results)}."
    )


def main() -> None:
    """Write the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    results = Results.load(parser.parse_args().results)
    for path, text in documents(results).items():
        path.write_text(text, encoding="utf-8")
    results.save(RESULTS)


if __name__ == "__main__":
    main()

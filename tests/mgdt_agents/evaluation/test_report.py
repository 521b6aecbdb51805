"""Results as lines for programs, as a table for people, and as Markdown."""

import csv
import dataclasses
import io

import pytest
from rich.console import Console

from mgdt_agents.evaluation.published_scores import PublishedAgent
from mgdt_agents.evaluation.report import (
    markdown_by_game,
    markdown_of_agent,
    protocol_sheet,
    results_lines,
    results_table,
)
from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_envs import AtariProtocol

COLUMNS = [*("agent", "protocol", "game", "mean", "low", "high", "human_normalized", "episodes")]
SCORES = {
    "dt": {"Pong": (-20.7, -6.7), "AirRaid": (1234.0, 1234.5)},
    "runs/my[run]": {"Pong": (14.6, 14.6), "AirRaid": (1e6, 1e6)},
}


def make(scores=SCORES, protocols=None, runs=1, **infos):
    protocols = protocols or {"default": AtariProtocol(sticky=0.125)}
    first = next(iter(scores.values()))
    return Results(
        agents={agent: infos.get(agent, AgentInfo(kind="dt", runs=runs)) for agent in scores},
        games=tuple(first),
        protocols=protocols,
        seeds=range(100, 100 + len(next(iter(first.values())))),
        deterministic=False,
        versions={"mgdt": "9.8.7", "ale-py": "6.5.4"},
        episodes=tuple(
            Episode(
                agent=agent, run=run, protocol=protocol, game=game, seed=100 + n, score=s, steps=1
            )
            for protocol in protocols
            for agent, games in scores.items()
            for run in range(runs)
            for game, values in games.items()
            for n, s in enumerate(values)
        ),
    )


@pytest.fixture
def results():
    return make()


@pytest.fixture
def single():
    """A single episode a game."""
    return make(
        {agent: {game: s[:1] for game, s in games.items()} for agent, games in SCORES.items()}
    )


@pytest.fixture
def four_games():
    scores = {"Pong": (14.6,), "Breakout": (30.5,), "Freeway": (0.0,), "Boxing": (12.1,)}
    return make({"dt": scores, "bc": scores})


def score(results, agent, game, protocol="default"):
    """Return the cell of a score: the mean and its interval."""
    summary = results.summaries[agent, protocol, game]
    return "{:,.1f} [{:,.1f}, {:,.1f}]".format(summary.mean, *summary.interval)


def overall(results, agent, name="mean"):
    """Return the cell of a figure over games."""
    figure = results.aggregates[agent, "default"][name]
    return "{:.1%} [{:.1%}, {:.1%}]".format(figure.value, *figure.interval)


def parsed(results):
    text = io.StringIO("\n".join(results_lines(results)))
    return list(csv.DictReader(text, delimiter="\t"))


def rendered(results, width=200):
    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(results_table(results))
    return console.file.getvalue()


def test_lines(results):
    rows = parsed(results)
    assert list(rows[0]) == COLUMNS
    assert [(row["agent"], row["game"]) for row in rows] == [
        (agent, game) for agent in ("dt", "runs/my[run]") for game in ("Pong", "AirRaid", "mean")
    ]
    assert all(None not in row and None not in row.values() for row in rows)
    assert {row["episodes"] for row in rows} == {"2"}
    assert {row["protocol"] for row in rows} == {"default"}
    for row in rows:
        agent, game = row["agent"], row["game"]
        if game == "mean":
            figure = results.aggregates[agent, "default"]["mean"]
            expected = [figure.value, *figure.interval, figure.value]
        else:
            summary = results.summaries[agent, "default", game]
            expected = [summary.mean, *summary.interval, summary.human_normalized]
        found = [row[name] for name in COLUMNS[3:7]]
        assert found == ["" if value is None else f"{value:.6g}" for value in expected]
    assert float(rows[0]["mean"]) == -13.7
    assert rows[1]["human_normalized"] == ""


def test_lines_of_a_single_episode(single):
    for row in parsed(single):
        assert (row["low"], row["high"]) == ("", "")
        assert row["mean"]


def test_lines_call_the_mean_of_the_middle_half_iqm(four_games):
    assert [row["game"] for row in parsed(four_games)].count("IQM") == 2
    (row,) = [row for row in parsed(four_games.of("dt")) if row["game"] == "IQM"]
    assert float(row["mean"]) == 1  # the lowest is left out


def line_with(text, *parts):
    """Return whether one line of `text` has all the parts, in their order."""
    for line in text.splitlines():
        places = [line.find(part) for part in parts]
        if -1 not in places and places == sorted(places):
            return True
    return False


def test_table(results):
    text = rendered(results)
    assert "2 episodes a game" in text
    assert "interval over episodes" in text
    assert line_with(text, "Pong", "dt", score(results, "dt", "Pong"), "19.8%", "-20.7 / 14.6")
    assert line_with(text, "runs/my[run]", "14.6 [14.6, 14.6]", "100.0%")
    assert line_with(text, "AirRaid", "dt", score(results, "dt", "AirRaid"), "no reference")
    assert line_with(text, "1,000,000.0 [1,000,000.0, 1,000,000.0]", "no reference")
    assert line_with(text, "mean of 1 game ", "dt", overall(results, "dt"))
    assert line_with(text, "runs/my[run]", "100.0% [100.0%, 100.0%]")
    # The mean stands above already.
    assert line_with(text, "median, gap", "dt", "19.8%, 80.2%")
    assert "sticky 0.125" in text
    assert "IQM" not in text


def test_zeros_have_no_sign():
    text = rendered(make({"dt": {"Pong": (-0.04, -0.04), "Breakout": (1.69, 1.69)}}))
    assert line_with(text, "Pong", "0.0 [0.0, 0.0]")
    assert line_with(text, "Breakout", "1.7 [1.7, 1.7]", "0.0%")
    assert "-0.0" not in text


def test_table_says_what_agents_cost():
    known = AgentInfo(kind="dt", parameters=1_234, decisions_per_second=99.7)
    text = rendered(make(dt=known))
    assert line_with(text, "parameters / windows / decisions/s", "dt", "1,234 / - / 100")
    assert text.count(" / - / ") == 1  # nothing is known of the other
    assert "decisions" not in rendered(make())


def test_table_with_iqm(four_games):
    text = rendered(four_games)
    assert line_with(text, "IQM of 4 games", "dt", "100.0%")
    assert line_with(text, "mean, median, gap", "dt", "75.0%, 100.0%, 25.0%")


def test_table_without_intervals(single):
    text = rendered(single)
    assert "1 episode a game" in text
    assert line_with(text, "Pong", "dt", "-20.7", "0.0%")
    assert "[-" not in text
    assert "nan" not in text.lower()


def test_table_without_references():
    text = rendered(make({"dt": {"AirRaid": (5.0,)}}))
    assert "5.0" in text
    assert "mean of" not in text
    assert "median" not in text


def test_table_of_several_protocols():
    rules = {"default": AtariProtocol(), "mgdt_release": AtariProtocol.mgdt_release()}
    results = make(protocols=rules)
    # Other scores under the second.
    episodes = [
        dataclasses.replace(episode, score=7.0) if episode.protocol == "mgdt_release" else episode
        for episode in results.episodes
    ]
    text = rendered(dataclasses.replace(results, episodes=tuple(episodes)), width=250)
    assert line_with(text, "score, default", "score, mgdt_release")
    assert line_with(
        text, "Pong", "dt", score(results, "dt", "Pong"), "19.8%", "7.0 [7.0, 7.0]", "78.5%"
    )
    assert "default: sticky 0.25" in text
    assert "mgdt_release: sticky 0 " in text


def test_several_runs():
    text = rendered(make(runs=3))
    assert "interval over training runs" in text
    assert "3 training runs an agent" in text
    results = make(dt=AgentInfo(kind="dt", runs=1), runs=1)
    assert "1 training run an agent" in protocol_sheet(results)


def test_shortened_games_are_marked(results):
    assert "*" not in rendered(results)
    short = make(protocols={"default": AtariProtocol(max_frames=4000)})
    text = rendered(short)
    assert "human-normalized*" in text
    assert "* the references are of 108,000 frames" in text
    assert "human-normalized*" in markdown_by_game(short)
    assert "human-normalized*" in markdown_of_agent(short, "dt")


def test_markdown_by_game(results):
    assert markdown_by_game(results).splitlines() == [
        "| game | dt | runs/my[run] | human |",
        "| --- | --- | --- | --- |",
        f"| Pong | {score(results, 'dt', 'Pong')} | 14.6 [14.6, 14.6] | 14.6 |",
        f"| AirRaid | {score(results, 'dt', 'AirRaid')} "
        "| 1,000,000.0 [1,000,000.0, 1,000,000.0] |  |",
        f"| mean, human-normalized | {overall(results, 'dt')} | 100.0% [100.0%, 100.0%] | 100% |",
    ]


def test_markdown_of_an_agent(results):
    assert markdown_of_agent(results, "dt", "runs/my[run]").splitlines() == [
        "| game | dt | runs/my[run] | human-normalized |",
        "| --- | --- | --- | --- |",
        f"| Pong | {score(results, 'dt', 'Pong')} | 14.6 [14.6, 14.6] | 19.8% |",
        f"| AirRaid | {score(results, 'dt', 'AirRaid')} | 1,000,000.0 [1,000,000.0, 1,000,000.0] "
        "| no reference |",
        f"| mean of 1 game |  |  | {overall(results, 'dt')} |",
    ]
    assert markdown_of_agent(results, "dt").splitlines()[2] == (
        f"| Pong | {score(results, 'dt', 'Pong')} | 19.8% |"
    )


def test_protocol_sheet(results):
    sheet = protocol_sheet(results)
    for part in (
        "mgdt 9.8.7",
        "ale-py 6.5.4",
        AtariProtocol(sticky=0.125).sheet(),
        "sampled actions",
        "seeds 100 to 101",
        "1 training run an agent",
        "not human-normalized: AirRaid",
    ):
        assert f" · {part} · " in f" · {sheet} · ", part
    assert "likeliest actions" in protocol_sheet(dataclasses.replace(results, deterministic=True))
    assert "any game" in protocol_sheet(make({"dt": {"AirRaid": (5.0,)}}))
    assert "not human-normalized" not in protocol_sheet(make({"dt": {"Pong": (5.0,)}}))


def test_sheet_tells_once_where_published_scores_are_from(results):
    known = {"scores": {"Pong": 1.0}, "source": "a paper", "protocol": "their rules"}
    others = [PublishedAgent(name=name, note="", **known) for name in ("A", "B")]
    others.append(PublishedAgent(name="C", note="tuned", **known))
    sheet = protocol_sheet(dataclasses.replace(results, published=tuple(others)))
    assert " · † A, B: published, a paper; their rules · † C: published, a paper; " in sheet
    assert sheet.endswith("their rules; tuned")


def test_sheet_names_who_was_trained_under_other_rules():
    same, other = AtariProtocol(sticky=0.125), AtariProtocol()
    for rules, expected in ((same, False), (other, True), (None, False)):
        results = make(dt=AgentInfo(kind="dt", trained_under=rules))
        assert ("trained under other rules: dt" in protocol_sheet(results)) == expected

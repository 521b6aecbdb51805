"""Results as lines for programs and as a table for people."""

import csv
import io

import pytest
from rich.console import Console

from mgdt_agents.evaluation.report import protocol_sheet, results_lines, results_table
from mgdt_envs import AtariProtocol

COLUMNS = ["agent", "game", "mean", "low", "high", "human_normalised", "episodes"]


@pytest.fixture
def results():
    def agent(pong, air_raid, iqm):
        return {
            "trained_on": [],
            "games": {
                "Pong": {"mean": pong, "interval": [pong - 1, pong + 2], "human_normalised": iqm},
                "AirRaid": {
                    "mean": air_raid,
                    "interval": [air_raid, air_raid],
                    "human_normalised": None,
                },
            },
            "iqm": {"value": iqm, "interval": [iqm - 0.25, iqm + 0.5], "games": 1},
            "mean": {"value": iqm + 0.125, "interval": None, "games": 1},
            "median": {"value": iqm + 0.25, "interval": None, "games": 1},
            "optimality_gap": {"value": 0.375, "interval": None, "games": 1},
        }

    return {
        "protocol": AtariProtocol(sticky=0.125).to_dict(),
        "versions": {"mgdt": "9.8.7", "ale-py": "6.5.4"},
        "episodes": 17,
        "seed": 100,
        "deterministic": False,
        "agents": {"dt": agent(-3.5, 1234.25, 0.5), "runs/my[run]": agent(19.0, 1e6, 1.25)},
    }


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
        (agent, game) for agent in ("dt", "runs/my[run]") for game in ("Pong", "AirRaid", "IQM")
    ]
    assert all(None not in row and None not in row.values() for row in rows)
    assert {row["episodes"] for row in rows} == {"17"}
    figures = [[float(row[name]) if row[name] else None for name in COLUMNS[2:6]] for row in rows]
    assert figures == [
        [-3.5, -4.5, -1.5, 0.5],
        [1234.25, 1234.25, 1234.25, None],
        [0.5, 0.25, 1.0, 0.5],
        [19.0, 18.0, 21.0, 1.25],
        [1e6, 1e6, 1e6, None],
        [1.25, 1.0, 1.75, 1.25],
    ]


def test_lines_of_a_single_episode(results):
    for agent in results["agents"].values():
        for summary in [*agent["games"].values(), agent["iqm"]]:
            summary["interval"] = None
    for row in parsed(results):
        assert (row["low"], row["high"]) == ("", "")
        assert row["mean"]


def test_lines_without_iqm(results):
    results["agents"]["dt"]["iqm"] = None
    assert [row["game"] for row in parsed(results)] == [
        *("Pong", "AirRaid"),
        *("Pong", "AirRaid", "IQM"),
    ]


def line_with(text, *parts):
    """Return whether one line of `text` has all the parts, in their order."""
    for line in text.splitlines():
        places = [line.find(part) for part in parts]
        if -1 not in places and places == sorted(places):
            return True
    return False


def test_table(results):
    text = rendered(results)
    assert "17 episodes a game" in text
    assert line_with(text, "Pong", "dt", "-3.5 [-4.5, -1.5]", "50.0%", "-20.7 / 14.6")
    assert line_with(text, "runs/my[run]", "19.0 [18.0, 21.0]", "125.0%")
    assert line_with(text, "AirRaid", "dt", "1,234.2 [1,234.2, 1,234.2]", "no reference")
    assert line_with(text, "1,000,000.0 [1,000,000.0, 1,000,000.0]", "no reference")
    assert line_with(text, "IQM of 1 games", "dt", "50.0% [25.0%, 100.0%]")
    assert line_with(text, "runs/my[run]", "125.0% [100.0%, 175.0%]")
    assert line_with(text, "mean, median, gap", "dt", "62.5%, 75.0%, 37.5%")
    assert line_with(text, "runs/my[run]", "137.5%, 150.0%, 37.5%")
    assert "sticky 0.125" in text


def test_table_without_intervals(results):
    for agent in results["agents"].values():
        for summary in [*agent["games"].values(), agent["iqm"]]:
            summary["interval"] = None
    text = rendered(results)
    assert line_with(text, "Pong", "dt", "-3.5", "50.0%")
    assert "[-" not in text
    assert "nan" not in text.lower()


def test_table_without_iqm(results):
    for agent in results["agents"].values():
        agent["iqm"] = None
    text = rendered(results)
    assert "IQM" not in text
    assert "median" not in text


def test_protocol_sheet(results):
    sheet = protocol_sheet(results)
    for part in (
        "mgdt 9.8.7",
        "ale-py 6.5.4",
        "sticky 0.125",
        "rewards unclipped",
        "sampled actions",
        "seeds from 100",
    ):
        assert part in sheet
    assert "\n" not in sheet
    assert "likeliest actions" in protocol_sheet(results | {"deterministic": True})


def test_games_left_out_are_listed(results):
    assert protocol_sheet(results).endswith("not human-normalised: AirRaid")
    for agent in results["agents"].values():
        agent["games"]["Pong"]["human_normalised"] = None
    assert protocol_sheet(results).endswith("not human-normalised: any game")
    for agent in results["agents"].values():
        for summary in agent["games"].values():
            summary["human_normalised"] = 0.5
    assert "not human-normalised" not in protocol_sheet(results)

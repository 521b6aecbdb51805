"""The report: a page, and tables and pictures for papers."""

import csv
import dataclasses
import errno
import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation.page import write_report
from mgdt_agents.evaluation.published_scores import (
    PublishedAgent,
    load_published,
    published_tables,
)
from mgdt_agents.evaluation.report import latex_by_game, markdown_by_game
from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_agents.evaluation.videos import record_episode
from mgdt_agents.random_agent import RandomAgent
from mgdt_envs import AtariProtocol, suite
from tests.browser import chromium, watched_page

pytest.importorskip("matplotlib")
GAMES = ("Breakout", "Pong", "AirRaid")  # the last has no human reference
EVIL = "<img src=x onerror=alert(1)>|&"
# Rejects where the browser does not know the format. The page's policy forbids Playwright's own
# way to wait for a condition, which evaluates text in the page.
VIDEO_PLAYS = """async number => {
    const video = document.querySelectorAll("video")[number];
    await video.play();
    while (video.currentTime === 0) await new Promise(requestAnimationFrame);
}"""


def made_up(agents=("dt", EVIL), games=GAMES, protocols=("default",), published=()):
    """Return results in which the second agent is better everywhere."""
    episodes = [
        Episode(agent=agent, protocol=rules, game=game, seed=7 + n, score=10.0 * rank + n, steps=9)
        for rank, agent in enumerate(agents)
        for rules in protocols
        for game in games
        for n in range(3)
    ]
    return Results(
        agents={
            name: AgentInfo(
                kind="dt",
                parameters=1_234_567,
                trained_windows=416_000,
                decisions_per_second=1_230.0,
            )
            for name in agents
        },
        games=tuple(games),
        protocols={name: AtariProtocol() for name in protocols},
        seeds=range(7, 10),
        deterministic=False,
        versions={"mgdt": "1", "ale-py": "2"},
        episodes=tuple(episodes),
        published=published,
    )


def test_what_is_written(tmp_path):
    results = made_up()
    curves = {"dt": {"loss": ([10, 20], [2.0, 1.0]), "accuracy": ([10], [0.5])}}
    path = write_report(results, tmp_path / "made", curves=curves)
    page = path.read_text()
    for section in ("leaderboard", "games", "figure-profile", "curves", "protocol"):
        assert f'<section id="{section}"' in page
    assert all(figure in page for figure in ("1,234,567", "416,000", "1,230"))
    assert "no reference" in page
    # Nothing but text comes from names, and no address is asked for anything.
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)

    with (tmp_path / "made" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [e.score for e in results.episodes]
    for name in ("leaderboard", "games", "profile", "improvement", "loss"):
        picture = cv2.imread(str(tmp_path / "made" / "figures" / f"{name}.png"))
        assert picture.std() > 5, name
    assert (tmp_path / "made" / "table.md").read_text().startswith(markdown_by_game(results))


@pytest.mark.parametrize("name", ["results.csv", "games.png", "table.md", "report.html"])
def test_full_disk_is_named(tmp_path, monkeypatch, name):
    def full(self, data):
        if self.name.startswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ReplayError, match=rf"Cannot write .*{name}, perhaps for want of space"):
        write_report(made_up(), tmp_path)


@pytest.mark.parametrize("protocols", [("default",), ("default", "sticky")])
def test_published_agents_are_marked_as_such(tmp_path, protocols):
    scores = {"Breakout": 31.8, "AirRaid": 900.0, "Qbert": 5.0}
    others = PublishedAgent(
        name="MGDT", scores=scores, source="a paper", protocol="their rules", note="tuned"
    )
    page = write_report(made_up(protocols=protocols, published=(others,)), tmp_path).read_text()
    rows = [re.sub("<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", page, re.S)]
    kind = ["published"] * (len(protocols) - 1)
    # (31.8 - 1.7) / (30.5 - 1.7), the only game with a reference that was played
    assert [row[:5] for row in rows if row[:1] == ["MGDT"]] == [
        ["MGDT", "†", *kind, "1", "104.5%", "104.5%", "0.0%"][:5]
    ]
    marked = [row for row in rows if row[1:3] == ["MGDT", "†"]]
    assert [row[0] for row in marked] == ["AirRaid", "Breakout"]
    assert marked[1][3:] == [*kind, "31.8", "104.5%", "1.7", "30.5"]
    assert "a paper; their rules; tuned" in page


def test_scores_of_games_that_are_cut_are_marked(tmp_path):
    page = write_report(dataclasses.replace(made_up(), max_steps=20), tmp_path).read_text()
    headings = re.findall(r"<th[^>]*>(?:<[^>]+>)*([^<]+)", page)
    assert {"games", "mean*", "human-normalized*"} <= set(headings)


def test_the_same_results_give_the_same_page(tmp_path):
    pages = [write_report(made_up(), tmp_path / name).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_protocols_have_tables_and_figures_of_their_own(tmp_path):
    page = write_report(made_up(protocols=("default", "sticky")), tmp_path).read_text()
    assert page.count("Share of games above each") == 2
    assert re.findall("<h3>(.*)</h3>", page) == ["default", "sticky"] * 4
    assert {"table-default.md", "table-sticky.tex"} <= {path.name for path in tmp_path.iterdir()}


def test_a_report_leaves_nothing_of_one_with_other_protocols(tmp_path):
    (tmp_path / "table-mine.md").write_text("the user's")
    one, two = made_up(), made_up(protocols=("default", "nature"))
    files = []
    for results in (one, two, one):
        page = write_report(results, tmp_path).read_text()
        files.append({path.name for path in tmp_path.rglob("*.*")} - {"table-mine.md"})
    assert "<h3>" not in page
    assert files[0] == files[2]
    common = {"report.html", "results.csv"}
    assert files[0] & files[1] == common
    assert files[1] - common == {
        f"{stem}-{protocol}{ending}"
        for name in files[0] - common
        for stem, ending in [(Path(name).stem, Path(name).suffix)]
        for protocol in two.protocols
    }
    assert (tmp_path / "table-mine.md").exists()


def test_text_is_utf_8_whatever_the_locale_is(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    results = made_up(agents=("dt", "\N{SNOWMAN}"))
    page = write_report(results, tmp_path)
    for path in (page, tmp_path / "table.md", tmp_path / "table.tex", tmp_path / "results.csv"):
        assert "\N{SNOWMAN}" in path.read_text(encoding="utf-8")
    content = json.dumps(results.to_dict(), ensure_ascii=False)
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    assert list(Results.load(tmp_path / "results.json").agents) == ["dt", "\N{SNOWMAN}"]
    for name in published_tables():
        assert load_published(name)


def test_results_without_references_have_tables_alone(tmp_path):
    page = write_report(made_up(games=["AirRaid"]), tmp_path).read_text()
    assert 'id="games"' in page
    assert "<svg" not in page


def test_names_are_no_formulas(tmp_path):
    page = write_report(made_up(agents=("$x_1$", "$\\frac{$")), tmp_path).read_text()
    assert page.count(">$x_1$</text>") == 5  # legends and axes of four figures
    assert "&lt;img src=x" in markdown_by_game(made_up())


def test_names_that_begin_with_an_underscore_are_in_legends(tmp_path):
    results = made_up(agents=("_a", "b"))
    page = write_report(results, tmp_path, curves={"_a": {"loss": ([1, 2], [2.0, 1.0])}})
    # Axes of two figures, one of them on both sides; legends of two others and of the curves.
    assert len(re.findall(r"> ?_a</text>", page.read_text())) == 6


def test_zeros_have_no_sign(tmp_path):
    episodes = (
        dataclasses.replace(episode, score=-0.04 if episode.game == "AirRaid" else 1.69)
        for episode in made_up().episodes
    )
    results = dataclasses.replace(made_up(), episodes=tuple(episodes))
    page = write_report(results, tmp_path).read_text()
    shown = re.sub("<[^>]+>", " ", page[page.index("<table") : page.rindex("</table>")])
    assert "0.0 [0.0, 0.0]" in shown
    assert not re.search(r"-0\.0\b", shown)
    assert "-0.0" not in (tmp_path / "table.md").read_text() + latex_by_game(results)


def test_names_in_latex_and_markdown():
    results = made_up(agents=("a_b&c", "d|e\\f"))
    latex = latex_by_game(results).splitlines()
    assert latex[3] == r"game & a\_b\&c & d|e\textbackslash{}f & human \\"
    assert [line.split(" & ")[0] for line in latex[5:9]] == [*GAMES, "mean, human-normalized"]
    assert markdown_by_game(results).splitlines()[0] == "| game | a_b&c | d\\|e\\f | human |"


def test_an_episode_as_a_video(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "Pong.mp4"
    steps = []
    record_episode(
        path,
        RandomAgent(),
        "Pong",
        protocol=AtariProtocol(max_frames=80),
        seed=3,
        seconds=10,
        on_step=lambda: steps.append(1),
    )
    assert len(steps) == 20  # the episode ends before
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    shape = [video.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    assert shape == [160, 210]


def test_the_page_in_a_browser(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    video = tmp_path / "Pong.mp4"
    rules = AtariProtocol(max_frames=160)
    record_episode(video, RandomAgent(), "Pong", protocol=rules, seed=3, seconds=2)
    path = write_report(made_up(), tmp_path / "made", videos={(EVIL, "Pong"): video})
    with chromium() as browser:
        for width, scheme in ((1200, "light"), (390, "dark")):
            size = {"width": width, "height": 900}
            page, faults = watched_page(browser, path.as_uri(), viewport=size, color_scheme=scheme)
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("section").count() == 8

            page.fill("input[type=search]", "breakout dt")
            assert page.locator("#games-table tbody tr:visible").count() == 1
            page.fill("input[type=search]", "")
            score = page.locator("#games-table th", has_text="mean score")
            cells = page.locator("#games-table tbody tr td:nth-child(3)")
            for sort in ("ascending", "descending"):
                score.locator("button").press("Enter")
                assert score.get_attribute("aria-sort") == sort
                shown = [float(text.split()[0]) for text in cells.all_inner_texts()]
                assert shown == sorted(shown, reverse=sort == "descending")

            # The video's format is one that browsers play.
            page.evaluate(VIDEO_PLAYS, 0)
            ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
            assert ink == page.evaluate("getComputedStyle(document.body).color")
            assert not faults


def test_the_page_of_57_games_with_videos(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    video = tmp_path / "Pong.mp4"
    rules = AtariProtocol(max_frames=300)
    record_episode(video, RandomAgent(), "Pong", protocol=rules, seed=3, seconds=5)
    names, agents = list(suite("atari57")), ("a", "b", "c")
    videos = {(agent, name): video for agent in agents for name in names}
    path = write_report(made_up(agents, names), tmp_path / "made", videos=videos)
    assert path.stat().st_size < 25_000_000
    assert path.stat().st_size - len(videos) * video.stat().st_size * 4 / 3 < 1_500_000
    with chromium() as browser:
        page, faults = watched_page(browser, path.as_uri(), viewport={"width": 390, "height": 900})
        page.goto(path.as_uri())
        ready = "[...document.querySelectorAll('video')].filter(video => video.readyState).length"
        assert page.evaluate(ready) == 0  # they are far below
        last = len(videos) - 1
        page.evaluate("scrollTo(0, document.getElementById('protocol').offsetTop - 700)")
        page.evaluate(VIDEO_PLAYS, last)
        assert 0 < page.evaluate(ready) < 40
        page.get_by_role("searchbox").nth(1).fill("b pong")
        assert page.locator("figure:visible").all_inner_texts() == ["b, Pong"]
        page.get_by_role("searchbox").nth(0).fill("zaxxon")
        assert page.locator("#games-table tbody tr:visible").count() == len(agents)
        assert not faults


def test_long_names_leave_room_for_figures():
    from mgdt_agents.evaluation.figures import draw

    paths = [f"runs/{kind}-weighted-20m:action_temperature=1" for kind in ("dt", "bc", "cql")]
    names = [*paths, "random", f"/home/{'experiments/' * 6}dt"]
    for name, figure in draw(made_up(agents=names)).items():
        figure.draw_without_rendering()
        (axes,) = figure.axes
        assert min(axes.get_position().size) > 0.4, name
        drawn = axes.get_tightbbox().padded(-1)
        assert figure.bbox.containsx(drawn.x0), name
        assert figure.bbox.containsx(drawn.x1), name
        for legend in figure.legends:
            assert ["".join(it.get_text().split()) for it in legend.get_texts()] == names
            box = legend.get_window_extent().padded(-1)
            assert figure.bbox.containsx(box.x1)
            assert box.y0 > axes.get_window_extent().y1


def test_figures_say_what_the_results_say(tmp_path):
    from mgdt_agents.evaluation.figures import draw

    figures = draw(made_up())
    improvement = figures["improvement"].axes[0]
    assert {text.get_text() for text in improvement.texts} == {"0%", "100%"}
    (profile, other), human = figures["profile"].axes[0].lines[:2], 0.5
    thresholds, shares = profile.get_data()
    scores = made_up().human_normalized("dt")
    expected = np.mean([values.mean() > human for values in scores.values()])
    assert shares[np.searchsorted(thresholds, human)] == expected
    assert (other.get_data()[1] >= shares).all()
    assert draw(made_up(games=["AirRaid"])) == {}

"""mgdt-replay info: the table, the picture, and what is refused."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mgdt_agents.replay import ReplayStore, splits
from mgdt_cli import replay
from mgdt_cli.replay_info import info_table


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-replay", "info", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        replay.main()

    return run


@pytest.fixture
def clipped_store(make_random_episodes, write_store, edit_meta, tmp_path):
    path = write_store(tmp_path / "clipped", "Pong", make_random_episodes([5, 7], 8), screen_size=8)
    edit_meta(path, source={"kind": "test", "rewards_clipped": True})
    return path


def test_table(run, breakout_store, clipped_store, capsys):
    run(breakout_store, clipped_store)
    printed = capsys.readouterr().out
    store = ReplayStore(breakout_store)
    assert f"{len(store):,}" in printed
    quartiles = np.quantile(store.episode_returns, [0, 0.25, 0.5, 0.75, 1])
    (line,) = (
        line for line in printed.splitlines() if ", ".join(f"{q:.6g}" for q in quartiles) in line
    )
    assert "Breakout" in line
    assert f"source of {breakout_store}: kind trace" in printed
    assert f"protocol of {clipped_store}: " in printed


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_terminals(breakout_store, tmp_path, width, capsys):
    """Names stay whole, and so do the numbers."""
    stores = [ReplayStore(breakout_store), ReplayStore(breakout_store)]
    stores[0].path = Path("replay/SpaceInvaders")
    stores[1].path = Path("replay/Breakout-2")
    stores[0].game = "SpaceInvaders"
    stores[0].episode_returns = np.array([4600.5, 27900.25, 37900.25, 50750.25, 113700.5])
    Console(width=width).print(info_table(stores))
    words = capsys.readouterr().out.split()
    assert {"replay/SpaceInvaders", "replay/Breakout-2", "quartiles,", "frame"} <= set(words)
    assert {"4600.5,", "27900.2,", "113700"} <= set(words)
    assert words.count(f"{len(stores[0]):,}") == 2


def test_game_stands_beside_a_name_that_does_not_say_it(breakout_store, tmp_path):
    shutil.copytree(breakout_store, tmp_path / "mine")
    shutil.copytree(breakout_store, tmp_path / "Breakout-2")
    table = info_table([ReplayStore(tmp_path / name) for name in ("mine", "Breakout-2")])
    cells = list(table.columns[0].cells)
    assert cells == [f"{tmp_path / 'mine'} (Breakout)", str(tmp_path / "Breakout-2")]


def test_names_are_no_markup(run, breakout_store, tmp_path, capsys):
    shutil.copytree(breakout_store, tmp_path / "[bold]:dog:[")
    run(tmp_path / "[bold]:dog:[")
    assert capsys.readouterr().out.count("[bold]:dog:[") == 2  # in the table and below it


def test_returns_that_are_no_scores_are_marked(run, breakout_store, clipped_store, capsys):
    run(clipped_store)
    assert capsys.readouterr().out.count("(clipped rewards)") == 1
    run(breakout_store)
    assert "(clipped rewards)" not in capsys.readouterr().out


def test_splits(
    run, refused, clipped_store, make_random_episodes, write_store, tmp_path, capsys, monkeypatch
):
    episodes = make_random_episodes([5, 7, 6], 8)
    for episode, total in zip(episodes, (-21, -20, 3), strict=True):
        episode.rewards[:] = [0] * (len(episode.rewards) - 1) + [total]
    path = write_store(tmp_path / "store", "Pong", episodes, screen_size=8)
    run(path)
    assert "splits of" not in capsys.readouterr().out
    monkeypatch.setattr(splits, "WINDOW", 1)
    run(path, clipped_store, f"{path}:random")
    printed = capsys.readouterr().out
    ranges = "random 0-1 (12 steps, mean return -20.5), medium 2-2 (6 steps, mean return 3)"
    assert f"splits of {path}: {ranges}\n" in printed
    assert printed.count("splits of") == 1
    assert f"source of {path}:random: kind test" in printed
    assert "no split expert" in refused(f"{path}:expert")


def test_plot(run, breakout_store, clipped_store, tmp_path):
    pytest.importorskip("matplotlib")
    run(breakout_store, clipped_store, "--plot", tmp_path / "new" / "returns.png")
    assert (tmp_path / "new" / "returns.png").read_bytes().startswith(b"\x89PNG")


def test_folder_of_stores(run, refused, breakout_store, clipped_store, tmp_path, capsys):
    shutil.copytree(breakout_store, tmp_path / "other")
    run(tmp_path)
    printed = capsys.readouterr().out
    for name in ("clipped", "other"):
        assert f"source of {tmp_path / name}: " in printed
    clipped_store.rename(tmp_path / "clipped.partial")
    with pytest.raises(SystemExit):
        run(tmp_path)
    printed = capsys.readouterr()
    assert "source of" in printed.out
    assert f"{tmp_path / 'clipped'} is not whole" in " ".join(printed.err.split())
    assert "Expected folders of replay stores, or folders that hold some" in refused()


def test_bad_arguments(run, breakout_store, tmp_path, capsys):
    picture = tmp_path / "mine.png"
    picture.write_text("mine")
    for arguments, message in [
        ((tmp_path,), "Expected a replay store at"),
        ((breakout_store, "--plot", picture), "mine.png exists"),
        ((breakout_store, "--plot", tmp_path / "returns.pdf"), "a .png file, got"),
    ]:
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert picture.read_text() == "mine"


def test_no_matplotlib(run, breakout_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it was not installed
    with pytest.raises(SystemExit):
        run(breakout_store, "--plot", tmp_path / "returns.png")
    assert "pip install 'mgdt[plot]'" in capsys.readouterr().err

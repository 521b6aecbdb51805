"""mgdt-replay list, card and publish, and expand from a collection."""

import dataclasses
import json
import shutil
import sys

import pytest

from mgdt_agents.replay import ReplayStore, trace_collection
from mgdt_cli import replay


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-replay", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        replay.main()

    return run


@pytest.fixture
def traces(truncated_recording, tmp_path, monkeypatch):
    """A folder with two traces, which are the bundled ones."""
    folder = tmp_path / "traces"
    folder.mkdir()
    trace = truncated_recording.trace
    trace.save(folder / "Breakout.npz")
    # It cannot be played.
    dataclasses.replace(trace, game="Pong").save(folder / "Pong.npz")
    monkeypatch.setattr(trace_collection, "BUNDLED", folder)
    return folder


def test_names_are_no_markup(run, traces, capsys):
    shutil.copy(traces / "Breakout.npz", traces / "[bold]x:dog:.npz")
    run("list", "bundled")
    assert "[bold]x:dog:" in capsys.readouterr().out


def test_publish_list_expand(run, refused, truncated_recording, traces, tmp_path, capsys):
    collection = tmp_path / "collection"
    run("publish", collection)
    assert "2 traces are new" in capsys.readouterr().err
    run("publish", collection, "--games", "Breakout")
    assert "0 traces are new, 1 were there" in capsys.readouterr().err
    run("list", collection)
    printed = capsys.readouterr().out
    assert f"collection: {collection}" in printed
    rows = [line for line in printed.splitlines() if line.split()[:1] in (["Breakout"], ["Pong"])]
    steps = truncated_recording.trace.actions.size
    assert [f"{steps:,}" in row for row in rows] == [True, True]
    output = tmp_path / "replay"
    run("expand", "--collection", collection, "--games", "Breakout", "--output", output)
    assert [path.name for path in output.iterdir()] == ["Breakout"]
    lengths = [len(episode.actions) for episode in truncated_recording.episodes]
    assert ReplayStore(output / "Breakout").episode_lengths.tolist() == lengths
    assert "is of Qbert; there are traces of Breakout, Pong" in refused(
        "expand", "--collection", collection, "--games", "Qbert", "--output", output
    )
    assert f"No trace of {collection} is of Qbert; there are traces of Breakout, Pong." in refused(
        "expand", "--collection", collection, "--games", "Breakout,Qbert", "--output", output
    )
    shutil.copy(collection / "Pong.npz", collection / "Breakout.npz")
    error = refused("expand", "--collection", collection, "--output", tmp_path / "other")
    assert f"is not what {collection} published" in error
    assert not (tmp_path / "other").exists()


def test_list_of_what_is_known(run, refused, traces, tmp_path, capsys, monkeypatch):
    run("publish", tmp_path / "collection", "--games", "Pong")
    capsys.readouterr()
    monkeypatch.setitem(trace_collection.COLLECTIONS, "mine", str(tmp_path / "collection"))
    run("list")
    printed = capsys.readouterr().out
    rows = [line.split()[:2] for line in printed.splitlines()[2:]]  # of the heading there are two
    assert rows == [["bundled", "Breakout"], ["bundled", "Pong"], ["mine", "Pong"]]
    run("list", "--games", "Breakout")
    printed = capsys.readouterr().out
    assert "Breakout" in printed
    assert "mine" not in printed
    error = refused("list", "mine", "--games", "Breakout")
    assert "No trace of mine is of Breakout; there are traces of Pong." in error
    error = refused("list", "--games", "Breakout,Qbert")
    assert "No trace of bundled, mine is of Qbert; there are traces of Breakout, Pong." in error
    error = refused("list", "yours")
    assert "Unknown collection 'yours': no folder, not hf://user/name, and none of the" in error
    assert "Expected a collection of traces at" in refused("list", traces)


def test_files_or_a_collection(refused, traces, tmp_path):
    error = refused("expand", traces / "Pong.npz", "--collection", "bundled")
    assert "Expected files of traces or --collection" in error
    shutil.copytree(traces, tmp_path / "others")
    both = [traces / "Pong.npz", tmp_path / "others" / "Pong.npz"]
    error = refused("expand", *both, "--output", tmp_path / "replay")
    assert "Expected traces of different names" in error
    assert not (tmp_path / "replay").exists()


def test_card(run, refused, recording, breakout_store, tmp_path, capsys):
    recording.trace.save(tmp_path / "Breakout.npz")
    output = tmp_path / "cards"
    arguments = ["card", tmp_path / "Breakout.npz", "--output", output]
    run(*arguments, "--stores", breakout_store, "--note", "two seconds on a clock")
    assert "index.md: 1 cards are written" in capsys.readouterr().err
    card = json.loads((output / "Breakout.json").read_text())
    assert card["rewards"]["steps"] == len(ReplayStore(breakout_store))
    assert "| made by | two seconds on a clock |" in (output / "index.md").read_text()
    # What only the store tells, and the note, stay.
    run(*arguments)
    assert json.loads((output / "Breakout.json").read_text()) == card
    (output / "Breakout.json").write_text("mine")
    assert "Breakout.json exists and is no data card" in refused(*arguments)
    assert (output / "Breakout.json").read_text() == "mine"
    assert "Expected a replay store at" in refused(
        "card", tmp_path / "Breakout.npz", "--output", tmp_path / "new", "--stores", tmp_path / "x"
    )
    assert not (tmp_path / "new").exists()


def test_publish_into_what_is_something_else(refused, traces, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_text("mine")
    assert "holds photo.jpg" in refused("publish", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["photo.jpg"]
    message = refused("publish", tmp_path / "new", "--traces", traces / "x.npz")
    assert "no trace at" in message
    assert not (tmp_path / "new").exists()

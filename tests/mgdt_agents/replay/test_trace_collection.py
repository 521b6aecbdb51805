"""Collections of traces: what is published is found whole, and nothing of others is lost."""

import dataclasses
import hashlib
import json

import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, Trace
from mgdt_agents.replay import trace_collection as collections
from mgdt_agents.replay.trace_collection import (
    bundled,
    open_collection,
    publish,
    register_collection,
)

ENTRY = {"game": "Pong", "bytes": 1, "sha256": "0", "steps": 1, "episodes": 1}


@pytest.fixture
def traces(truncated_recording, tmp_path):
    """Files of two traces of Breakout."""
    folder = tmp_path / "traces"
    folder.mkdir()
    first = truncated_recording.trace
    first.save(folder / "Breakout.npz")
    dataclasses.replace(first, source={"policy": "other"}).save(folder / "Breakout-2.npz")
    return {path.stem: path for path in sorted(folder.iterdir(), key=lambda it: it.stem)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_publish_and_open(traces, breakout_store, tmp_path):
    folder = tmp_path / "deep" / "collection"
    assert publish(folder, traces, stores=[ReplayStore(breakout_store)]) == list(traces)
    names = {"index.json", "README.md"}
    names |= {f"{name}{suffix}" for name in traces for suffix in (".npz", ".json", ".png")}
    assert set(contents(folder)) == names
    assert list(folder.parent.iterdir()) == [folder]
    page = (folder / "README.md").read_text()
    assert page.startswith("---\nlicense: apache-2.0\n")
    assert "## Breakout-2" in page
    collection = open_collection(folder)
    assert collection.names_of(()) == list(traces)
    assert collection.names_of(("Breakout",)) == list(traces)
    entry = collection.entries["Breakout"]
    content = traces["Breakout"].read_bytes()
    assert (entry["game"], entry["bytes"]) == ("Breakout", len(content))
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    paths = collection.paths(list(traces))
    assert [path.read_bytes() for path in paths] == [it.read_bytes() for it in traces.values()]
    with pytest.raises(ValueError, match=r"No trace of .* is of Pong; there are traces of Bre"):
        collection.names_of(("Pong",))


def test_publish_more_and_again(traces, tmp_path):
    folder = tmp_path / "collection"
    second = {"Breakout-2": traces.pop("Breakout-2")}
    publish(folder, traces)
    (folder / "LICENSE").write_text("mine")
    before = contents(folder)
    assert publish(folder, traces) == []
    assert contents(folder) == before
    assert publish(folder, second) == ["Breakout-2"]
    after = contents(folder)
    for name in ("Breakout.npz", "Breakout.json", "Breakout.png", "LICENSE"):
        assert after[name] == before[name]
    assert open_collection(folder).names_of(()) == ["Breakout", "Breakout-2"]
    page = after["README.md"].decode()
    assert "## Breakout\n" in page
    assert "## Breakout-2\n" in page


def test_another_trace_of_the_same_name(traces, tmp_path):
    publish(tmp_path / "collection", traces)
    before = contents(tmp_path / "collection")
    swapped = {"Breakout": traces["Breakout-2"]}
    with pytest.raises(FileExistsError, match="holds another trace called Breakout; give"):
        publish(tmp_path / "collection", swapped)
    assert contents(tmp_path / "collection") == before


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "Breakout.npz", "Breakout.json"])
def test_a_place_that_holds_something_else(traces, tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"mine holds {name}, which is no part of what is"):
        publish(folder, traces)
    assert contents(folder) == {name: b"mine"}
    # Nor beside a collection.
    publish(tmp_path / "collection", {"Breakout": traces["Breakout"]})
    (tmp_path / "collection" / "Breakout-2.npz").write_text("mine")
    before = contents(tmp_path / "collection")
    with pytest.raises(FileExistsError, match=r"holds Breakout-2.npz, which is no part"):
        publish(tmp_path / "collection", traces)
    assert contents(tmp_path / "collection") == before


def test_a_place_that_is_a_file(traces, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file is a file; choose another folder"):
        publish(tmp_path / "file", traces)
    assert (tmp_path / "file").read_text() == "mine"


def test_names_and_files_that_cannot_be_published(traces, tmp_path):
    for name in ("../Breakout", "", ".hidden", "a/b", "index"):
        with pytest.raises(ValueError, match="Expected a trace called by letters and digits"):
            publish(tmp_path / "collection", {name: traces["Breakout"]})
    (tmp_path / "damaged.npz").write_bytes(traces["Breakout"].read_bytes()[:-9])
    with pytest.raises(ReplayError, match=r"damaged.npz is no readable trace"):
        publish(tmp_path / "collection", {"damaged": tmp_path / "damaged.npz"})
    assert not (tmp_path / "collection").exists()


def test_figures_of_earlier_cards_are_kept(traces, truncated_recording, tmp_path):
    from mgdt_agents.replay.cards import describe, load_card

    (tmp_path / "cards").mkdir()
    card = describe(truncated_recording.trace, 5, note="by hand")
    card["rewards"] = {"steps": 5, "rewarded_share": 0.2, "positive_share": 0.2} | dict.fromkeys(
        ("least", "most"), 1.0
    )
    (tmp_path / "cards" / "Breakout.json").write_text(json.dumps(card))
    publish(tmp_path / "collection", traces, cards=tmp_path / "cards")
    published = load_card(tmp_path / "collection" / "Breakout.json")
    assert published is not None
    assert (published["note"], published["rewards"]) == ("by hand", card["rewards"])
    assert published["bytes"] == traces["Breakout"].stat().st_size


@pytest.mark.parametrize("damage", ["changed", "replaced", "missing"])
def test_damaged_traces_are_refused(traces, tmp_path, damage):
    folder = tmp_path / "collection"
    publish(folder, traces)
    collection, path = open_collection(folder), folder / "Breakout.npz"
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        path.write_bytes(content)
    elif damage == "replaced":  # by a trace that is whole
        path.write_bytes(traces["Breakout-2"].read_bytes())
    else:
        path.unlink()
    message = "lacks Breakout.npz" if damage == "missing" else "is not what .* published"
    with pytest.raises(ReplayError, match=message):
        collection.paths(["Breakout"])
    assert Trace.load(collection.paths(["Breakout-2"])[0]).game == "Breakout"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Expected a collection of traces at .*: a folder with index.json"),
        ("{", "index.json is not JSON"),
        ("[]", r"Expected an object in .*, found \[\]"),
        ('{"format": "mgdt-collection", "version": 2}', "found mgdt-collection version 2"),
        ({"traces": []}, "Expected traces in .* to be an object"),
        ({"traces": {"../x": {}}}, r"Expected names of traces in .*, found '../x'"),
        ({"traces": {"x": 5}}, "Expected names of traces in .*, found 'x'"),
        ({"traces": {"x": {"game": "Pong"}}}, "lacks .*sha256"),
        ({"traces": {"x": {**ENTRY, "splits": [1]}}}, r"Expected names of splits .*, found \[1\]"),
    ],
    ids=str,
)
def test_damaged_index(tmp_path, content, message):
    if isinstance(content, dict):
        content = json.dumps({"format": "mgdt-collection", "version": 1} | content)
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(ReplayError, match=message):
        open_collection(tmp_path)


def test_bundled():
    collection = bundled()
    assert {"Breakout", "Freeway", "Pong"} <= set(collection.names_of(()))
    (path,) = collection.paths(["Pong"])
    assert path.parent == collections.BUNDLED


def test_register(monkeypatch, tmp_path):
    monkeypatch.setattr(collections, "COLLECTIONS", {})
    register_collection("mine", tmp_path)
    register_collection("mine", str(tmp_path))
    assert {"mine": str(tmp_path)} == collections.COLLECTIONS
    for name in ("mine", "bundled"):
        with pytest.raises(ValueError, match=f"There is a collection called '{name}' already"):
            register_collection(name, "hf://user/other")

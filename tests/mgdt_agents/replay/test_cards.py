"""Data cards: figures against what a loop over the play counts, and the page of them."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import ale_py
import numpy as np
import pytest
from ale_py import roms

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import Part, ReplayStore, cards, expand, splits
from mgdt_agents.replay.card_page import draw, page_text, read_cards, write_cards
from mgdt_agents.replay.cards import describe, load_card, published_returns
from mgdt_agents.replay.trace import BUNDLED, Trace
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv


@pytest.fixture
def store(recording, breakout_store):
    return ReplayStore(breakout_store)


def test_figures(recording, store):
    trace, episodes = recording.trace, recording.episodes
    card = describe(trace, 1234, [store], note="a minute")
    returns = np.array([episode.rewards.sum() for episode in episodes])
    lengths = [len(episode.actions) for episode in episodes]
    assert (card["game"], card["bytes"], card["note"]) == ("Breakout", 1234, "a minute")
    assert (card["steps"], card["episode_steps"]) == (trace.actions.size, sum(lengths))
    assert (card["episodes"], card["environments"], card["seeds"]) == (len(episodes), 2, [3, 7])
    assert card["returns"]["first"] == pytest.approx(returns.mean(), abs=1e-5)
    assert card["returns"]["best"] == returns.max()
    tenths = [part.mean() for part in np.array_split(returns, 10)]
    assert card["returns"]["tenths"] == pytest.approx(tenths)
    assert card["human_normalized"]["tenths"] == pytest.approx(
        [(it - 1.7) / 28.8 for it in tenths], abs=1e-3
    )
    assert [card["lengths"][0], card["lengths"][-1]] == [min(lengths), max(lengths)]
    rewards = np.concatenate([episode.rewards for episode in episodes])
    assert card["rewards"] == {
        "steps": len(rewards),
        "rewarded_share": pytest.approx((rewards != 0).mean(), abs=1e-5),
        "positive_share": pytest.approx((rewards > 0).mean(), abs=1e-5),
        "least": rewards.min(),
        "most": rewards.max(),
    }
    rom = Path(roms.get_rom_path("breakout")).read_bytes()
    assert card["rom_md5"] == hashlib.md5(rom).hexdigest()
    assert card["license"] == "Apache-2.0"
    (tried,) = card["regenerated"]
    assert tried["ale_py"] == ale_py.__version__
    assert tried["compared"] == "checksums of frames and actions"
    assert json.loads(json.dumps(card)) == card


def test_actions(recording):
    """Those that only began an episode do not count."""
    trace = recording.trace
    counts = np.zeros(18)
    begins = np.zeros(2, bool)
    ends = set(zip(trace.episode_end_step.tolist(), trace.episode_env.tolist(), strict=True))
    for step, row in enumerate(trace.actions):
        for env, action in enumerate(row):
            counts[action] += not begins[env]
            begins[env] = (step, env) in ends
    shares = counts / counts.sum()
    found = describe(trace, 1)["actions"]
    # What was played of Breakout's four actions, and one outside of them.
    assert list(found["shares"]) == ["NOOP", "FIRE", "RIGHT", "LEFT", "DOWNLEFTFIRE"]
    expected = [shares[action] for action in (0, 1, 3, 4, 17)]
    assert list(found["shares"].values()) == pytest.approx(expected, abs=1e-4)
    entropy = -sum(it * np.log2(it) for it in expected)
    assert found["entropy_bits"] == pytest.approx(entropy, abs=1e-3)
    # Which cannot be more than that of as many actions.
    assert f" of {np.log2(5):.2f} bits" in page_text({"Breakout": describe(trace, 1)})


def test_trace_without_a_step():
    envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Pong"), {})
    envs.reset(seed=0)
    actions = describe(envs.trace(), 1)["actions"]
    envs.close()
    assert set(actions["shares"].values()) == {0.0}
    assert actions["entropy_bits"] == 0.0


def test_splits(recording, monkeypatch):
    assert describe(recording.trace, 1)["splits"] == {}
    monkeypatch.setattr(splits, "WINDOW", 1)
    monkeypatch.setitem(splits.BOUNDS, "random", (-np.inf, 0.01))
    (name,) = found = describe(recording.trace, 1)["splits"]
    assert name == "random"
    lengths = [len(episode.actions) for episode in recording.episodes[:5]]
    assert found[name] == {"episodes": [0, 5], "steps": sum(lengths), "mean_return": 0.8}


def test_stores_of_others_do_not_count(recording, store, readable_store, tmp_path):
    other = dataclasses.replace(recording.trace, seeds=recording.trace.seeds + 1)
    split = ReplayStore(f"{store.path}:mixed")
    card = describe(other, 1, [store, ReplayStore(readable_store), split])
    assert card["rewards"] is None
    assert card["regenerated"] == []
    expand(recording.trace, tmp_path / "some", Part(environments=1), num_threads=1)
    some = ReplayStore(tmp_path / "some")
    card = describe(recording.trace, 1, [some])
    assert card["rewards"]["steps"] == len(some)
    assert card["regenerated"][0]["compared"] == "ends and returns of episodes"
    # The larger one counts, whatever their order.
    for stores in ([some, store], [store, some]):
        card = describe(recording.trace, 1, stores)
        assert card["rewards"]["steps"] == card["regenerated"][0]["steps"] == len(store)


def test_an_earlier_card_is_kept(recording, store):
    before = describe(recording.trace, 1, [store], note="first")
    before["regenerated"][0]["ale_py"] = "0.99"
    again = describe(recording.trace, 1, before=before)
    assert (again["rewards"], again["note"]) == (before["rewards"], "first")
    assert again["regenerated"] == before["regenerated"]
    both = describe(recording.trace, 1, [store], before=before, note="second")
    assert [it["ale_py"] for it in both["regenerated"]] == [ale_py.__version__, "0.99"]
    assert both["note"] == "second"
    other = dataclasses.replace(recording.trace, seeds=recording.trace.seeds + 1)
    assert describe(other, 1, before=before)["rewards"] is None


def test_games_without_scores(recording):
    trace = dataclasses.replace(recording.trace, game="AirRaid")
    card = describe(trace, 1)
    assert card["human_normalized"] is None
    assert "human-normalized | none |" in page_text({"AirRaid": card})


def test_games_that_are_cut(truncated_recording):
    card = describe(truncated_recording.trace, 1)
    assert (card["human_normalized"], card["splits"]) == (None, {})


def test_files(recording, store, tmp_path):
    card = describe(recording.trace, 1, [store])
    write_cards(tmp_path / "cards", {"Breakout": card}, {"Breakout": recording.trace}, "index.md")
    files = {path.name: path.read_bytes() for path in (tmp_path / "cards").iterdir()}
    assert sorted(files) == ["Breakout.json", "Breakout.png", "index.md"]
    assert load_card(tmp_path / "cards" / "Breakout.json") == card
    assert files["Breakout.png"].startswith(b"\x89PNG")
    assert len(files["Breakout.png"]) < 40_000
    page = files["index.md"].decode()
    assert "![Learning curve of Breakout](Breakout.png)" in page
    assert f"MD5 `{card['rom_md5']}`" in page
    assert f"under ale-py {ale_py.__version__}, {len(store):,} steps (checksums" in page
    # The same again: the same bytes, and a second card on the page.
    more = {"Breakout": card, "Second": card}
    traces = dict.fromkeys(more, recording.trace)
    write_cards(tmp_path / "cards", {"Second": card}, traces, "index.md")
    assert list(read_cards(tmp_path / "cards")) == ["Breakout", "Second"]
    assert "## Second" in (tmp_path / "cards" / "index.md").read_text()
    assert (tmp_path / "cards" / "Breakout.png").read_bytes() == draw(recording.trace)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.md", "mine", "index.md exists and was not made by"),
        ("Breakout.png", "mine", "Breakout.png exists and is no data card"),
        ("Breakout.json", '{"mine": 1}', "Breakout.json exists and is no data card"),
    ],
)
def test_nothing_is_overwritten(recording, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    card = describe(recording.trace, 1)
    with pytest.raises(FileExistsError, match=message):
        write_cards(tmp_path, {"Breakout": card}, {"Breakout": recording.trace}, "index.md")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: content}


def test_no_folder_is_left_without_the_library(recording, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    card = describe(recording.trace, 1)
    with pytest.raises(ImportError, match=r"pip install 'mgdt\[plot\]'"):
        write_cards(tmp_path / "cards", {"Pong": card}, {"Pong": recording.trace}, "index.md")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Pong.json is not JSON"),
        ("[]", r"Expected an object in .*, found \[\]"),
        ("{}", "Expected mgdt-card version 1 in .*, found None"),
        ('{"format": "mgdt-card", "version": 2}', "version 1 in .*, found mgdt-card version 2"),
        ('{"format": "mgdt-card", "version": 1, "game": "Pong"}', "Pong.json lacks .*checksum"),
    ],
)
def test_what_is_no_card(tmp_path, content, message):
    path = tmp_path / "Pong.json"
    assert load_card(path) is None
    path.write_text(content)
    with pytest.raises(ReplayError, match=message):
        load_card(path)
    assert read_cards(tmp_path) == {}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["note"], None),
        (["returns", "best"], None),
        (["returns", "tenths"], 5),
        (["actions", "shares", "NOOP"], "x"),
        (["human_normalized"], []),
        (["rewards"], {}),
        (["protocol", "frame_skip"], "x"),
    ],
)
def test_damaged_card(recording, store, tmp_path, place, value):
    """`None` takes the field away."""
    card = describe(recording.trace, 1, [store])
    damaged = json.loads(json.dumps(card))
    *places, last = place
    fields = damaged
    for name in places:
        fields = fields[name]
    fields[last] = value
    if value is None:
        del fields[last]
    (tmp_path / "Other.json").write_text(json.dumps(damaged))
    with pytest.raises(ReplayError, match=r"The data card Other.json is damaged: a field"):
        write_cards(tmp_path, {"Breakout": card}, {"Breakout": recording.trace}, "index.md")
    assert [path.name for path in tmp_path.iterdir()] == ["Other.json"]


@pytest.mark.parametrize("tried", [5, {"ale_py": "0.12", "steps": 5}])
def test_damaged_card_of_which_much_is_kept(recording, tmp_path, tried):
    card = describe(recording.trace, 1) | {"regenerated": [tried]}
    (tmp_path / "Breakout.json").write_text(json.dumps(card))
    with pytest.raises(ReplayError, match=r"Breakout.json lacks .*compared"):
        load_card(tmp_path / "Breakout.json")


def test_published_returns():
    at_3m = published_returns("Pong", 3_002_368)
    assert list(at_3m) == ["DQN", "DQN (Adam)", "IQN", "PQN"]
    assert at_3m["IQN"] == 16.43
    assert published_returns("Pong", 1_500_160)["IQN"] == 8.179
    assert published_returns("Pong", 2_000_000) == {}
    assert "PQN" not in published_returns("Freeway", 3_000_000)
    for agent in cards.published_agents():
        assert agent["source"]
        assert agent["protocol"]


def test_cards_of_the_collection_are_of_its_traces():
    """The page in the documentation says what comes with the package."""
    folder = Path(__file__).parents[3] / "docs" / "collection"
    there = read_cards(folder)
    assert set(there) == {path.stem for path in BUNDLED.glob("*.npz")}
    for name, card in there.items():
        assert card["checksum"] == f"{Trace.load(BUNDLED / f'{name}.npz').checksum:08x}", name
        assert card["bytes"] == (BUNDLED / f"{name}.npz").stat().st_size
        assert AtariProtocol.from_dict(card["protocol"]) == AtariProtocol()
    assert (folder / "index.md").read_text() == page_text(there)
    assert sum(path.stat().st_size for path in folder.glob("*.png")) < 1_000_000

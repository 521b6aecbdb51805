"""Splits: which episodes they are, and stores that give theirs alone."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, WindowSampler
from mgdt_agents.replay import splits as replay_splits
from mgdt_agents.replay.splits import WINDOW, find_split, split_range, split_ranges
from mgdt_agents.replay.store import find_stores, verify
from mgdt_envs import AtariProtocol, game

PONG = game("Pong")


def returns_of(scores):
    """Return Pong's returns of human-normalized scores."""
    return PONG.random + np.asarray(scores) * (PONG.human - PONG.random)


def range_of(split, scores, source=None, name="Pong", **protocol):
    play = (name, AtariProtocol(**protocol), source or {}, returns_of(scores))
    return split_range(split, *play, what="replay/Pong")


def test_ranges_of_a_learning_curve():
    """A curve that rises by steps of ten windows reaches a level in the middle of its stretch."""
    scores = np.repeat([0, 0.2, 0.3, 0.6, 0.8, 1.1], 10 * WINDOW)
    whole = [np.convolve(scores, np.full(WINDOW, 1 / WINDOW), "valid")]

    def reaches(level):
        return int(np.argmax(whole[0] >= level)) + WINDOW // 2

    assert reaches(0.1) == pytest.approx(10 * WINDOW, abs=1)
    assert reaches(0.25) == pytest.approx(20 * WINDOW, abs=1)
    assert range_of("random", scores) == range(reaches(0.1))
    assert range_of("medium", scores) == range(reaches(0.25), reaches(0.75))
    assert range_of("expert", scores) == range(reaches(0.75), 60 * WINDOW)
    assert range_of("mixed", scores) == range(60 * WINDOW)


def test_a_level_counts_when_it_is_reached_first():
    scores = np.repeat([0, 0.5, 0.0, 0.5, 0.0], 4 * WINDOW)
    medium = range_of("medium", scores)
    assert medium.start == pytest.approx(4 * WINDOW, abs=1)
    assert medium.stop == len(scores)
    # What is played until then does not depend on what comes after.
    assert range_of("random", scores) == range_of("random", scores[: 5 * WINDOW])


def test_one_lucky_episode_is_no_level():
    scores = np.zeros(10 * WINDOW)
    scores[3 * WINDOW] = 4
    assert range_of("random", scores) == range(len(scores))


@pytest.mark.parametrize(
    ("split", "scores", "message"),
    [
        ("expert", [0.0, 0.5], "no split expert, .* reaches 0.75: the highest is 0.50"),
        ("medium", [-0.1, 0.0], "no split medium, .* reaches 0.25: the highest is 0.00"),
        ("random", [0.3, 0.5], "no split random, .* reaches 0.1: it begins with 0.30"),
        ("medium", [1.2, 1.2], "no split medium, .* reaches 0.75: it begins with 1.20"),
        ("medium", [0.0, 90.0], "no split medium, .* reaches 0.75: it jumps to 1.80"),
    ],
)
def test_levels_that_are_not_there(split, scores, message):
    with pytest.raises(ReplayError, match=f"^replay/Pong has {message}"):
        range_of(split, np.repeat(scores, 4 * WINDOW))


def test_play_without_levels():
    scores = np.zeros(4 * WINDOW)
    for message, options in [
        ("rewards are clipped", {"source": {"rewards_clipped": True}}),
        ("ends episodes at a lost life", {"life_loss_ends": True}),
        ("cuts episodes at 2,000 frames, and human scores are", {"max_frames": 2000}),
        ("AirRaid has no published human score", {"name": "AirRaid"}),
    ]:
        with pytest.raises(ReplayError, match=f"has no split but mixed: .*{message}"):
            range_of("random", scores, **options)
        assert range_of("mixed", scores, **options) == range(len(scores))
    with pytest.raises(ReplayError, match=f"measured over {WINDOW} episodes, and it has 49"):
        range_of("random", scores[: WINDOW - 1])
    scores[3] = np.nan
    with pytest.raises(ReplayError, match="that are numbers: it is damaged"):
        range_of("mixed", scores)


def test_ranges_that_are_given():
    play = ("Pong", AtariProtocol(), {}, returns_of(np.repeat([0, 0.5], 4 * WINDOW)))
    ranges = split_ranges(*play)
    assert list(ranges) == ["random", "medium", "mixed"]
    assert ranges["mixed"] == range(8 * WINDOW)


def test_names(tmp_path):
    assert find_split(tmp_path / "Pong") == (tmp_path / "Pong", None)
    assert find_split("replay/Pong:expert")[1] == "expert"
    assert find_split(str(tmp_path / "Pong:medium")) == (tmp_path / "Pong", "medium")
    (tmp_path / "Pong:medium").mkdir()
    assert find_split(tmp_path / "Pong:medium") == (tmp_path / "Pong:medium", None)
    assert find_split(":medium")[1] is None
    assert find_split(".:medium") == (Path(), "medium")
    with pytest.raises(ValueError, match=r"Unknown split 'medum'. Did you mean 'medium'"):
        find_split("replay/Pong:medum")
    with pytest.raises(ValueError, match="Known names: random, medium, expert, mixed"):
        find_split("replay/Pong:2")


@pytest.fixture
def store_path(make_random_episodes, write_store, tmp_path, monkeypatch):
    """A store whose levels are measured over two episodes: the medium split is episodes 3 to 5."""
    monkeypatch.setattr(replay_splits, "WINDOW", 2)
    episodes = make_random_episodes([5, 9, 40, 17, 30, 12, 16, 3], side=8)
    scores = [0, 0, 0.1, 0.6, 0.5, 0.5, 1.1, 1.2]
    for episode, total in zip(episodes, returns_of(scores), strict=True):
        episode.rewards[:] = 0
        episode.rewards[-1] = total
    return write_store(tmp_path / "Pong", "Pong", episodes, screen_size=8)


def test_a_store_gives_a_split_alone(store_path):
    whole, store = ReplayStore(store_path), ReplayStore(f"{store_path}:medium")
    assert (whole.split, store.split) == (None, "medium")
    assert (store.folder, str(store.path)) == (store_path, f"{store_path}:medium")
    rows = slice(whole.episode_starts[3], whole.episode_starts[6])
    assert len(store) == len(store.frames) == rows.stop - rows.start == 17 + 30 + 12
    assert repr(store).endswith("Pong:medium': Pong, 59 steps, 3 episodes)")
    for name in ("frames", "actions", "rewards", "terminated", "truncated"):
        assert np.array_equal(getattr(store, name)[:], getattr(whole, name)[rows]), name
    assert store.episode_starts.tolist() == [0, 17, 47]
    assert store.episode_lengths.tolist() == [17, 30, 12]
    assert store.episode_returns.tolist() == whole.episode_returns[3:6].tolist()
    assert store.frames.shape == (59, 8, 8)
    assert store.frames.dtype == np.uint8
    expected = whole.frames[rows]
    assert np.array_equal(store.frames[-3:], expected[-3:])
    assert np.array_equal(store.frames[7], expected[7])
    assert np.array_equal(store.frames[5:20, 2], expected[5:20, 2])
    for split in ("random", "medium"):  # of which the first begins with the array's first frame
        frames = ReplayStore(f"{store_path}:{split}").frames
        for key in (np.s_[::-1], np.s_[7::-3], np.s_[5:2:-1], np.s_[-200::-1], np.s_[::-1, 2]):
            assert np.array_equal(frames[key], frames[:][key]), (split, key)
    for start, stop in [(0, 1), (3, 19), (4, 20), (0, 59), (58, 59)]:
        out = np.zeros((stop - start, 8, 8), np.uint8)
        store.read_frames(start, stop, out)
        assert np.array_equal(out, expected[start:stop])
    store.verify()
    again = pickle.loads(pickle.dumps(store))
    assert (again.path, len(again)) == (store.path, 59)
    assert len(ReplayStore(f"{store_path}:mixed")) == len(whole)


def test_split_that_a_store_does_not_give(store_path):
    replay_splits.WINDOW = 9  # of the fixture's monkeypatch
    message = f"{re.escape(str(store_path))} has no split but mixed: .* and it has 8"
    for use in (ReplayStore, verify):
        with pytest.raises(ReplayError, match=message):
            use(store_path.with_name("Pong:medium"))


def test_windows_of_a_split(store_path):
    sampler = WindowSampler([f"{store_path}:medium"], steps=4)
    assert sampler.num_windows == 59
    store = ReplayStore(f"{store_path}:medium")
    batch, rows = sampler.sample(64, 0), sampler.drawn_rows(64, 0)
    for window, (path, row) in enumerate(rows):
        assert path == store.path
        assert np.array_equal(batch.frames[window, -1], store.frames[row])
        assert batch.actions[window, -1] == store.actions[row]
    # Ranks are among the steps that are drawn from.
    assert set(batch.episode_ranks.tolist()) == {0.0, np.float32(42 / 59)}


def test_stores_in_a_folder(store_path, tmp_path):
    assert find_stores(tmp_path) == [store_path]
    named = tmp_path.with_name(f"{tmp_path.name}:medium")
    assert find_stores(named) == [tmp_path / "Pong:medium"]
    assert find_stores(tmp_path / "Pong:medium") == [tmp_path / "Pong:medium"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"random": [0, 2], "expert": [2, 2], "mixed": [0, 8]}, "holds random, mixed"),
        ({}, "holds none"),
        ({"medium": [0, 9]}, "damaged"),
        ({"medium": [-1, 3]}, "damaged"),
        ({"medium": 5}, "damaged"),
        ([5], "damaged"),
    ],
    ids=str,
)
def test_splits_of_a_part_of_a_trace(store_path, edit_meta, splits, message):
    edit_meta(store_path, source={"splits": {"medium": [1, 3]}})
    assert ReplayStore(f"{store_path}:medium").episode_lengths.tolist() == [9, 40]
    edit_meta(store_path, source={"splits": splits})
    for split in ("medium", "expert"):
        with pytest.raises(ReplayError, match=message):
            ReplayStore(f"{store_path}:{split}")


def test_a_bound_that_is_met_exactly_is_reached():
    """In Breakout a level of 0.25 is 445 points in 50 episodes, without a rest."""
    random = np.random.default_rng(0)
    for _ in range(20):
        window = random.integers(1, 8, WINDOW)
        window[0] += 445 - window.sum()
        returns = np.concatenate([np.zeros(WINDOW), np.tile(window, 4)])
        found = split_range("medium", "Breakout", AtariProtocol(), {}, returns, what="a store")
        assert found.start == WINDOW + WINDOW // 2


def test_held_out_episodes_of_a_split_are_those_of_the_store(store_path):
    whole = ReplayStore(store_path)
    held = {}
    for name in ("", ":random", ":medium"):
        store = ReplayStore(f"{store_path}{name}")
        sampler = WindowSampler([store], steps=1, split="heldout", heldout_fraction=0.3)
        held[name] = {store._first_row + row for _, row in sampler.drawn_rows(2000, 0)}
    assert held[":random"] <= held[""]
    assert held[":medium"] <= held[""]
    assert len(whole) > len(held[""])

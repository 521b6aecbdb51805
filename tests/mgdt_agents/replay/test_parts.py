"""Parts of a trace: stores of some environments, of a split, of the first steps."""

import dataclasses

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.replay import Part, ReplayStore, expand
from mgdt_agents.replay import splits as replay_splits
from mgdt_envs.scoring import human_normalized_score


@pytest.fixture
def medium(monkeypatch):
    """The medium split of `recording`: its sixth to eighth episode."""
    low, high = human_normalized_score("Breakout", np.array([1.5, 2.0])) - 1e-6
    monkeypatch.setattr(replay_splits, "WINDOW", 2)
    monkeypatch.setitem(replay_splits.BOUNDS, "medium", (low, high))
    return range(5, 8)


def assert_holds(store, recording, numbers):
    """Assert that a store holds the episodes of these numbers, frame by frame."""
    episodes = [recording.episodes[number] for number in numbers]
    assert store.episode_lengths.tolist() == [len(episode.actions) for episode in episodes]
    for name in ("frames", "actions", "rewards"):
        expected = np.concatenate([getattr(episode, name) for episode in episodes])
        assert np.array_equal(getattr(store, name)[:], expected), name


def of_environment(recording, env):
    return np.flatnonzero(recording.trace.episode_env == env).tolist()


def count_calls(trace, path, part):
    calls = []
    expand(trace, path, part, num_threads=1, on_step=lambda: calls.append(None))
    assert len(calls) == part.count_rows(trace)
    return len(calls)


def test_some_environments(recording, tmp_path):
    trace, numbers = recording.trace, of_environment(recording, 0)
    calls = count_calls(trace, tmp_path / "store", Part(environments=1))
    # No longer than to the end of its last episode.
    assert calls == trace.episode_end_step[numbers[-1]] + 1 < len(trace.actions)
    store = ReplayStore(tmp_path / "store")
    assert_holds(store, recording, numbers)
    source = store.meta["source"]
    assert (source["environments"], source["policy"]) == (1, "random")
    assert source["compared"] == "ends and returns of episodes"
    assert source["splits"] == {"mixed": [0, len(numbers)]}
    expand(trace, tmp_path / "both", Part(environments=2), num_threads=1)
    assert_holds(ReplayStore(tmp_path / "both"), recording, range(len(recording.episodes)))
    with pytest.raises(FileExistsError, match="holds other play"):
        expand(trace, tmp_path / "both", Part(environments=1))


def test_some_environments_are_checked_by_their_episodes(recording, tmp_path):
    trace, part = recording.trace, Part(environments=1)
    returns = trace.episode_return.copy()
    returns[trace.episode_env == 1] += 1
    expand(dataclasses.replace(trace, episode_return=returns), tmp_path / "others", part)
    returns[of_environment(recording, 0)[2]] += 1
    with pytest.raises(TraceDivergedError, match="environment 0 ended an episode with return"):
        expand(dataclasses.replace(trace, episode_return=returns), tmp_path / "store", part)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("number", [0, 3, -1])
def test_environments_that_are_not_there(recording, tmp_path, number):
    message = f"Expected 1 to 2 environments, as the trace of Breakout has, got {number}"
    with pytest.raises(ValueError, match=message):
        expand(recording.trace, tmp_path / "store", Part(environments=number))
    assert list(tmp_path.iterdir()) == []


def test_a_split(recording, medium, tmp_path):
    trace = recording.trace
    calls = count_calls(trace, tmp_path / "Breakout-medium", Part(split="medium"))
    # To the first checksum after its last episode.
    last = trace.episode_end_step[medium.stop - 1]
    assert last < calls <= last + 21
    store = ReplayStore(tmp_path / "Breakout-medium")
    assert_holds(store, recording, medium)
    assert store.meta["source"]["split"] == "medium"
    # It is that split, and no other.
    assert len(ReplayStore(tmp_path / "Breakout-medium:medium")) == len(store)
    with pytest.raises(ReplayError, match=r"has no split expert: of the splits .* it holds medium"):
        ReplayStore(tmp_path / "Breakout-medium:expert")
    # The split of the whole store has the same episodes.
    expand(trace, tmp_path / "Breakout", num_threads=1)
    whole = ReplayStore(tmp_path / "Breakout:medium")
    assert_holds(whole, recording, medium)


def test_splits_of_some_environments_are_those_of_the_trace(recording, medium, tmp_path):
    part = Part(environments=1)
    expand(recording.trace, tmp_path / "Breakout", part, num_threads=1)
    theirs = [number for number in of_environment(recording, 0) if number in medium]
    assert 0 < len(theirs) < len(medium)
    assert_holds(ReplayStore(tmp_path / "Breakout:medium"), recording, theirs)
    part = dataclasses.replace(part, split="medium")
    expand(recording.trace, tmp_path / "split", part, num_threads=1)
    assert_holds(ReplayStore(tmp_path / "split"), recording, theirs)
    part = dataclasses.replace(part, limit_steps=len(recording.episodes[theirs[0]].actions))
    assert part.episodes(recording.trace).tolist() == theirs[:1]


def test_a_split_that_the_trace_does_not_give(recording, tmp_path):
    with pytest.raises(ReplayError, match=r"trace of Breakout has no split .* and it has 11"):
        expand(recording.trace, tmp_path / "store", Part(split="medium"))
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_episodes_of_the_environments(recording, medium, tmp_path, monkeypatch):
    env = recording.trace.episode_env.copy()
    env[medium.start : medium.stop] = 1
    trace = dataclasses.replace(recording.trace, episode_env=env)
    with pytest.raises(ReplayError, match=r"None of the episodes of Breakout .* first 1 env"):
        Part(split="medium", environments=1).episodes(trace)


def test_more_steps_than_the_split_has(recording, medium):
    lengths = [len(recording.episodes[number].actions) for number in medium]
    part = Part(split="medium", limit_steps=sum(lengths[:2]))
    assert part.episodes(recording.trace).tolist() == list(medium)[:2]
    with pytest.raises(ReplayError, match=f"at least {lengths[0]} steps, .* first episode"):
        Part(split="medium", limit_steps=lengths[0] - 1).episodes(recording.trace)

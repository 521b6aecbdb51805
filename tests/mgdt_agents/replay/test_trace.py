"""Traces: the file, and the store that the emulator regenerates from it."""

import dataclasses
import json
import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.replay import Part, ReplayStore, Trace, expand
from mgdt_agents.replay import trace as replay_trace
from mgdt_agents.replay.trace import BUNDLED
from mgdt_envs import AtariProtocol, game

ARRAYS = (
    "seeds",
    "actions",
    "checksums",
    "episode_end_step",
    "episode_env",
    "episode_return",
)


def assert_same_trace(first, second):
    for field in dataclasses.fields(Trace):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name in ARRAYS:
            assert a.dtype == b.dtype, field.name
            assert np.array_equal(a, b), field.name
        else:
            assert a == b, field.name


def with_changed(trace, name, index, value):
    """Return `trace` with one element of one of its arrays changed."""
    array = getattr(trace, name).copy()
    assert array[index] != value
    array[index] = value
    return dataclasses.replace(trace, **{name: array})


def assert_store_holds(store, episodes):
    lengths = [len(episode.actions) for episode in episodes]
    assert store.episode_lengths.tolist() == lengths
    assert len(store) == sum(lengths)
    for name in ("frames", "actions", "rewards"):
        expected = np.concatenate([getattr(episode, name) for episode in episodes])
        assert np.array_equal(getattr(store, name)[:], expected), name
    last = np.cumsum(lengths) - 1
    truncated = np.array([episode.truncated for episode in episodes])
    assert np.flatnonzero(store.terminated).tolist() == last[~truncated].tolist()
    assert np.flatnonzero(store.truncated).tolist() == last[truncated].tolist()


def test_save_and_load(recording, tmp_path):
    recording.trace.save(tmp_path / "trace.npz")
    assert_same_trace(Trace.load(tmp_path / "trace.npz"), recording.trace)


def test_trace_without_whole_episodes(recording, tmp_path):
    names = ("episode_end_step", "episode_env", "episode_return")
    nothing = {name: getattr(recording.trace, name)[:0] for name in names}
    with pytest.raises(ValueError, match="none of this one of Breakout ended within its 2,200"):
        expand(dataclasses.replace(recording.trace, **nothing), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_save_does_not_overwrite(recording, tmp_path):
    path = tmp_path / "trace.npz"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        recording.trace.save(path)
    assert path.read_text() == "mine"


def test_store_is_what_a_loop_over_the_emulator_sees(recording, breakout_store):
    store = ReplayStore(breakout_store)
    assert len(recording.episodes) >= 8
    # Steps that only begin an episode and steps of unfinished episodes are not in the store.
    assert len(store) < recording.trace.actions.size - len(recording.episodes)
    assert_store_holds(store, recording.episodes)
    assert not store.truncated.any()
    assert (store.game, store.protocol) == ("Breakout", AtariProtocol())
    assert store.meta["source"]["policy"] == "random"
    assert store.meta["source"]["ale_py"] == recording.trace.ale_py
    store.verify()


def test_time_limits_truncate(truncated_recording, tmp_path):
    expand(truncated_recording.trace, tmp_path / "store")
    store = ReplayStore(tmp_path / "store")
    assert store.truncated.sum() >= 8
    assert store.protocol == AtariProtocol(max_frames=200)
    assert_store_holds(store, truncated_recording.episodes)


def test_number_of_threads_changes_no_byte(recording, breakout_store, tmp_path):
    expand(recording.trace, tmp_path / "store", num_threads=2)
    names = sorted(path.name for path in breakout_store.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "store").iterdir())
    for name in names:
        assert (tmp_path / "store" / name).read_bytes() == (breakout_store / name).read_bytes()


def test_play_yields_every_step(truncated_recording):
    trace = truncated_recording.trace
    steps = list(trace.play(num_threads=1))
    assert np.array_equal([step.actions for step in steps], trace.actions)
    ends = np.array([step.terminated | step.truncated for step in steps])
    expected = np.zeros_like(ends)
    expected[trace.episode_end_step, trace.episode_env] = True
    assert np.array_equal(ends, expected)
    # The step after an end is no transition, every other is.
    is_transition = np.array([step.is_transition for step in steps])
    assert is_transition[0].all()
    assert np.array_equal(is_transition[1:], ~ends[:-1])


def test_on_step_is_called_after_each_step(truncated_recording, tmp_path):
    calls = []
    expand(truncated_recording.trace, tmp_path / "store", on_step=lambda: calls.append(None))
    assert len(calls) == len(truncated_recording.trace.actions)


def test_limit(truncated_recording, tmp_path):
    trace, episodes = truncated_recording.trace, truncated_recording.episodes
    steps = np.cumsum([len(episode.actions) for episode in episodes]).tolist()
    for limit, expected in [(steps[0], 1), (steps[3] - 1, 3), (steps[3], 4), (10**6, len(steps))]:
        calls = []
        expand(
            trace,
            tmp_path / str(limit),
            Part(limit_steps=limit),
            num_threads=1,
            on_step=lambda calls=calls: calls.append(None),
        )
        store = ReplayStore(tmp_path / str(limit))
        assert_store_holds(store, episodes[:expected])
        assert store.meta["source"]["limit_steps"] == limit
        # The emulators stop at the first checksum after the last episode that is wanted.
        all_wanted = expected == len(episodes)
        last = trace.episode_end_step[expected - 1] + 1
        played = len(trace.actions) if all_wanted else -(-last // 20) * 20 + 1
        assert len(calls) == Part(limit_steps=limit).count_rows(trace) == played
    with pytest.raises(ReplayError, match=f"at least {steps[0]} steps, .* first episode of Break"):
        expand(trace, tmp_path / "none", Part(limit_steps=steps[0] - 1))
    assert not (tmp_path / "none").exists()


def test_limited_play_is_checked_as_far_as_it_goes(recording, tmp_path):
    limit = 10**6
    trace = with_changed(recording.trace, "checksums", 0, 5)
    with pytest.raises(TraceDivergedError, match="at the reset"):
        expand(trace, tmp_path / "store", Part(limit_steps=limit))
    whole = len(recording.trace.episode_return)
    limit = sum(len(episode.actions) for episode in recording.episodes[: whole - 1])
    trace = with_changed(recording.trace, "episode_return", 0, 99)
    with pytest.raises(TraceDivergedError, match="recorded is 99"):
        expand(trace, tmp_path / "store", Part(limit_steps=limit))
    # What differs behind its end is not seen.
    trace = with_changed(recording.trace, "checksums", -1, 5)
    expand(trace, tmp_path / "store", Part(limit_steps=limit))


def change_actions(trace, step, env):
    """Return `trace` with ten other actions: one alone may move nothing, as they are sticky."""
    actions = trace.actions.copy()
    actions[step : step + 10, env] = np.where(actions[step : step + 10, env] == 3, 4, 3)
    return dataclasses.replace(trace, actions=actions)


def assert_diverges(trace, folder, match):
    """Assert that `trace` does not expand and leaves nothing; return the step it names."""
    with pytest.raises(TraceDivergedError, match=match) as caught:
        expand(trace, folder / "store", num_threads=1)
    assert list(folder.iterdir()) == []
    (step,) = re.findall(r"at or before step (\d+)", str(caught.value))
    return int(step)


@pytest.mark.parametrize("step", [0, 19, 20, 980, 1099])
def test_changed_action_diverges_at_the_next_checksum(recording, tmp_path, step):
    trace = recording.trace
    changed = with_changed(trace, "actions", (step, 1), (trace.actions[step, 1] + 1) % 5)
    since = step // 20 * 20
    named = assert_diverges(changed, tmp_path, f"after step {since}, .* not the recorded one")
    assert named == min(since + 20, len(trace.actions))


def test_changed_action_is_found_whatever_the_limit(truncated_recording, tmp_path):
    trace = truncated_recording.trace
    limit = sum(len(episode.actions) for episode in truncated_recording.episodes[:3])
    last = trace.episode_end_step[2]
    # What is pressed while an environment begins an episode is ignored.
    for step, env in [(last, trace.episode_env[2]), (trace.episode_end_step[0] + 1, 0)]:
        action = (trace.actions[step, env] + 1) % 5
        changed = with_changed(trace, "actions", (step, env), action)
        with pytest.raises(TraceDivergedError, match="not the recorded one"):
            expand(changed, tmp_path / "store", Part(limit_steps=limit))
        assert list(tmp_path.iterdir()) == []


def test_other_play_diverges_within_twenty_steps(recording, tmp_path):
    # Sticky actions are drawn anew, as by an emulator that draws otherwise.
    trace = dataclasses.replace(recording.trace, protocol=AtariProtocol(sticky=0.5))
    assert assert_diverges(trace, tmp_path, "diverged") <= 20


def test_traces_of_the_first_version(recording, tmp_path):
    """Their checksums are 1000 steps apart, and the last alone goes on over actions."""
    trace = recording.trace
    frames = [np.copy(step.frames) for step in trace.play()]
    actions = trace.actions[:-1]
    last = zlib.crc32(actions.tobytes(), zlib.crc32(frames[-1].tobytes()))
    checksums = [zlib.crc32(frames[0].tobytes()), zlib.crc32(frames[1000].tobytes()), last]
    checksums = np.array(checksums, np.uint32)
    old = dataclasses.replace(trace, version=1, actions=actions, checksums=checksums)
    assert old.episode_end_step[-1] < len(actions)
    old.save(tmp_path / "old.npz")
    assert_same_trace(Trace.load(tmp_path / "old.npz"), old)
    expand(old, tmp_path / "store")
    assert_store_holds(ReplayStore(tmp_path / "store"), recording.episodes)
    for changed in (
        with_changed(old, "checksums", 1, 5),
        with_changed(old, "actions", (1090, 0), (old.actions[1090, 0] + 1) % 5),
    ):
        with pytest.raises(TraceDivergedError):
            expand(changed, tmp_path / "changed")


def test_first_and_last_frames_are_checked(truncated_recording, tmp_path):
    trace = with_changed(truncated_recording.trace, "checksums", 0, 5)
    assert assert_diverges(trace, tmp_path, f"at the reset, .* ale-py {trace.ale_py}") == 0
    trace = with_changed(truncated_recording.trace, "checksums", -1, 5)
    assert assert_diverges(trace, tmp_path, "after step 260") == len(trace.actions)


def test_changed_return_diverges(truncated_recording, tmp_path):
    trace = truncated_recording.trace
    total = float(trace.episode_return[4])
    message = (
        f"at or before step {trace.episode_end_step[4]}: environment {trace.episode_env[4]} "
        f"ended an episode with return {total:g}, recorded is {total + 1:g}"
    )
    assert_diverges(with_changed(trace, "episode_return", 4, total + 1), tmp_path, message)


def test_unrecorded_end_diverges(truncated_recording, tmp_path):
    trace = truncated_recording.trace
    ends = {name: getattr(trace, name)[:-1] for name in ARRAYS if name.startswith("episode_")}
    named = assert_diverges(dataclasses.replace(trace, **ends), tmp_path, "recorded is no end")
    assert named == trace.episode_end_step[-1]
    more = {
        "episode_end_step": [*trace.episode_end_step, len(trace.actions) - 1],
        "episode_env": [*trace.episode_env, 0],
        "episode_return": [*trace.episode_return, 1],
    }
    more = {name: np.array(it, getattr(trace, name).dtype) for name, it in more.items()}
    message = "environment 0 ended an episode with return no end, recorded is 1"
    named = assert_diverges(dataclasses.replace(trace, **more), tmp_path, message)
    assert named == len(trace.actions) - 1


def test_expand_does_not_overwrite(truncated_recording, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="store exists"):
        expand(truncated_recording.trace, tmp_path / "store")
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "mine"]


def test_damaged_file(truncated_recording, tmp_path):
    trace, path = truncated_recording.trace, tmp_path / "trace.npz"
    trace.save(path)
    whole = path.read_bytes()
    messages = []
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        try:
            loaded = Trace.load(path)
        except ReplayError as error:
            messages.append(str(error))
        else:
            # The byte says nothing, such as a member's date.
            assert_same_trace(loaded, trace)
    assert len(messages) > len(whole) / 5 / 2
    assert all(str(path) in message for message in messages)


def test_shortened_file(truncated_recording, tmp_path):
    path = tmp_path / "trace.npz"
    truncated_recording.trace.save(path)
    whole = path.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ReplayError, match=re.escape(str(path))):
            Trace.load(path)


def save_arrays(trace, path, meta=None, **arrays):
    content = {
        "format": "mgdt-trace",
        "version": 2,
        "game": trace.game,
        "protocol": trace.protocol.to_dict(),
        "ale_py": trace.ale_py,
        "source": trace.source,
    }
    content = content | meta if isinstance(meta, dict) else meta or content
    arrays = {name: getattr(trace, name) for name in ARRAYS} | arrays
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(path, meta=np.array(json.dumps(content)), **arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": {"version": 3}}, "Expected mgdt-trace version 2 .* found mgdt-trace version 3"),
        ({"meta": {"version": 3}, "actions": None}, "found mgdt-trace version 3"),
        ({"meta": {"format": "another"}}, "found another version 2"),
        ({"meta": ["mgdt-trace"]}, "no readable trace"),
        ({"meta": {"game": "Pnog"}}, "Cannot read .* Unknown game 'Pnog'"),
        ({"meta": {"game": 5}}, "Expected game in .* to be a text, found 5"),
        ({"meta": {"source": "me"}}, "Expected source in .* to be an object, found 'me'"),
        ({"meta": {"ale_py": None}}, "Expected ale_py in .* to be a text, found None"),
        ({"meta": {"protocol": {"sticky": "no"}}}, "Cannot read "),
        (
            {"meta": {"protocol": {"fire_reset": 5}}},
            "AtariProtocol.fire_reset must be true or false, got 5",
        ),
        ({"meta": {"protocol": {"jpeg": True}}}, "Expected a protocol without JPEG"),
        ({"checksums": np.zeros(3, np.uint32)}, "Expected 15 checksums .* 270 steps .*, found 3"),
        ({"seeds": np.zeros(3, np.int64)}, "Expected 2 seeds .* found 3"),
        ({"seeds": np.zeros(2)}, "Expected seeds .* int64 .* found float64"),
        ({"seeds": np.array([0, 2**31])}, r"Expected seeds in 0\.\.2147483647 .* 2147483648"),
        ({"seeds": np.array([0, -1])}, r"Expected seeds in 0\.\.2147483647"),
        (
            {"actions": np.zeros((270, 0), np.uint8), "seeds": np.zeros(0, np.int64)},
            "Expected environments in .*, found none",
        ),
        ({"actions": np.zeros(270, np.uint8)}, "Expected actions .* 2 dimensions"),
        ({"actions": np.full((270, 2), 18, np.uint8)}, "Expected actions 0..17 .* found 18"),
        ({"episode_env": np.zeros(3, np.int16)}, "Expected as many ends, environments and ret"),
        ({"episode_env": np.full(10, 2, np.int16)}, r"Expected environments 0\.\.1"),
        ({"episode_end_step": np.full(10, 270, np.int32)}, r"Expected ends in steps 0\.\.269"),
        ({"episode_end_step": np.full(10, 5, np.int32)}, "Expected episodes of a step or more"),
        ({"episode_end_step": np.arange(10, dtype=np.int32)[::-1]}, "Expected ends in their order"),
        ({"episode_return": np.full(10, np.nan, np.float32)}, "Expected finite returns"),
    ],
    ids=str,
)
def test_file_that_does_not_fit(truncated_recording, tmp_path, changes, message):
    path = tmp_path / "trace.npz"
    save_arrays(truncated_recording.trace, path)
    assert_same_trace(Trace.load(path), truncated_recording.trace)
    save_arrays(truncated_recording.trace, path, **changes)
    with pytest.raises(ReplayError, match=message) as caught:
        Trace.load(path)
    assert str(path) in str(caught.value)


def test_not_a_trace(tmp_path):
    texts, array, arrays = tmp_path / "a.npz", tmp_path / "b.npy", tmp_path / "c.npz"
    texts.write_text("no zip file")
    with pytest.raises(ReplayError, match=r"it is no \.npz file"):
        Trace.load(texts)
    np.save(array, np.zeros(3))
    np.savez(arrays, weights=np.zeros(3))
    for path in (texts, array, arrays, tmp_path):
        with pytest.raises(ReplayError, match=re.escape(f"{path} is no readable trace")):
            Trace.load(path)
    with pytest.raises(ReplayError, match=r"There is no trace at .*d\.npz"):
        Trace.load(tmp_path / "d.npz")


def test_arrays_that_ask_for_too_much_memory(truncated_recording, tmp_path, monkeypatch):
    path = tmp_path / "trace.npz"
    truncated_recording.trace.save(path)
    size = truncated_recording.trace.actions.nbytes
    monkeypatch.setattr(replay_trace, "MAX_ARRAY_BYTES", size)
    with pytest.raises(ReplayError, match=rf"no memory for {path}, which asks for [\d,]+ bytes"):
        Trace.load(path)
    monkeypatch.undo()
    # An array whose header announces more than there is.
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 1 << 20)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("meta.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ReplayError, match=f"{path}"):
        Trace.load(path)


def bundled_trace(name) -> Trace:
    return Trace.load(Path(BUNDLED) / f"{name}.npz")


def test_bundled_traces():
    names = sorted(path.stem for path in BUNDLED.iterdir())
    assert set(names) >= {"Breakout", "CrazyClimber", "Freeway", "KungFuMaster", "Pong"}
    for name in names:
        trace = bundled_trace(name)
        assert trace.game == name
        assert trace.protocol == AtariProtocol()
        assert len(np.unique(trace.seeds)) == len(trace.seeds)
        assert set(np.unique(trace.actions)) <= set(game(name).minimal_actions)
        assert len(trace.episode_return) > 0
        assert (np.diff(trace.episode_end_step) >= 0).all()
        assert trace.episode_end_step[-1] < len(trace.actions)


def assert_plays(trace, **play):
    """Assert that the play of a trace ends where it was recorded to end, with those returns."""
    returns = np.zeros(play.get("environments", len(trace.seeds)))
    recorded = zip(trace.episode_end_step, trace.episode_env, trace.episode_return, strict=True)
    expected = {(int(step), int(env)): total for step, env, total in recorded if env < len(returns)}
    ended = {}
    for number, step in enumerate(trace.play(**play)):
        returns += step.rewards
        for env in np.flatnonzero(step.terminated | step.truncated):
            ended[number, int(env)] = returns[env]
            returns[env] = 0
    assert ended == expected


def beginning(trace, num_steps):
    """Return the first steps of a trace, as many as lie between two of its checksums."""
    ended = trace.episode_end_step < num_steps
    actions, checksums = trace.actions[:num_steps], trace.checksums
    checksums = checksums[: num_steps // trace.checksum_interval + 1].copy()
    if trace.version == 1:
        # The frames before step 1000 are those after the last of 1000 steps.
        checksums[-1] = zlib.crc32(actions.tobytes(), int(checksums[-1]))
    names = ("episode_end_step", "episode_env", "episode_return")
    ends = {name: getattr(trace, name)[ended] for name in names}
    return dataclasses.replace(trace, actions=actions, checksums=checksums, **ends)


def test_bundled_trace_plays():
    trace = beginning(bundled_trace("Pong"), 1000)
    assert set(trace.episode_env) >= {0, 1}
    assert_plays(trace, environments=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in BUNDLED.glob("*.npz")))
def test_every_bundled_trace_plays(name):
    """The frames of all environments, too."""
    assert_plays(beginning(bundled_trace(name), 1000))


def test_save_is_of_one_step(recording, tmp_path, monkeypatch):
    path = tmp_path / "Breakout.npz"
    recording.trace.save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"Breakout\.npz exists"):
        recording.trace.save(path)

    def killed(*args):
        raise KeyboardInterrupt

    other = dataclasses.replace(recording.trace, source={"policy": "another"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        for to in (path, tmp_path / "new.npz"):
            with pytest.raises(KeyboardInterrupt):
                other.save(to, overwrite=True)
    assert path.read_bytes() == before
    assert not (tmp_path / "new.npz").exists()
    other.save(path, overwrite=True)
    assert Trace.load(path).source == {"policy": "another"}

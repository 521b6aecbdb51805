"""Play that is recorded as a trace while it is played."""

import dataclasses
import subprocess

import numpy as np
import pytest
from gymnasium.error import InvalidAction

from mgdt_agents.replay import ReplayStore, Trace, expand, trace_recorder
from mgdt_agents.replay.trace_recorder import TraceRecorder, revision, software
from mgdt_agents.training.run_folder import versions
from mgdt_envs import MultiGameAtariVectorEnv, __version__


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder that `software` takes for that of the packages."""
    monkeypatch.setattr(trace_recorder, "CODE", tmp_path)
    revision.cache_clear()
    yield tmp_path
    revision.cache_clear()


def test_trace_names_the_software():
    envs = TraceRecorder(MultiGameAtariVectorEnv(1, "Pong", num_threads=1), {"policy": "up"})
    envs.reset(seed=0)
    assert envs.trace().source == {"policy": "up", "mgdt": software()}
    envs.close()


def test_software_that_is_installed(code):
    assert software() == __version__


def test_packages_in_a_project_that_is_in_git(code, monkeypatch):
    subprocess.run(["git", "init", "-q"], cwd=code, check=True)
    (code / "site-packages").mkdir()
    monkeypatch.setattr(trace_recorder, "CODE", code / "site-packages")
    assert revision() is None
    assert versions()["revision"] is None


def test_software_of_a_checkout(code):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        answer = subprocess.run(
            ["git", *who, *arguments], cwd=code, check=True, capture_output=True, text=True
        )
        return answer.stdout.strip()

    git("init", "-q")
    (code / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert software() == f"{__version__}+g{commit}"
    (code / "file").write_text("2")
    revision.cache_clear()
    assert software() == f"{__version__}+g{commit}.dirty"


def test_software_where_git_is_missing(code, monkeypatch):
    (code / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert software() == __version__


def test_recorder_records_what_ale_py_alone_does(truncated_recording):
    # The seeds of the fixture are not consecutive, so each of its environments is played alone.
    whole = truncated_recording.trace
    for env, seed in enumerate(whole.seeds.tolist()):
        envs = MultiGameAtariVectorEnv(1, "Breakout", whole.protocol, num_threads=1)
        envs = TraceRecorder(envs, whole.source)
        envs.reset(seed=seed)
        for actions in whole.actions[:, [env]]:
            envs.step(actions)
        trace = envs.trace()
        ended = whole.episode_env == env
        assert ended.sum() >= 3
        assert np.array_equal(trace.episode_end_step, whole.episode_end_step[ended])
        assert np.array_equal(trace.episode_return, whole.episode_return[ended])
        assert np.array_equal(trace.actions, whole.actions[:, [env]])
        assert sum(1 for _ in trace.play(num_threads=1)) == len(whole.actions)
        envs.close()


def test_trace_can_be_taken_at_any_time(tmp_path):
    envs = MultiGameAtariVectorEnv(2, "Breakout", {"max_frames": 100}, num_threads=1)
    envs = TraceRecorder(envs, {"kind": "test"})
    envs.reset(seed=3)
    path = tmp_path / "Breakout.npz"
    for steps in (0, 20, 60, 75):
        while len(envs.actions) < steps:
            envs.step(envs.action_space.sample())
        envs.trace().save(path, overwrite=True)
        trace = Trace.load(path)
        assert sum(1 for _ in trace.play(num_threads=1)) == len(trace.actions) == steps
    assert [file.name for file in tmp_path.iterdir()] == ["Breakout.npz"]
    expand(trace, tmp_path / "store", num_threads=1)
    store = ReplayStore(tmp_path / "store")
    assert len(store.episode_starts) == len(trace.episode_return) == 4
    assert store.episode_returns.tolist() == trace.episode_return.tolist()


def test_each_game_has_a_trace():
    games = ["Breakout", "Pong", "Breakout"]
    envs = MultiGameAtariVectorEnv(3, ["Breakout", "Pong"], {"max_frames": 100}, shares=games)
    envs = TraceRecorder(envs, {"kind": "test"})
    envs.reset(seed=3)
    for _ in range(60):
        envs.step(envs.action_space.sample())
    for wrong in (None, "pong"):
        with pytest.raises(ValueError, match=f"Expected one of Breakout, Pong, got {wrong!r}"):
            envs.trace(wrong)
    for name, columns, episodes in (("Breakout", [0, 2], 4), ("Pong", [1], 2)):
        trace = envs.trace(name)
        assert trace.game == name
        assert trace.seeds.tolist() == [3 + column for column in columns]
        assert np.array_equal(trace.actions, np.array(envs.actions)[:, columns])
        assert sum(1 for _ in trace.play(num_threads=1)) == 60
        assert len(trace.episode_return) == episodes
        assert set(trace.episode_env) == set(range(len(columns)))


def test_reset_begins_a_new_trace():
    envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Pong", num_threads=1), {})
    traces = []
    for _ in range(2):
        envs.reset(seed=1)
        for _ in range(3):
            envs.step([2, 3])
        traces.append(envs.trace())
    for field in dataclasses.fields(Trace):
        first, second = (getattr(trace, field.name) for trace in traces)
        assert np.array_equal(first, second), field.name


def test_steps_that_are_refused_leave_no_mark(tmp_path):
    envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Pong", num_threads=1), {})
    envs.reset(seed=np.int64(1))
    for step in range(45):
        if step % 20 == 0:
            for wrong in (0, [0, 99]):
                with pytest.raises(InvalidAction):
                    envs.step(wrong)
            assert len(envs.trace().checksums) == step // 20 + 1
        envs.step([2, 3])
    envs.trace().save(tmp_path / "Pong.npz")
    trace = Trace.load(tmp_path / "Pong.npz")
    assert sum(1 for _ in trace.play(num_threads=1)) == 45
    assert trace.seeds.tolist() == [1, 2]
    envs.close()


def test_observations_that_the_caller_writes_into():
    envs = TraceRecorder(MultiGameAtariVectorEnv(1, "Pong", num_threads=1), {"policy": "noop"})
    observations, _ = envs.reset(seed=0)
    for _ in range(trace_recorder.CHECKSUM_INTERVAL + 1):
        observations[:] = 7
        observations, *_ = envs.step([0])
    observations[:] = 7
    assert sum(1 for _ in envs.trace().play(num_threads=1)) == trace_recorder.CHECKSUM_INTERVAL + 1
    envs.close()


def test_play_before_the_reset():
    envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Pong", num_threads=1), {})
    for play in (envs.trace, lambda: envs.step([2, 3])):
        with pytest.raises(ValueError, match=r"call reset\(seed=...\) first"):
            play()
    envs.close()


@pytest.mark.parametrize(
    "arguments", [{}, {"seed": [1, 2]}, {"seed": 1, "options": {"reset_mask": np.ones(2, bool)}}]
)
def test_reset_that_a_trace_cannot_hold(arguments):
    envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Pong", num_threads=1), {})
    with pytest.raises(ValueError, match="reset all together with an integer seed"):
        envs.reset(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"games": "Pong", "protocol": {"jpeg": True}},
        {"games": "Pong", "autoreset_mode": "SameStep"},
    ],
    ids=str,
)
def test_play_that_a_trace_cannot_hold(arguments):
    with pytest.raises(
        ValueError, match=r"A trace (holds play without JPEG|is recorded with NEXT_STEP)"
    ):
        TraceRecorder(MultiGameAtariVectorEnv(2, num_threads=1, **arguments), {})

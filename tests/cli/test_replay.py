"""mgdt-replay: expand and verify."""

import dataclasses
import shutil
import sys

import pytest

from mgdt_agents.replay import ReplayStore, expand, splits, trace_collection
from mgdt_cli import replay, replay_expand
from mgdt_cli.console import ProgressBar


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-replay", *map(str, arguments)])
        replay.main()

    return run


@pytest.fixture
def traces(truncated_recording, tmp_path):
    """A folder with two traces."""
    folder = tmp_path / "traces"
    folder.mkdir()
    for name in ("first", "second"):
        truncated_recording.trace.save(folder / f"{name}.npz")
    return folder


def test_expand(run, truncated_recording, traces, tmp_path, capsys):
    output = tmp_path / "deep" / "replay"
    run("expand", traces / "first.npz", "--output", output, "--threads", 1)
    expand(truncated_recording.trace, tmp_path / "expected")
    assert [path.name for path in output.iterdir()] == ["first"]
    for path in (tmp_path / "expected").iterdir():
        assert (output / "first" / path.name).read_bytes() == path.read_bytes()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{len(truncated_recording.episodes)} episodes" in " ".join(printed.err.split())


def test_expand_takes_several_traces_and_the_collection(run, monkeypatch, traces, tmp_path):
    both = [traces / "first.npz", traces / "second.npz"]
    run("expand", *both, "--output", tmp_path / "several", "--jobs", 1)
    monkeypatch.setattr(trace_collection, "BUNDLED", traces)
    monkeypatch.chdir(tmp_path)
    run("expand", "--jobs", 1)
    for folder in ("several", "replay"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["first", "second"]
        ReplayStore(tmp_path / folder / "second").verify()


def test_expand_tells_whether_what_is_there_is_whole(run, refused, traces, tmp_path, capsys):
    arguments = ["expand", traces / "first.npz", "--output", tmp_path / "replay"]
    run(*arguments)
    run(*arguments)
    assert "is there already" in capsys.readouterr().err
    frames = tmp_path / "replay" / "first" / "frames.b2nd"
    content = bytearray(frames.read_bytes())
    content[len(content) // 2] ^= 1
    frames.write_bytes(content)
    error = refused(*arguments)
    assert "frames.b2nd is damaged: CRC-32" in error
    assert f"Remove {frames.parent} and expand it again." in error
    assert frames.read_bytes() == content


def test_expand_does_not_overwrite(refused, traces, tmp_path):
    output = tmp_path / "replay"
    (output / "second").mkdir(parents=True)
    both = [traces / "first.npz", traces / "second.npz"]
    error = refused("expand", *both, "--output", output)
    assert "second exists" in error
    # The first is not expanded either.
    assert list(output.rglob("*")) == [output / "second"]


def test_expand_some_games_and_steps(
    run, refused, recording, truncated_recording, traces, tmp_path
):
    renamed = dataclasses.replace(recording.trace, game="Pong")  # it cannot be played
    renamed.save(traces / "renamed.npz")
    steps = [len(episode.actions) for episode in truncated_recording.episodes]
    arguments = ["expand", traces / "renamed.npz", traces / "first.npz"]
    arguments += ["--output", tmp_path / "replay"]
    limit = ["--limit-steps", sum(steps[:4])]
    run(*arguments, *limit, "--games", "breakout")
    assert [path.name for path in (tmp_path / "replay").iterdir()] == ["first"]
    assert ReplayStore(tmp_path / "replay" / "first").episode_lengths.tolist() == steps[:4]
    error = refused(*arguments, "--games", "Qbert,Boxing")
    assert "No trace is of Qbert, Boxing; there are traces of Pong, Breakout." in error
    error = refused(*arguments, "--games", "Pong,Boxing")
    assert "No trace is of Boxing; there are traces of Pong, Breakout." in error


def test_expand_a_part(run, refused, truncated_recording, traces, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "WINDOW", 1)
    arguments = ["expand", traces / "first.npz", "--output", tmp_path / "replay"]
    run(*arguments, "--environments", 1, "--split", "mixed")
    store = ReplayStore(tmp_path / "replay" / "first-mixed")
    lengths = [len(episode.actions) for episode in truncated_recording.episodes[::2]]
    assert store.episode_lengths.tolist() == lengths
    error = refused(*arguments, "--split", "expert")
    assert "has no split but mixed: the protocol cuts episodes at 200 frames" in error
    assert "Expected 1 to 2 environments" in refused(*arguments, "--environments", 3)
    run(*arguments, "--environments", 1, "--as", "ram")
    store = ReplayStore(tmp_path / "replay" / "first-ram")
    assert (store.obs_type, store.frames.shape[1:]) == ("ram", (128,))
    names = sorted(path.name for path in (tmp_path / "replay").iterdir())
    assert names == ["first-mixed", "first-ram"]


def test_expand_in_processes(run, refused, truncated_recording, traces, tmp_path, monkeypatch):
    """Stores are as one after the other, with one bar; a trace that diverges disturbs no other."""
    bars = []
    monkeypatch.setattr(
        replay_expand, "ProgressBar", lambda: bars.append(ProgressBar()) or bars[-1]
    )
    both = [traces / "first.npz", traces / "second.npz"]
    run("expand", *both, "--output", tmp_path / "turn", "--jobs", 1)
    (tmp_path / "replay" / "second").parent.mkdir()
    shutil.copytree(tmp_path / "turn" / "second", tmp_path / "replay" / "second")
    checksums = truncated_recording.trace.checksums + 1
    damaged = dataclasses.replace(truncated_recording.trace, checksums=checksums)
    damaged.save(traces / "damaged.npz")
    arguments = ["expand", *both, traces / "damaged.npz", "--output", tmp_path / "replay"]
    error = refused(*arguments, "--jobs", 2)
    assert "Breakout diverged at the reset" in error
    steps = truncated_recording.trace.actions.size
    shown = [(task.description, task.completed, task.total) for bar in bars for task in bar.tasks]
    assert shown == [("2 traces", 2 * steps, 2 * steps), ("2 traces", steps, 2 * steps)]
    assert sorted(path.name for path in (tmp_path / "replay").iterdir()) == ["first", "second"]
    for path in (tmp_path / "turn").rglob("*"):
        if path.is_file():
            same = tmp_path / "replay" / path.relative_to(tmp_path / "turn")
            assert same.read_bytes() == path.read_bytes()
    assert "Expected a number of jobs, or 0 for one a core, got -1" in refused(
        *arguments, "--jobs", -1
    )


def test_expand_of_what_is_no_trace(refused, traces, tmp_path):
    error = refused(
        "expand",
        traces / "first.npz",
        "x.npz",
        "--output",
        tmp_path / "replay",
    )
    assert "no trace at x.npz" in error
    (traces / "first.npz").write_bytes(b"damaged")
    error = refused("expand", traces / "first.npz", "--output", tmp_path / "replay")
    assert "first.npz is no readable trace" in error
    assert not (tmp_path / "replay").exists()


def test_expand_of_a_diverging_trace(refused, truncated_recording, tmp_path):
    checksums = truncated_recording.trace.checksums + 1
    trace = dataclasses.replace(truncated_recording.trace, checksums=checksums)
    trace.save(tmp_path / "trace.npz")
    output = tmp_path / "replay"
    error = refused("expand", tmp_path / "trace.npz", "--output", output)
    assert "Breakout diverged at the reset, at or before step 0" in error
    assert list(output.iterdir()) == []


def test_verify(run, breakout_store, readable_store, capsys):
    run("verify", breakout_store, readable_store)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{ReplayStore(path)}: whole" for path in (breakout_store, readable_store)]


def test_verify_finds_damage(run, refused, make_random_episodes, write_store, tmp_path):
    path = write_store(tmp_path / "store", "Pong", make_random_episodes([5], side=8), screen_size=8)
    run("verify", path)
    content = bytearray((path / "actions.npy").read_bytes())
    content[-1] ^= 1
    (path / "actions.npy").write_bytes(content)
    assert "actions.npy is damaged" in refused("verify", path)
    assert "Expected a replay store at" in refused("verify", tmp_path / "nothing")


def test_verify_of_a_folder_of_stores(run, refused, breakout_store, tmp_path, capsys):
    assert "Expected folders of replay stores" in refused("verify")
    assert "Expected folders of replay stores" in refused("trim")
    shutil.copytree(breakout_store, tmp_path / "b.2")
    shutil.copytree(breakout_store, tmp_path / "a")
    (tmp_path / "no store").mkdir()
    run("verify", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{ReplayStore(tmp_path / name)}: whole" for name in ("a", "b.2")]


@pytest.mark.parametrize(
    "command", ["expand", "import dqn-replay x --game Pong", "import rlu x --game Pong"]
)
def test_negative_threads(refused, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    message = refused(*command.split(), "--threads", -2)
    assert "Expected a number of threads, or 0 for one a core, got -2" in message
    assert list(tmp_path.iterdir()) == []


def test_no_command(refused, monkeypatch, capsys):
    assert "expand" in refused(monkeypatch, capsys)

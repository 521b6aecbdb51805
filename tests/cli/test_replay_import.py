"""mgdt-replay import: what it makes of DQN Replay's and RLU's files, and what it refuses."""

import shutil
import sys
from pathlib import Path

import pytest

from mgdt_agents.replay import ReplayStore
from mgdt_cli import replay

DATA = Path(__file__).parents[1] / "data" / "dqn_replay"


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(source, *arguments, game="Pong", output="replay", format="dqn-replay"):
        command = ["mgdt-replay", "import", format, source, "--games", game]
        command += ["--output", tmp_path / output, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        replay.main()

    return run


def test_runs(run, tmp_path, capsys):
    shutil.copytree(DATA / "Pong" / "1", tmp_path / "source" / "dqn" / "Pong" / "2")
    shutil.copytree(DATA / "Pong" / "1", tmp_path / "source" / "dqn" / "Pong" / "4")
    for _ in range(2):  # the second time there is nothing to do
        run(tmp_path / "source", "--runs", "2,4", game="pong")
        printed = capsys.readouterr()
        assert printed.out == ""
        error = " ".join(printed.err.split())
        assert "ale-py's ROM plays like the one of DQN Replay (same_hash;" in error
        assert "true scores are unknown" in error
        assert error.count("7,334 steps, 335 episodes") == 2
    assert sorted(path.name for path in (tmp_path / "replay").iterdir()) == ["Pong-2", "Pong-4"]
    for number in (2, 4):
        store = ReplayStore(tmp_path / "replay" / f"Pong-{number}")
        store.verify()
        assert store.meta["source"]["run"] == number


def test_games(run, refused, tmp_path, capsys):
    for name in ("Pong", "Carnival"):  # of as many actions
        shutil.copytree(DATA / "Pong" / "1", tmp_path / "source" / name / "1")
    run(tmp_path / "source", game="Pong,carnival")
    names = sorted(path.name for path in (tmp_path / "replay").iterdir())
    assert names == ["Carnival-1", "Pong-1"]
    assert ReplayStore(tmp_path / "replay" / "Carnival-1").game == "Carnival"
    error = " ".join(capsys.readouterr().err.split())
    assert "Pong: ale-py's ROM plays like" in error
    assert "Carnival: ale-py's ROM" in error
    # What one of them lacks is found before another is imported.
    refused(tmp_path / "source", game="Pong,Breakout", output="other")
    assert not (tmp_path / "other").exists()


def test_limit(run, tmp_path):
    run(DATA, "--limit-steps", "0.1k", "--threads", 1)
    store = ReplayStore(tmp_path / "replay" / "Pong-1")
    assert 40 < len(store) <= 100
    assert not store.truncated.any()


def test_time_limit(run, tmp_path):
    run(DATA, "--max-episode-steps", 60)
    store = ReplayStore(tmp_path / "replay" / "Pong-1")
    assert store.truncated.sum() == (store.episode_lengths == 60).sum() > 0
    assert store.protocol.max_frames == 240
    assert store.meta["source"]["max_episode_steps"] == 60


def test_missing_pass_and_another_rom(run, tmp_path, capsys):
    # The files of a game with as many actions.
    folder = tmp_path / "source" / "Carnival" / "1"
    shutil.copytree(DATA / "Pong" / "1" / "replay_logs", folder)
    for path in folder.glob("*_ckpt.2.gz"):
        path.unlink()
    run(tmp_path / "source", game="Carnival")
    error = " ".join(capsys.readouterr().err.split())
    assert "Carnival-1: no file holds pass 2 over" in error
    assert "ale-py's ROM differs from the one of DQN Replay (large_shift;" in error


def test_nothing_is_imported_if_a_run_is_missing(refused, tmp_path):
    message = refused(DATA, "--runs", "1", "2")
    assert "Expected the files of Pong, run 2, such as $store$_observation_ckpt.0.gz" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "game", "arguments", "message"),
    [
        (DATA / "Pong", "Breakout", (), "Pong by its name; choose --game Pong"),
        (DATA, "Pnog", (), "Unknown game or suite 'Pnog'. Did you mean 'Pong'"),
        (DATA, "Pong", ("--runs", "one"), "Expected numbers after --runs"),
        (DATA, "Pong", ("--runs",), "Expected numbers after --runs"),
        (DATA, "Pong", ("--limit-steps", "0"), "Expected a number of steps such as 500000"),
        ("nothing://x", "Pong", (), "nothing"),
    ],
)
def test_bad_arguments(refused, tmp_path, source, game, arguments, message):
    assert message in refused(source, *arguments, game=game)
    assert list(tmp_path.iterdir()) == []


def test_damaged_file(refused, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(DATA / "Pong", source / "Pong")
    path = source / "Pong" / "1" / "replay_logs" / "$store$_observation_ckpt.3.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    message = refused(source)
    assert f"Cannot read {path} beyond row" in message
    assert not (tmp_path / "replay" / "Pong-1").exists()


def test_rlu(run, refused, tmp_path, capsys):
    pytest.importorskip("google_crc32c")
    pytest.importorskip("google.protobuf")
    from tests.mgdt_agents.replay.formats.rlu_shards import encode, play, write_run

    episodes = [play(5, side=84), play(3, side=84, is_terminal=False), play(4, side=84)]
    for number in (1, 3):
        write_run(tmp_path / "data", {"checkpoint_00": [encode(*episodes)]}, run=number)
    for _ in range(2):  # the second time there is nothing to do
        run(tmp_path / "data", "--runs", "1,3", "--threads", 1, format="rlu")
        error = " ".join(capsys.readouterr().err.split())
        assert "plays like the one of DQN Replay (same_hash;" in error
        assert "true scores are unknown" in error
        assert error.count("9 steps, 2 episodes") == 2
    run(tmp_path / "data", "--limit-steps", 5, format="rlu", output="limited")
    assert len(ReplayStore(tmp_path / "limited" / "Pong-1")) == 5
    message = refused(tmp_path / "data", "--runs", "2", format="rlu")
    assert "Expected Pong_run_2 of RLU Atari" in message

"""mgdt-replay import minari and export minari."""

import sys

import numpy as np
import pytest

from mgdt_agents.replay import ReplayStore
from mgdt_cli import replay

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-replay", *map(str, arguments)])
        replay.main()

    return run


@pytest.fixture
def store(make_random_episodes, write_store, tmp_path):
    return write_store(tmp_path / "stores" / "Pong", "Pong", make_random_episodes([40, 50, 60]))


def test_export_and_import(run, store, tmp_path, capsys):
    run("export", "minari", store, "--id", "mgdt/pong-v0")
    assert "minari.load_dataset('mgdt/pong-v0') reads it" in capsys.readouterr().err
    for _ in range(2):  # the second time there is nothing to do
        run("import", "minari", "mgdt/pong-v0", "--game", "pong", "--output", tmp_path / "replay")
        printed = capsys.readouterr()
        assert printed.out == ""
        error = " ".join(printed.err.split())
        assert "Pong: sticky 0.25" in error
        assert "Observations of shape (84, 84), converted: none." in error
        assert "150 steps, 3 episodes" in error
    imported = ReplayStore(tmp_path / "replay" / "mgdt-pong-v0")
    imported.verify()
    np.testing.assert_array_equal(imported.frames[:], ReplayStore(store).frames[:])


def test_limits(run, refused, store, tmp_path):
    run("export", "minari", store, "--id", "pong-v0", "--limit-steps", "0.1k")
    assert minari.load_dataset("pong-v0").total_steps == 90
    run("import", "minari", "pong-v0", "--output", tmp_path, "--limit-steps", 50)
    assert len(ReplayStore(tmp_path / "pong-v0")) == 40
    assert "limit of 40 steps or more" in refused(
        "export", "minari", store, "--id", "pong-v1", "--limit-steps", 39
    )


def test_refused(run, refused, store, tmp_path):
    assert "Expected a replay store at" in refused("export", "minari", tmp_path, "--id", "pong-v0")
    run("export", "minari", store, "--id", "pong-v0")
    assert "pong-v0 exists; choose another --id" in refused(
        "export", "minari", store, "--id", "pong-v0", "--limit-steps", 50
    )
    assert "with a version at its end" in refused("export", "minari", store, "--id", "pong")
    assert "add --download, or set MINARI_DATASETS_PATH" in refused("import", "minari", "pong-v1")
    output = ("--output", tmp_path / "replay")
    message = refused("import", "minari", "pong-v0", "--games", "Breakout,Qbert", *output)
    assert "expected one of Breakout, Qbert, it is of Pong" in message
    assert not (tmp_path / "replay").exists()

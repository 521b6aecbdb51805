"""Weights & Biases, without a network."""

import json
import os
import subprocess
import sys
import time

import pytest

from mgdt_agents.training.run_folder import DESCRIPTION
from mgdt_agents.training.tracking import RUN_ID, WandbTracker


def test_lines_reach_the_run_that_is_resumed(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (tmp_path / DESCRIPTION).write_text(json.dumps({"training": {"batch_size": 77}}))
    for step, loss in ((1, 2.625), (2, 1.375)):
        with WandbTracker(tmp_path) as tracker:
            tracker.begin()
            tracker({"step": step, "loss": loss})
        time.sleep(1.1)  # wandb names its folders by the second
    name = (tmp_path / RUN_ID).read_text()
    # Offline, each start has a file of its own; `wandb sync` puts them together by the name.
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    contents = [file.read_bytes() for file in files]
    assert all(b"batch_size" in content and b"mgdt" in content for content in contents)
    assert [(b"2.625" in content, b"1.375" in content) for content in contents] == [
        (True, False),
        (False, True),
    ]


def test_without_an_account(tmp_path):
    pytest.importorskip("wandb")
    # In a process of its own, for wandb reads its settings once.
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from mgdt_agents.training.tracking import WandbTracker as W; W('x')",
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WANDB_MODE": "online"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "InvalidArgument: Weights & Biases cannot be used: No API key" in done.stderr
    assert "set WANDB_MODE=offline" in done.stderr


def test_without_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'mgdt\[wandb\]'"):
        WandbTracker(tmp_path)

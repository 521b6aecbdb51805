"""Collecting replay with stable-baselines3."""

import json

import numpy as np
import pytest

from mgdt_agents.online import sb3_collection
from mgdt_agents.online.collection import SB3Config
from mgdt_agents.online.sb3_collection import collect_with_sb3
from mgdt_agents.replay import Trace


def collect_small(learner, output, steps, **arguments):
    config = SB3Config(num_envs=2, buffer_size=200, seed=4)
    return collect_with_sb3(
        learner, "Pong", steps, config, output, device="cpu", num_threads=1, **arguments
    )


@pytest.mark.parametrize(("learner", "played"), [("dqn", 64), ("ppo", 256)])
def test_collection(learner, played, tmp_path, monkeypatch):
    monkeypatch.setattr(sb3_collection, "LOG_INTERVAL", 40)
    figures = []
    output = tmp_path / "Pong"
    assert collect_small(learner, output, 64, on_log=figures.append)
    trace = Trace.load(output / "Pong.npz")
    assert trace.actions.shape == (played // 2, 2)
    assert trace.seeds.tolist() == [4, 5]
    assert trace.source["learner"] == learner
    assert trace.source["config"]["num_envs"] == 2
    # The game's minimal set.
    assert set(np.unique(trace.actions)) <= {0, 1, 3, 4, 11, 12}
    assert len(set(np.unique(trace.actions))) > 2
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert lines == figures
    assert [line["step"] for line in lines][:2] == [40, 64]
    assert sorted(path.name for path in output.iterdir()) == [
        "Pong.npz",
        "collection.json",
        "metrics.jsonl",
    ]
    with pytest.raises(FileExistsError, match=f"collection of {learner}, which cannot go on"):
        collect_small(learner, output, 64)


def test_stopped_collection_keeps_what_was_played(tmp_path):
    answers = iter([False] * 4)
    assert not collect_small("dqn", tmp_path / "Pong", 64, should_stop=lambda: next(answers, True))
    assert len(Trace.load(tmp_path / "Pong" / "Pong.npz").actions) == 5

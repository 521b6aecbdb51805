"""A folder's run resumes with what it was begun with, or says what is not the same."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from mgdt_agents import make_agent
from mgdt_agents.replay import splits
from mgdt_agents.training import TrainingConfig, train
from mgdt_envs import AtariProtocol


@pytest.fixture
def store(make_random_episodes, write_store, tmp_path):
    return write_store(tmp_path / "store", "Pong", make_random_episodes([5, 6]))


@pytest.fixture
def config(store):
    return TrainingConfig(replay=(store,), steps=2, batch_size=2, checkpoint_interval=1)


def run(config, output, kind="dt", **options):
    torch.manual_seed(0)
    agent = make_agent(kind, "tiny", device="cpu", **options)
    return train(agent, config, output=output)


def test_description_says_what_was_trained_on_what(config, tmp_path):
    run(config, tmp_path / "run")
    description = json.loads((tmp_path / "run" / "training.json").read_text())
    assert description["agent"] == "dt"
    assert description["network"]["width"] == 64
    assert description["protocol"] == AtariProtocol().to_dict()
    assert description["training"]["replay"] == [str(config.replay[0])]
    (data,) = description["data"]
    assert (data["game"], data["steps"], data["episodes"]) == ("Pong", 11, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 8}, "batch_size was 2, is 8"),
        ({"learning_rate": 0.5, "seed": 3}, "learning_rate was 0.0003, is 0.5; seed was 0, is 3"),
        ({"steps": 1}, "steps is 1, and 2 are trained"),
    ],
    ids=str,
)
def test_another_training_is_refused(config, tmp_path, fields, message):
    run(config, tmp_path / "run")
    with pytest.raises(ValueError, match=f"checkpoint of another training: {re.escape(message)}"):
        run(dataclasses.replace(config, **fields), tmp_path / "run")
    # What is there is whole still.
    assert run(config, tmp_path / "run") == 2


def test_another_agent_is_refused(config, tmp_path):
    run(config, tmp_path / "run")
    with pytest.raises(ValueError, match="another training: agent was dt, is bc; return_tokens"):
        run(config, tmp_path / "run", "bc")


def test_other_rules_are_refused(config, tmp_path):
    config = dataclasses.replace(config, mix_protocols=True)
    run(config, tmp_path / "run")
    with pytest.raises(ValueError, match=r"another training: sticky was 0.25, is 0.0"):
        run(config, tmp_path / "run", protocol=AtariProtocol(sticky=0.0))


def test_what_changes_no_result_may_change(config, store, tmp_path):
    run(dataclasses.replace(config, steps=1), tmp_path / "run")
    moved = shutil.move(store, tmp_path / "moved")
    other = dataclasses.replace(
        config, replay=(moved,), workers=0, log_interval=1, checkpoint_interval=7
    )
    assert run(other, tmp_path / "run") == 2


@pytest.mark.parametrize("lengths", [[5, 6, 7], [6, 5]], ids=["extended", "replaced"])
def test_other_data_in_the_same_folder_are_refused(
    config, store, make_random_episodes, write_store, tmp_path, lengths
):
    run(config, tmp_path / "run")
    shutil.rmtree(store)
    write_store(store, "Pong", make_random_episodes(lengths))
    longer = dataclasses.replace(config, steps=4)
    with pytest.raises(ValueError, match="store was extended or replaced: it had 11 steps of Pong"):
        run(longer, tmp_path / "run")


def test_a_split_is_named(config, store, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "WINDOW", 1)
    named = dataclasses.replace(config, replay=(f"{store}:mixed",))
    run(named, tmp_path / "run")
    description = json.loads((tmp_path / "run" / "training.json").read_text())
    assert description["training"]["replay"] == [f"{store}:mixed"]
    assert description["data"][0]["split"] == "mixed"
    assert "| Pong:mixed | 11 | 2 |" in (tmp_path / "run" / "card.md").read_text()
    with pytest.raises(
        ValueError, match=r"had 11 steps of Pong:mixed in .*, has . steps of Pong:ex"
    ):
        run(dataclasses.replace(config, replay=(f"{store}:expert",)), tmp_path / "run")


def test_more_stores_are_refused(config, store, tmp_path):
    run(config, tmp_path / "run")
    more = dataclasses.replace(config, replay=(store, store))
    with pytest.raises(ValueError, match="there were 1 replay stores, are 2"):
        run(more, tmp_path / "run")


def test_steps_of_a_falling_learning_rate_change_only_when_they_are_done(config, tmp_path):
    falling = dataclasses.replace(config, decay="linear", steps=4)
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu")
    train(agent, falling, output=tmp_path / "run", should_stop=lambda: True)
    longer = dataclasses.replace(falling, steps=6)
    with pytest.raises(ValueError, match="steps was 4, is 6, and the learning rate falls toward"):
        run(longer, tmp_path / "run")
    assert run(falling, tmp_path / "run") == 4
    assert run(longer, tmp_path / "run") == 6


def test_half_a_line_of_the_log_is_written_anew(config, tmp_path):
    config = dataclasses.replace(config, log_interval=1)
    run(config, tmp_path / "run")
    log: Path = tmp_path / "run" / "metrics.jsonl"
    before = log.read_text()
    log.write_text(before + '{"step": 3, "lo')
    run(config, tmp_path / "run")
    assert log.read_text() == before

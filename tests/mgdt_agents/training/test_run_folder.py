"""A folder's run resumes with what it was begun with, or says what is not the same."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from mgdt_agents import load_agent, make_agent
from mgdt_agents.replay import files, splits
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
    with pytest.raises(ValueError, match=f"holds another training: {re.escape(message)}"):
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
    other = shutil.copytree(store, tmp_path / "other")
    more = dataclasses.replace(config, replay=(store, other))
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


def folder_of(output):
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "card.md"])
def test_killed_between_the_last_checkpoint_and_the_agent(config, tmp_path, lost):
    run(config, tmp_path / "run")
    before = folder_of(tmp_path / "run")
    (tmp_path / "run" / lost).unlink()
    assert run(config, tmp_path / "run") == 2
    after = folder_of(tmp_path / "run")
    for name in ("model.safetensors", "config.json", "card.md"):
        assert after[name] == before[name], name


def test_an_agent_without_a_checkpoint_is_kept(config, tmp_path):
    output = tmp_path / "run"
    run(config, output)
    shutil.rmtree(output / "checkpoint-2")
    before = folder_of(output)
    with pytest.raises(ValueError, match=r"another training: learning_rate was 0\.0003, is 0\.5"):
        run(dataclasses.replace(config, learning_rate=0.5), output)
    with pytest.raises(ValueError, match="steps was 2, is 3, and there is no checkpoint"):
        run(dataclasses.replace(config, steps=3), output)
    with pytest.raises(
        FileExistsError, match=r"trained for 2 steps and no checkpoint .*--overwrite"
    ):
        run(config, output)
    assert folder_of(output) == before
    # Where a kill came while the first one was being written, there is nothing to keep.
    (output / "checkpoint.partial").mkdir()
    assert run(config, output) == 2
    (output / "training.json").unlink()
    with pytest.raises(FileExistsError, match="holds an agent and no training to resume"):
        run(config, output)


def test_damaged_description(config, tmp_path):
    run(config, tmp_path / "run")
    (tmp_path / "run" / "training.json").write_text("{")
    with pytest.raises(ValueError, match=r"training\.json is not JSON"):
        run(config, tmp_path / "run")


def test_what_was_there_is_removed_only_when_training_begins(config, store, tmp_path):
    output = tmp_path / "run"
    run(config, output)
    (output / "notes.txt").write_text("of the old one")
    other = dataclasses.replace(config, learning_rate=0.5)

    def overwrite(config):
        agent = make_agent("dt", "tiny", device="cpu")
        return train(agent, config, output=output, overwrite=True)

    with pytest.raises(ValueError, match="nothing"):
        overwrite(dataclasses.replace(other, replay=(tmp_path / "nothing",)))
    with (
        files.exclusive(output, inside=True),
        pytest.raises(ValueError, match="is being written by another writer"),
    ):
        overwrite(other)
    assert (output / "notes.txt").exists()
    assert overwrite(other) == 2
    assert not (output / "notes.txt").exists()
    description = json.loads((output / "training.json").read_text())
    assert description["training"]["learning_rate"] == 0.5


def test_the_store_that_is_trained_on_is_not_overwritten(config, store, tmp_path):
    output = tmp_path / "run"
    run(config, output)
    inside = shutil.copytree(store, output / "replay" / "Pong")
    (tmp_path / "link").symlink_to(output)
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu")
    config = dataclasses.replace(config, replay=(inside,))
    for folder in output, tmp_path / "link":
        with pytest.raises(ValueError, match=f"{inside} is in .*, and would be overwritten"):
            train(agent, config, output=folder, overwrite=True)
    assert (inside / "meta.json").exists()


def test_windows_seen_and_the_card(config, tmp_path):
    """They are of the agent as it was saved, whether it was stopped, extended or tuned."""
    config = dataclasses.replace(config, heldout_fraction=0.5, heldout_interval=1)
    output = tmp_path / "run"
    agent = make_agent("dt", "tiny", device="cpu")
    train(agent, config, output=output, should_stop=lambda: True)
    assert agent.trained_windows == load_agent(output).trained_windows == 2
    assert load_agent(output / "best").trained_windows == 2
    card = (output / "card.md").read_text()
    assert "for 2 gradient steps of 2 windows when it is done" in card
    assert run(dataclasses.replace(config, steps=5), output) == 5
    assert load_agent(output).trained_windows == 10
    assert "for 5 gradient steps" in (output / "card.md").read_text()
    assert "for 5 gradient steps" in (output / "best" / "card.md").read_text()
    assert run(dataclasses.replace(config, steps=5), output) == 5
    assert (output / "best" / "card.md").exists()
    (output / "card.md").write_text("mine")
    run(dataclasses.replace(config, steps=6), output)
    assert (output / "card.md").read_text() == "mine"
    tuned = load_agent(output)
    train(tuned, config, output=tmp_path / "tuned")
    assert load_agent(tmp_path / "tuned").trained_windows == 12 + 4
    begun = "It began with the weights of a saved agent"
    assert begun in (tmp_path / "tuned" / "card.md").read_text()
    assert begun not in card


def test_weights_that_it_began_with_are_compared(config, tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        make_agent("dt", "tiny", device="cpu").save(tmp_path / f"agent-{seed}")
    train(load_agent(tmp_path / "agent-0"), config, output=tmp_path / "run")
    assert train(load_agent(tmp_path / "agent-0"), config, output=tmp_path / "run") == 2
    with pytest.raises(ValueError, match=r"another training: begins_with was \w+, is \w+\."):
        train(load_agent(tmp_path / "agent-1"), config, output=tmp_path / "run")
    with pytest.raises(ValueError, match=r"another training: begins_with was \w+, is None\."):
        run(config, tmp_path / "run")


def test_the_run_s_own_agent_goes_on_in_it(config, tmp_path):
    output = tmp_path / "run"
    torch.manual_seed(0)
    make_agent("dt", "tiny", device="cpu").save(tmp_path / "first")
    agent = load_agent(tmp_path / "first")
    train(agent, config, output=output)
    longer = dataclasses.replace(config, steps=4)
    assert train(agent, longer, output=output) == 4  # the same object
    assert agent.trained_windows == load_agent(output).trained_windows == 8
    longer = dataclasses.replace(config, steps=6)
    again = load_agent(output)
    assert train(again, longer, output=output) == 6  # what the folder holds
    assert again.trained_windows == load_agent(output).trained_windows == 12
    # A description that does not say what the run began with is taken as it is.
    description = json.loads((output / "training.json").read_text())
    assert description.pop("begins_with") == agent.loaded_checksum
    (output / "training.json").write_text(json.dumps(description))
    assert train(load_agent(tmp_path / "first"), longer, output=output) == 6

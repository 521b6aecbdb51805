"""Checkpoints: whole or not there, the last ones kept, and clear when they are damaged."""

import dataclasses
import errno
import shutil

import pytest
import torch

from mgdt_agents import make_agent
from mgdt_agents.errors import TrainingError
from mgdt_agents.training import TrainingConfig, checkpoint, train


@pytest.fixture
def config(readable_store):
    return TrainingConfig(
        replay=(readable_store,), steps=4, batch_size=4, checkpoint_interval=1, log_interval=1
    )


def run(config, output, kind="dt", size="tiny", **options):
    torch.manual_seed(0)
    return train(make_agent(kind, size, device="cpu"), config, output=output, **options)


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint*"))


def test_last_checkpoints_are_kept(config, tmp_path):
    run(dataclasses.replace(config, keep_checkpoints=2), tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    # Fewer may be kept from now on.
    run(dataclasses.replace(config, steps=5), tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-5"]


def test_checkpoints_written_in_the_background_are_the_same(config, tmp_path, monkeypatch):
    run(config, tmp_path / "here")
    init = checkpoint.Checkpoints.__init__
    monkeypatch.setattr(
        checkpoint.Checkpoints,
        "__init__",
        lambda self, folder, keep, in_background: init(self, folder, keep, True),
    )
    run(config, tmp_path / "background")
    assert checkpoints(tmp_path / "background") == ["checkpoint-4"]
    for name in ("here", "background"):
        run(dataclasses.replace(config, steps=6), tmp_path / name)
    assert (
        len({(tmp_path / n / "model.safetensors").read_bytes() for n in ("here", "background")})
        == 1
    )


def test_full_disk_leaves_the_last_checkpoint(config, tmp_path, monkeypatch):
    run(dataclasses.replace(config, steps=2), tmp_path)
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoint-2").iterdir()}
    save = checkpoint.dcp.save

    def fill_the_disk(content, checkpoint_id, **options):
        save(content, checkpoint_id=checkpoint_id, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", fill_the_disk)
    with pytest.raises(TrainingError, match=r"perhaps for want of space.*No space left") as caught:
        run(config, tmp_path)
    assert "The last checkpoint is whole; the same command resumes" in str(caught.value)
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    assert {path: path.read_bytes() for path in files} == files
    with pytest.raises(TrainingError, match=r"the first; there is none to resume from\.$"):
        run(config, tmp_path / "new")
    monkeypatch.undo()
    assert run(config, tmp_path) == 4
    assert run(config, tmp_path / "new") == 4


def test_damaged_checkpoint_is_named(config, tmp_path):
    run(config, tmp_path)
    for path in (tmp_path / "checkpoint-4").glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"from .*checkpoint-4, which is damaged") as caught:
        run(config, tmp_path)
    assert str(caught.value).endswith(". Begin another run.")


def test_damaged_checkpoint_beside_an_older_one(config, tmp_path, caplog):
    run(dataclasses.replace(config, keep_checkpoints=2), tmp_path)
    (tmp_path / "checkpoint-4" / ".metadata").write_bytes(b"")
    caplog.clear()
    with pytest.raises(TrainingError, match="Remove it to resume from an older one, or begin"):
        run(config, tmp_path)
    # Torch says nothing of its own.
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert run(config, tmp_path) == 4


def test_two_trainings_in_one_folder_are_refused(config, tmp_path):
    def begin_another(figures):
        with pytest.raises(ValueError, match="is being written by another writer"):
            run(config, tmp_path)

    assert run(dataclasses.replace(config, steps=1), tmp_path, on_log=begin_another) == 1

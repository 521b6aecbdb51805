"""Stores as Minari data sets, and back."""

import sys

import gymnasium as gym
import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats import import_recording
from mgdt_agents.replay.formats.minari import MinariRecording, export_minari
from mgdt_agents.replay.store import COLUMNS
from mgdt_envs import AtariProtocol, game

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


@pytest.fixture
def store(make_random_episodes, write_store, tmp_path):
    """Noise, which JPEG would change; the second episode is truncated."""
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([5, 16, 7]), sticky=0.1)
    return ReplayStore(path)


def test_loaded_by_minari(store, datasets):
    steps = []
    path = export_minari(store, "mgdt/pong-v0", on_steps=steps.append)
    assert path == datasets / "mgdt" / "pong-v0"
    assert steps == [5, 21, 28]
    assert list(minari.list_local_datasets()) == ["mgdt/pong-v0"]
    dataset = minari.load_dataset("mgdt/pong-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 28)
    assert dataset.observation_space == gym.spaces.Box(0, 255, (84, 84), np.uint8)
    bounds = [0, *steps]
    for number, episode in enumerate(dataset):
        rows = slice(bounds[number], bounds[number + 1])
        np.testing.assert_array_equal(episode.observations[:-1], store.frames[rows])
        np.testing.assert_array_equal(episode.observations[-1], store.frames[rows][-1])
        np.testing.assert_array_equal(episode.actions, store.actions[rows])
        np.testing.assert_array_equal(episode.rewards, store.rewards[rows])
        np.testing.assert_array_equal(episode.terminations, store.terminated[rows])
        np.testing.assert_array_equal(episode.truncations, store.truncated[rows])
        assert all(map(dataset.action_space.contains, episode.actions))
    metadata = dataset.storage.metadata
    assert metadata["jpeg_encoding"] is False
    assert AtariProtocol.from_dict(metadata["mgdt"]["protocol"]) == store.protocol
    assert metadata["mgdt"]["source"] == {"kind": "test"}
    assert metadata["mgdt"]["last_observations"] == "repeated"


def test_reference_scores_and_environment(store):
    export_minari(store, "pong-v0")
    dataset = minari.load_dataset("pong-v0")
    pong = game("Pong")
    scores = minari.get_normalized_score(dataset, np.array([pong.random, pong.human]))
    np.testing.assert_allclose(scores, [0, 1])
    env = dataset.recover_environment()
    assert env.unwrapped.games == ("Pong",)
    assert env.unwrapped.protocol == store.protocol
    env.close()


def test_game_without_human_score(make_random_episodes, write_store, tmp_path):
    path = write_store(tmp_path / "Carnival", "Carnival", make_random_episodes([3]))
    export_minari(ReplayStore(path), "carnival-v0")
    assert "ref_max_score" not in minari.load_dataset("carnival-v0").storage.metadata


def test_import_of_an_export_is_the_store(store, breakout_store, tmp_path):
    for number, exported in enumerate((store, ReplayStore(breakout_store))):
        export_minari(exported, f"mgdt/test-v{number}")
        output = tmp_path / f"imported{number}"
        import_recording(MinariRecording(f"mgdt/test-v{number}"), output)
        imported = ReplayStore(output)
        assert (imported.game, imported.protocol) == (exported.game, exported.protocol)
        assert imported.meta["source"]["exported"] == exported.meta["source"]
        assert imported.meta["source"]["conversion"] == "none"
        for name in ("frames.b2nd", *(f"{column}.npy" for column in COLUMNS)):
            assert (output / name).read_bytes() == (exported.path / name).read_bytes()


def test_clipped_rewards_stay_told(make_random_episodes, write_store, edit_meta, tmp_path):
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([3]))
    edit_meta(path, source={"kind": "dqn-replay", "rewards_clipped": True})
    export_minari(ReplayStore(path), "pong-v0")
    assert MinariRecording("pong-v0").source["rewards_clipped"] is True


@pytest.mark.parametrize(
    ("split", "limit", "expected"),
    [
        ("", None, {"random": 2, "medium": 2, "mixed": 6}),
        ("", 20, {"random": 2, "medium": 1, "mixed": 4}),
        (":medium", None, {"medium": 2, "mixed": 2}),
    ],
)
def test_splits_of_a_part_of_a_trace_stay(
    make_random_episodes, write_store, edit_meta, tmp_path, split, limit, expected
):
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([5] * 6))
    splits = {"random": [0, 2], "medium": [3, 5], "mixed": [0, 6]}
    edit_meta(path, source={"kind": "trace", "splits": splits})
    export_minari(ReplayStore(f"{path}{split}"), "mgdt/part-v0", limit_steps=limit)
    import_recording(MinariRecording("mgdt/part-v0"), tmp_path / "back")
    for name in ("random", "medium", "mixed"):
        if name in expected:
            store = ReplayStore(f"{tmp_path / 'back'}:{name}")
            assert len(store.episode_starts) == expected[name], name
        else:
            with pytest.raises(ReplayError, match=f"has no split {name}"):
                ReplayStore(f"{tmp_path / 'back'}:{name}")
    import_recording(MinariRecording("mgdt/part-v0"), tmp_path / "limited", limit_steps=10)
    assert len(ReplayStore(f"{tmp_path / 'limited'}:mixed").episode_starts) == 2


def test_limit(store):
    export_minari(store, "pong-v0", limit_steps=27)
    assert minari.load_dataset("pong-v0").total_steps == 21
    with pytest.raises(ValueError, match=r"limit of 5 steps or more, .* got 4"):
        export_minari(store, "pong-v1", limit_steps=4)


def test_data_sets_are_not_overwritten(store, datasets):
    path = export_minari(store, "pong-v0")
    assert export_minari(store, "pong-v0", on_steps=pytest.fail) == path  # it is there already
    before = (path / "data" / "main_data.hdf5").read_bytes()
    with pytest.raises(FileExistsError, match="pong-v0 exists; choose another --id"):
        export_minari(store, "pong-v0", limit_steps=5)
    assert (path / "data" / "main_data.hdf5").read_bytes() == before
    with pytest.raises(ValueError, match="with a version at its end"):
        export_minari(store, "pong")


def test_failure_leaves_nothing(store, datasets):
    def full(steps):
        raise OSError(28, "No space left on device")

    with pytest.raises(ReplayError, match=r"Cannot write .*pong-v0, perhaps for want of space"):
        export_minari(store, "pong-v0", on_steps=full)
    assert list(datasets.iterdir()) == []


def test_minari_is_not_installed(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=r"pip install 'mgdt\[minari\]'"):
        export_minari(store, "pong-v0")

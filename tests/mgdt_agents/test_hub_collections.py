"""Collections of traces on the Hugging Face hub, a folder here, for there is no network."""

import dataclasses
import fnmatch
import shutil
import sys

import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.hub import download_collection, push_collection
from mgdt_agents.replay import Trace
from mgdt_agents.replay.trace_collection import open_collection, publish


def copy(source, folder, patterns):
    for path in source.iterdir():
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.name)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """A folder of data sets in the place of the hub, and what was downloaded from it."""
    pytest.importorskip("huggingface_hub")
    root, downloaded = tmp_path / "hub", []

    class FakeApi:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, *, repo_type, private, exist_ok):
            assert (repo_type, exist_ok) == ("dataset", True)
            (root / repo_id).mkdir(parents=True, exist_ok=True)
            (root / repo_id / ".gitattributes").touch()

        def list_repo_files(self, repo_id, *, repo_type):
            return [path.name for path in (root / repo_id).iterdir()]

        def upload_folder(self, *, repo_id, repo_type, folder_path, allow_patterns, commit_message):
            copy(folder_path, root / repo_id, allow_patterns)

    def snapshot_download(repo_id, *, repo_type, allow_patterns, local_dir=None, **options):
        assert repo_type == "dataset"
        if not (root / repo_id).exists():
            raise FileNotFoundError(f"no data set {repo_id}")
        folder = local_dir or tmp_path / "cache" / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        copy(root / repo_id, folder, allow_patterns)
        downloaded.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return root, downloaded


@pytest.fixture
def traces(truncated_recording, tmp_path):
    first = truncated_recording.trace
    first.save(tmp_path / "Breakout.npz")
    dataclasses.replace(first, source={"policy": "other"}).save(tmp_path / "Other.npz")
    return {name: tmp_path / f"{name}.npz" for name in ("Breakout", "Other")}


def test_push_and_download(fake_hub, traces, tmp_path):
    root, downloaded = fake_hub
    assert push_collection("user/traces", {"Breakout": traces["Breakout"]}) == ["Breakout"]
    # It is what a folder of the same traces would hold.
    publish(tmp_path / "folder", {"Breakout": traces["Breakout"]})
    for path in (tmp_path / "folder").iterdir():
        assert (root / "user/traces" / path.name).read_bytes() == path.read_bytes()
    collection = download_collection("user/traces")
    assert downloaded == ["index.json"]
    (path,) = collection.paths(collection.names_of(("Breakout",)))
    assert downloaded == ["index.json", "Breakout.npz"]
    assert Trace.load(path).game == "Breakout"
    # More are added without the traces that are there.
    assert push_collection("user/traces", traces) == ["Other"]
    assert "*.npz" not in downloaded
    assert open_collection(root / "user/traces").names_of(()) == ["Breakout", "Other"]
    assert "## Breakout\n" in (root / "user/traces" / "README.md").read_text()


def test_nothing_is_overwritten(fake_hub, traces):
    root, _ = fake_hub
    (root / "user/mine").mkdir(parents=True)
    (root / "user/mine" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"hf://user/mine holds README.md and no collection"):
        push_collection("user/mine", traces)
    assert (root / "user/mine" / "README.md").read_text() == "mine"
    assert not (root / "user/mine" / "index.json").exists()
    push_collection("user/traces", {"Breakout": traces["Breakout"]})
    with pytest.raises(FileExistsError, match="hf://user/traces holds another trace called"):
        push_collection("user/traces", {"Breakout": traces["Other"]})


def test_damage_on_the_way(fake_hub, traces):
    root, _ = fake_hub
    push_collection("user/traces", traces)
    shutil.copy(traces["Other"], root / "user/traces" / "Breakout.npz")
    collection = download_collection("user/traces")
    with pytest.raises(ReplayError, match=r"is not what hf://user/traces published"):
        collection.paths(["Breakout"])


def test_what_is_not_there(fake_hub, monkeypatch):
    root, _ = fake_hub
    with pytest.raises(ReplayError, match="Cannot download 'user/nothing' from the hub: no data"):
        download_collection("user/nothing")
    (root / "user/empty").mkdir(parents=True)
    with pytest.raises(ReplayError, match="Expected a collection of traces at"):
        download_collection("user/empty")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (download_collection, lambda name: push_collection(name, {})):
        with pytest.raises(ImportError, match=r"pip install 'mgdt\[hub\]'"):
            use("user/name")

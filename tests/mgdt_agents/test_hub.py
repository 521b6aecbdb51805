"""Agents on the Hugging Face hub: a folder, and a hub that is a folder, for there is no network."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mgdt_agents import NetworkAgent, load_agent, make_agent
from mgdt_agents.decision_transformer import DecisionTransformerAgent, Greedy
from mgdt_agents.errors import AgentLoadError, ReplayError
from mgdt_agents.evaluation import BenchmarkConfig, Results, run_benchmark
from mgdt_agents.hub import push_collection
from mgdt_agents.q_learning.cql import CQLAgent
from mgdt_agents.random_agent import RandomAgent
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import InvalidArgument


@pytest.fixture
def hub() -> Any:
    return pytest.importorskip("huggingface_hub")


def make(kind: str = "dt") -> NetworkAgent:
    return make_agent(
        kind, "tiny", games=["Pong"], protocol=AtariProtocol(sticky=0.125), device="cpu"
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of results of an agent."""
    config = BenchmarkConfig(
        games=("Breakout", "AirRaid"),
        episodes=2,
        protocols={"default": AtariProtocol(max_frames=80)},
    )
    path = tmp_path_factory.mktemp("results") / "results.json"
    run_benchmark({"runs/mine": RandomAgent()}, config).save(path)
    return path


@pytest.fixture
def fake_hub(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of repositories in the place of the hub."""
    root = tmp_path / "hub"

    class FakeApi:
        def __init__(self, **_options: object) -> None:
            pass

        def create_repo(self, repo_id: str, **_options: object) -> SimpleNamespace:
            (root / repo_id).mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_options: object) -> str:
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **_options: object) -> str:
        if not (root / repo_id).exists():
            raise FileNotFoundError(f"no repository {repo_id}")
        copy = tmp_path / "cache" / repo_id
        copy.mkdir(parents=True)
        for name in allow_patterns:
            shutil.copy(root / repo_id / name, copy / name)
        return str(copy)

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return root


def assert_same(agent: NetworkAgent, other: NetworkAgent) -> None:
    assert type(agent) is type(other)
    assert (agent.config, agent.games, agent.protocol) == (
        other.config,
        other.games,
        other.protocol,
    )
    for name, tensor in agent.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", NETWORK_AGENTS)
def test_folder(hub: Any, tmp_path: Path, kind: str) -> None:
    agent = make(kind)
    agent.save_pretrained(tmp_path / "agent")
    assert sorted(path.name for path in (tmp_path / "agent").iterdir()) == [
        "README.md",
        "card.md",
        "config.json",
        "model.safetensors",
    ]
    assert_same(agent, type(agent).from_pretrained(tmp_path / "agent", device="cpu"))
    loaded = load_agent(tmp_path / "agent", device="cpu")
    assert isinstance(loaded, NetworkAgent)
    assert_same(agent, loaded)
    # What `save` alone wrote will do, too.
    agent.save(tmp_path / "plain")
    assert_same(agent, type(agent).from_pretrained(str(tmp_path / "plain"), device="cpu"))


def test_push_and_load(fake_hub: Path) -> None:
    agent = make()
    address = agent.push_to_hub("user/dt", card="# Mine\n", private=True, token="secret")
    assert address == "https://hub/user/dt/commit/1"
    (fake_hub / "user/dt/model.pkl").write_bytes(b"not downloaded")
    assert_same(agent, DecisionTransformerAgent.from_pretrained("user/dt", device="cpu"))
    shutil.rmtree(fake_hub.parent / "cache")
    loaded = load_agent("hf://user/dt", device="cpu")
    assert isinstance(loaded, NetworkAgent)
    assert_same(agent, loaded)


def test_card(hub: Any, tmp_path: Path, results: Path) -> None:
    agent = make()
    agent.save_pretrained(
        tmp_path, card="# Mine\n\nIt plays.\n", results=results, license="apache-2.0"
    )
    assert (tmp_path / "card.md").read_text() == "# Mine\n\nIt plays.\n"
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.license) == ("mgdt", "apache-2.0")
    assert card.data.pipeline_tag == "reinforcement-learning"
    assert "atari" in card.data.tags
    scores = Results.load(results)
    evaluations = {entry.dataset_name: entry for entry in card.data.eval_results}
    assert list(evaluations) == ["Breakout", "AirRaid", "1 game"]
    breakout = scores.summaries["runs/mine", "default", "Breakout"]
    assert evaluations["Breakout"].dataset_type == "MultiGameAtari/Breakout-v0"
    assert evaluations["Breakout"].metric_type == "mean_reward"
    assert evaluations["Breakout"].metric_value == (
        f"{breakout.mean:.2f} +/- {np.std(scores.scores('runs/mine', 'Breakout')):.2f}"
    )
    # One game is too few for an IQM.
    assert evaluations["1 game"].metric_type == "mean_human_normalized_score"
    assert evaluations["1 game"].metric_value == pytest.approx(
        scores.aggregates["runs/mine", "default"]["mean"].value, abs=1e-4
    )
    assert card.text.startswith("\n# Mine\n\nIt plays.\n\n## Protocol\n")
    assert "sticky 0.125" in card.text
    assert "sticky 0.25" in card.text  # the benchmark's
    assert f"| Breakout | {breakout.mean:.1f} [" in card.text
    assert "runs/mine" not in (tmp_path / "README.md").read_text()


def test_card_without_scores(hub: Any, tmp_path: Path) -> None:
    agent = make()
    agent.save_pretrained(tmp_path)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.eval_results) == (None, None)
    assert card.text.startswith("\n# dt\n\nTrained on: Pong.\n\n## Protocol\n")
    assert "Benchmark" not in card.text
    (tmp_path / "README.md").write_text("Mine")
    (tmp_path / "card.md").write_text("# Kept\n")
    with pytest.warns(UserWarning, match=r"README.md stays as it is, and is not the model card"):
        agent.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "Mine"
    assert (tmp_path / "card.md").read_text() == "# Kept\n"


def test_card_of_several_protocols_and_of_episodes_given_up(hub: Any, tmp_path: Path) -> None:
    config = BenchmarkConfig(
        games=("Breakout",),
        episodes=2,
        protocols={
            "default": AtariProtocol(max_frames=80),
            "nature": AtariProtocol.nature(),
        },
        max_steps=5,
    )
    scores = run_benchmark({"runs/mine": RandomAgent()}, config)
    scores.save(tmp_path / "results.json")
    make().save_pretrained(tmp_path / "agent", results=tmp_path / "results.json")
    card = hub.ModelCard.load(tmp_path / "agent/README.md")
    assert [(entry.dataset_name, entry.dataset_config) for entry in card.data.eval_results] == [
        ("Breakout, default", "default"),
        ("Breakout, nature", "nature"),
        ("1 game, default", "default"),
        ("1 game, nature", "nature"),
    ]
    assert "Mean scores of 2 episodes a game, and" in card.text
    assert "given up after 5 steps" in card.text
    assert "whole" not in card.text


def test_a_save_that_fails_leaves_the_agent_that_was_there(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make()
    agent.save_pretrained(tmp_path)

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mgdt_agents.agent_files.save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make().save_pretrained(tmp_path)
    assert_same(agent, type(agent).from_pretrained(tmp_path, device="cpu"))


def test_results_of_several_agents_are_refused(
    fake_hub: Path, tmp_path: Path, results: Path
) -> None:
    content = json.loads(results.read_text())
    content["agents"]["bc"] = content["agents"]["runs/mine"]
    content["rows"] += [{**row, "agent": "bc"} for row in content["rows"]]
    several = tmp_path / "several.json"
    several.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"one agent in .*, got 2: \['runs/mine', 'bc'\]"):
        make().push_to_hub("user/dt", results=several)
    for content, message in (("{}", "'format'"), ("[]", "'format'"), ("{", "Cannot read")):
        several.write_text(content)
        with pytest.raises(ValueError, match=message):
            make().save_pretrained(tmp_path / "agent", results=several)
    assert not fake_hub.exists()
    assert not (tmp_path / "agent").exists()


def test_agents_of_another_kind_are_refused(hub: Any, fake_hub: Path, tmp_path: Path) -> None:
    make().push_to_hub("user/dt")
    with pytest.raises(AgentLoadError, match="kind 'dt', expected 'cql'"):
        CQLAgent.from_pretrained("user/dt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AgentLoadError, match="Expected a saved agent at"):
        CQLAgent.from_pretrained(tmp_path / "empty")
    message = "Cannot download 'user/nothing' from the hub: no rep"
    with pytest.raises(AgentLoadError, match=message):
        load_agent("hf://user/nothing")
    with pytest.raises(AgentLoadError, match=message):
        CQLAgent.from_pretrained("user/nothing")


def test_options_of_the_agent(hub: Any, tmp_path: Path) -> None:
    make().save(tmp_path)
    agent = DecisionTransformerAgent.from_pretrained(tmp_path, rule=Greedy(), device="cpu")
    assert agent.rule == Greedy()
    with pytest.raises(ValueError, match=r"Unknown option 'rules' of dt. Did you mean 'rule'"):
        DecisionTransformerAgent.from_pretrained(tmp_path, rules=Greedy())


def test_an_invalid_name_is_refused(hub: Any) -> None:
    with pytest.raises(AgentLoadError, match="Cannot download 'runs/dt/small' from the hub"):
        DecisionTransformerAgent.from_pretrained("runs/dt/small")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    agent = make()
    for use in (agent.push_to_hub, agent.save_pretrained):
        with pytest.raises(ImportError, match=r"pip install 'mgdt\[hub\]'"):
            use("user/name")
    for load in (type(agent).from_pretrained, lambda name: load_agent(f"hf://{name}")):
        with pytest.raises(ImportError, match=r"pip install 'mgdt\[hub\]'"):
            load("user/name")
    # A folder needs no hub.
    agent.save(tmp_path)
    assert_same(agent, type(agent).from_pretrained(tmp_path, device="cpu"))


def test_a_hub_that_is_not_there_is_told(hub, monkeypatch):
    """By the transport's own errors, which are no OSError."""

    class ConnectError(Exception):
        __module__ = "httpx2._exceptions"

    def refuse(*_arguments, **_options):
        raise ConnectError("refused")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(ReplayError, match="Cannot publish to 'user/name' on the hub: refused"):
        push_collection("user/name", {})
    agent = make_agent("bc", "tiny", device="cpu")
    with pytest.raises(InvalidArgument, match="Cannot upload to 'user/name' on the hub: refused"):
        agent.push_to_hub("user/name")

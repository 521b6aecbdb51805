"""Collecting replay: the trace, the agent, stopping, resuming."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mgdt_agents import load_agent
from mgdt_agents.errors import ReplayError, TraceDivergedError, TrainingError
from mgdt_agents.online import online_run
from mgdt_agents.online.collection import collect
from mgdt_agents.online.impala import ImpalaLearnerConfig
from mgdt_agents.online.pqn import PQN, PQNConfig
from mgdt_agents.online.sb3_learner import DQNLearnerConfig
from mgdt_agents.replay import Trace, files, trace_recorder
from mgdt_agents.replay import trace as replay_trace
from mgdt_agents.replay.trace_recorder import software
from mgdt_agents.training import metrics
from mgdt_envs import AtariProtocol
from tests.killing import check_kills

SMALL = PQNConfig(
    num_envs=2,
    rollout_steps=8,
    epochs=1,
    minibatches=1,
    exploration_fraction=1.0,  # a policy that learned so little may not end an episode
    channels=(2, 2, 2),
    hidden=8,
    precision="fp32",
)
STEPS = 2 * 8 * 36
INTERVAL = 100  # of checksums
EPISODES = ("episode_end_step", "episode_env", "episode_return")  # of a trace


@pytest.fixture(autouse=True, scope="module")
def small():
    """One thread, and checksums at short intervals."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (trace_recorder, replay_trace):
            patch.setattr(module, "CHECKSUM_INTERVAL", INTERVAL)
        yield
    torch.set_num_threads(before)


def collect_small(output, steps=STEPS, config=SMALL, **arguments):
    return collect(
        "pqn", ["Breakout"], steps, config, output, device="cpu", num_threads=1, **arguments
    )


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """A collection that was not disturbed."""
    output = tmp_path_factory.mktemp("collection") / "Breakout"
    assert collect_small(output)
    return output


def stop_after(rollouts):
    """Return a `should_stop` that says so after a number of rollouts."""
    answers = iter([False] * rollouts)
    return lambda: next(answers, True)


def assert_same_collection(first, second):
    one, other = Trace.load(first / "Breakout.npz"), Trace.load(second / "Breakout.npz")
    for field in dataclasses.fields(Trace):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (first, second)]
    networks = [state["learner"]["network"] for state in states]
    for name, weight in networks[0].items():
        assert torch.equal(weight, networks[1][name]), name


def test_trace_is_of_the_play(collected):
    trace = Trace.load(collected / "Breakout.npz")
    assert trace.actions.shape == (STEPS // 2, 2)
    assert trace.seeds.tolist() == [0, 1]
    assert trace.source["learner"] == "pqn"
    assert set(np.unique(trace.actions)) == {0, 1, 3, 4}  # Breakout's minimal set
    ends = []
    for number, step in enumerate(trace.play(num_threads=1)):
        ends += [(number, env) for env in np.flatnonzero(step.terminated | step.truncated)]
    assert ends == list(zip(trace.episode_end_step, trace.episode_env, strict=True))
    assert ends


def test_metrics_are_of_the_trace(collected):
    trace = Trace.load(collected / "Breakout.npz")
    (line,) = map(json.loads, (collected / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == STEPS
    assert line["episodes"] == len(trace.episode_return)
    assert line["mean_return"] == pytest.approx(trace.episode_return[-100:].mean())
    # The mean over 36 updates, after the last of which it is 0.01.
    assert line["epsilon"] == pytest.approx(1 - 0.99 * 37 / 72)


def test_agent_is_the_learner_s_network(collected):
    agent = load_agent(collected, device="cpu")
    assert (agent.kind, agent.games) == ("pqn", ("Breakout",))
    learned = torch.load(collected / "checkpoint.pt", weights_only=True)["learner"]["network"]
    assert all(
        torch.equal(weight, learned[name]) for name, weight in agent.model.state_dict().items()
    )
    observations = np.random.default_rng(0).integers(256, size=(50, 4, 84, 84)).astype(np.uint8)
    actions, _ = agent.predict(observations)
    assert set(actions) <= {0, 1, 3, 4}


def test_stopped_collection_resumes_to_the_same_end(collected, tmp_path):
    output = tmp_path / "Breakout"
    assert not collect_small(output, should_stop=stop_after(0))
    assert not collect_small(output, should_stop=stop_after(15))
    rows = len(Trace.load(output / "Breakout.npz").actions)
    assert rows == 15 * 8
    assert collect_small(output)
    assert_same_collection(collected, output)


def test_trace_names_all_the_software_that_played(collected, tmp_path):
    assert Trace.load(collected / "Breakout.npz").source["mgdt"] == software()
    output = tmp_path / "Breakout"
    for rollouts in (1, 3):
        assert not collect_small(output, should_stop=stop_after(rollouts))
        trace = Trace.load(output / "Breakout.npz")
        trace.source["mgdt"] = "0.0, 0.1"
        trace.save(output / "Breakout.npz", overwrite=True)
    assert not collect_small(output, should_stop=stop_after(2 * 8 + 1))
    assert Trace.load(output / "Breakout.npz").source["mgdt"] == f"0.0, 0.1, {software()}"


def test_stop_while_the_recorded_steps_are_played_again(tmp_path):
    output = tmp_path / "Breakout"
    assert not collect_small(output, should_stop=stop_after(3))
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert not collect_small(output, should_stop=stop_after(3))
    assert before == {path.name: path.read_bytes() for path in output.iterdir()}


def test_damaged_checkpoint(tmp_path):
    output = tmp_path / "Breakout"
    assert not collect_small(output, should_stop=stop_after(1))
    checkpoint = output / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(
        TrainingError, match=r"Cannot resume from .*checkpoint\.pt, which is damaged"
    ):
        collect_small(output)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "it has no steps_played"),
        ([1], "it has no steps_played"),
        ({"steps_played": 16, "learner": 1}, "it has no learner"),
        ({"steps_played": 16, "learner": {"steps_played": 16}}, "'network'"),
    ],
    ids=str,
)
def test_checkpoint_of_something_else(tmp_path, content, reason):
    output = tmp_path / "Breakout"
    assert not collect_small(output, should_stop=stop_after(1))
    torch.save(content, output / "checkpoint.pt")
    with pytest.raises(TrainingError, match=rf"Cannot resume from .* network: {reason}\. Choose"):
        collect_small(output)


def test_checkpoint_of_another_network(tmp_path):
    output = tmp_path / "Breakout"
    assert not collect_small(output, should_stop=stop_after(1))
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    weights = state["learner"]["network"]
    weights["outputs.weight"] = torch.cat([weights["outputs.weight"]] * 2)
    torch.save(state, output / "checkpoint.pt")
    with pytest.raises(
        TrainingError, match=r"(?s)Cannot resume from .* another network: .*size mis"
    ):
        collect_small(output)


def test_resumed_log_is_that_of_one_run_straight(tmp_path, monkeypatch):
    monkeypatch.setattr(online_run, "LOG_INTERVAL", 64)
    collect_small(tmp_path / "straight", 256)
    for answers in 3, 6, None:
        stop = {} if answers is None else {"should_stop": stop_after(answers)}
        collect_small(tmp_path / "run", 256, **stop)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("straight", "run")
    ]
    for line in (*lines[0], *lines[1]):
        del line["steps_per_second"]
    assert [line["step"] for line in lines[0]] == [64, 128, 192, 256]
    assert lines[0] == lines[1]


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    output = tmp_path / "Breakout"

    def fill_the_disk(state, path):
        path.write_bytes(b"part")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill_the_disk)
        with pytest.raises(TrainingError, match=r"checkpoint\.pt, perhaps .*have been the first"):
            collect_small(output, should_stop=stop_after(1))
        assert not list(output.glob("checkpoint*"))
    collect_small(output, should_stop=stop_after(2))
    before = (output / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(TrainingError, match="same command again; the last one is whole"):
        collect_small(output)
    assert [path.read_bytes() for path in output.glob("checkpoint*")] == [before]


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (SMALL, {"learning_rate": 1e38, "max_gradient_norm": 0.0}),
        (ImpalaLearnerConfig(num_envs=4, unroll_length=8), {"learning_rate": 1e38}),
    ],
    ids=["pqn", "impala"],
)
def test_diverged_learner_ends_the_run(tmp_path, monkeypatch, config, changes):
    monkeypatch.setattr(online_run, "LOG_INTERVAL", 32)
    name = "pqn" if config is SMALL else "impala"
    if name == "impala":
        pytest.importorskip("torchrl")
    wild = dataclasses.replace(config, **changes)
    arguments = [name, ["Breakout"], STEPS, wild, tmp_path / name]
    assert not collect(*arguments, device="cpu", num_threads=1, should_stop=lambda: True)
    before = {path.name: path.read_bytes() for path in (tmp_path / name).glob("[!e]*")}
    error = r"is not finite after .* agent steps\. What was saved before is kept\. A lower learning"
    with pytest.raises(TrainingError, match=error):
        collect(*arguments, device="cpu", num_threads=1)
    after = {path.name: path.read_bytes() for path in (tmp_path / name).glob("[!e]*")}
    assert b"NaN" not in after.pop("metrics.jsonl")
    assert after == {name: before[name] for name in after}


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch):
    """The last gradient step may spoil them; its loss was computed before."""

    def spoiled(self):
        self.network.outputs.bias.data.fill_(torch.nan)

    monkeypatch.setattr(PQN, "_update_player", spoiled)
    with pytest.raises(
        TrainingError, match=r"outputs\.bias is not finite after 16 agent steps\. A"
    ):
        collect_small(tmp_path / "Breakout", 16)
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_finished_collection_is_left_alone(collected):
    before = {path.name: path.stat().st_mtime_ns for path in collected.iterdir()}
    assert collect_small(collected)
    assert before == {path.name: path.stat().st_mtime_ns for path in collected.iterdir()}


@pytest.mark.parametrize("name", ["Breakout.npz", "model.safetensors"])
def test_finished_collection_of_which_a_file_is_missing(collected, tmp_path, name):
    shutil.copytree(collected, tmp_path / "Breakout")
    (tmp_path / "Breakout" / name).unlink()
    with pytest.raises(ReplayError, match=f"a finished collection whose {name} is missing"):
        collect_small(tmp_path / "Breakout")


def test_killed_collection_resumes_to_the_same_end(collected, tmp_path, monkeypatch):
    output = tmp_path / "Breakout"
    answers = iter([False] * 6)
    monkeypatch.setattr(online_run, "CHECKPOINT_INTERVAL", 0.0)
    with pytest.raises(StopIteration):
        collect_small(output, should_stop=lambda: next(answers))
    monkeypatch.undo()
    assert len(Trace.load(output / "Breakout.npz").actions) == 6 * 8
    assert collect_small(output)
    assert_same_collection(collected, output)


def test_trace_ahead_of_its_checkpoint(collected, tmp_path):
    # The process was killed after it had written the trace and before the checkpoint.
    output = tmp_path / "Breakout"
    collect_small(output, should_stop=stop_after(3))
    checkpoint = (output / "checkpoint.pt").read_bytes()
    collect_small(output, should_stop=stop_after(3 * 8 + 2))
    (output / "checkpoint.pt").write_bytes(checkpoint)
    assert collect_small(output)
    assert_same_collection(collected, output)


def test_trace_that_does_not_fit_its_checkpoint(tmp_path):
    output = tmp_path / "Breakout"
    collect_small(output, should_stop=stop_after(2))
    trace = Trace.load(output / "Breakout.npz")
    short = dataclasses.replace(trace, actions=trace.actions[:10])
    (output / "Breakout.npz").unlink()
    short.save(output / "Breakout.npz")
    with pytest.raises(ReplayError, match=r"Expected 16 steps in .*Breakout\.npz, .* found 10"):
        collect_small(output)
    (output / "Breakout.npz").unlink()
    dataclasses.replace(trace, checksums=trace.checksums + np.uint32(1)).save(
        output / "Breakout.npz"
    )
    with pytest.raises(TraceDivergedError, match="does not play as it was recorded"):
        collect_small(output)
    (output / "Breakout.npz").unlink()
    other = dataclasses.replace(trace, protocol=AtariProtocol.machado())
    other.save(output / "Breakout.npz")
    with pytest.raises(ReplayError, match=r"Breakout\.npz was recorded under another protocol"):
        collect_small(output)


def test_folder_of_another_collection(collected):
    before = {path.name: path.read_bytes() for path in collected.iterdir()}
    changed = dataclasses.replace(SMALL, seed=1, hidden=9)
    with pytest.raises(
        FileExistsError, match=r": hidden was 8, is 9; seed was 0, is 1\. Choose another"
    ):
        collect_small(collected, config=changed)
    with pytest.raises(FileExistsError, match=f": steps was {STEPS}, is {STEPS + 1}\\. Choose"):
        collect_small(collected, steps=STEPS + 1)
    assert before == {path.name: path.read_bytes() for path in collected.iterdir()}


def test_folder_of_something_else(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no collection"):
        collect_small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_wrong_field_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="gpu"):
        collect("pqn", ["Breakout"], STEPS, SMALL, tmp_path / "new", device="gpu")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("left", [(), ("collection.json.new", ".lock")])
def test_killed_before_the_description_was_written(tmp_path, left):
    output = tmp_path / "Breakout"
    output.mkdir()
    for name in left:
        (output / name).write_text("{")
    assert not collect_small(output, should_stop=lambda: True)
    assert json.loads((output / "collection.json").read_text())["learner"] == "pqn"
    assert not (output / "collection.json.new").exists()


@pytest.mark.parametrize(
    "kills", [{"every": 7}, pytest.param({"every": 1, "moments": 10}, marks=pytest.mark.slow)]
)
def test_killed_before_any_operation_on_files(tmp_path, monkeypatch, kills):
    """The same command then ends in the same bytes, with nothing left beside them."""
    small = {"steps": 2 * 8, "config": dataclasses.replace(SMALL, num_envs=1)}
    monkeypatch.setattr(online_run, "CHECKPOINT_INTERVAL", 0.0)
    monkeypatch.setattr(online_run, "LOG_INTERVAL", 1)
    # TensorBoard's files have the time in their names, and the log how fast it was.
    nothing = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(metrics, "importlib", nothing)
    clock = SimpleNamespace(monotonic=iter(range(10**6)).__next__)
    monkeypatch.setattr(online_run, "time", clock)

    def command(output):
        collect_small(output / "Breakout", **small)

    killed = check_kills(command, tmp_path, **kills)
    # The lock, the description, the log, and trace, agent and checkpoint after each update.
    assert killed * kills["every"] >= 20


def test_one_collector_at_a_time(tmp_path):
    output = tmp_path / "Breakout"

    def collect_too():
        with pytest.raises(ReplayError, match="is being written by another writer"):
            collect_small(output)
        return True

    assert not collect_small(output, should_stop=collect_too)
    assert collect_small(output)


def test_what_was_there_is_removed_only_when_play_begins(collected, tmp_path):
    output = tmp_path / "Breakout"
    shutil.copytree(collected, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(ValueError, match="PQN learns one game"):
        collect("pqn", ["Pong", "Breakout"], 60, SMALL, output, device="cpu", overwrite=True)
    with (
        files.exclusive(output, inside=True),
        pytest.raises(ReplayError, match="is being written by another writer"),
    ):
        collect_small(output, overwrite=True)
    assert before == {path.name: path.read_bytes() for path in output.iterdir()}
    other = dataclasses.replace(SMALL, seed=1)
    assert collect_small(output, steps=16, config=other, overwrite=True)
    assert json.loads((output / "collection.json").read_text())["steps"] == 16


def test_damaged_description(collected, tmp_path):
    output = tmp_path / "Breakout"
    shutil.copytree(collected, output)
    (output / "collection.json").write_text("{")
    with pytest.raises(ReplayError, match=r"collection\.json is not JSON"):
        collect_small(output)


def test_trace_of_other_environments(tmp_path):
    output = tmp_path / "Breakout"
    assert not collect_small(output, should_stop=stop_after(1))
    trace = Trace.load(output / "Breakout.npz")
    none = {name: getattr(trace, name)[:0] for name in EPISODES}
    one = dataclasses.replace(trace, seeds=trace.seeds[:1], actions=trace.actions[:, :1], **none)
    one.save(output / "Breakout.npz", overwrite=True)
    with pytest.raises(ReplayError, match=r"Expected 2 environments in .*npz, .*, found 1\."):
        collect_small(output)


def test_several_games_in_one_run(tmp_path):
    names = ["Breakout", "Pong"]
    config = DQNLearnerConfig(num_envs=3, buffer_size=60)
    output = tmp_path / "dqn"
    assert collect("dqn", names, 60, config, output, device="cpu", num_threads=1)
    assert json.loads((output / "collection.json").read_text())["games"] == names
    for name in names:  # which are played equally, so 3 environments are 4
        trace = Trace.load(output / f"{name}.npz")
        assert trace.game == name
        assert trace.actions.shape == (15, 2)
        assert sum(1 for _ in trace.play(num_threads=1)) == 15
    with pytest.raises(ValueError, match="PQN learns one game, got Breakout, Pong"):
        collect("pqn", names, 60, SMALL, tmp_path / "pqn", device="cpu")
    assert not (tmp_path / "pqn").exists()

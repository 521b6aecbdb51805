"""Two processes train as one does."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.training import TrainingConfig, parallel, train

MEASURED = {"windows_per_second", "data_wait", "memory"}
NETWORKS: dict[str, dict] = {
    "dt": {"dropout": 0.0},
    "bc": {"dropout": 0.0},
    "cql": {"target_period": 2},
    "tt": {"target_period": 2},
}


def log_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in MEASURED} for line in lines]


@pytest.fixture(scope="module")
def training(make_random_episodes, write_store, tmp_path_factory):
    # Short episodes: the processes' parts have not the same number of valid rows.
    path = tmp_path_factory.mktemp("replay") / "Pong"
    return {
        "replay": [str(write_store(path, "Pong", make_random_episodes([1, 2, 3, 4, 5, 6])))],
        "steps": 6,
        "batch_size": 8,
        "optimizer": "lamb",
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "average_decay": 0.5,
        "heldout_fraction": 0.4,
        "heldout_interval": 3,
        "heldout_windows": 100,
        "log_interval": 1,
        "checkpoint_interval": 3,
    }


RUNS = {
    f"{kind}-{spread}": (kind, options)
    for kind in NETWORKS
    for spread, options in {
        "copied": {},
        "accumulated": {"accumulate": 2},
        "shared": {"fsdp": True},
    }.items()
}


def command_of(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return [*command, *map(str, arguments)]


def torchrun(*arguments, cwd=None):
    command = command_of(*arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def two_processes(training, tmp_path_factory):
    """The folder with the runs of two processes, by their names."""
    folder = tmp_path_factory.mktemp("two")
    script = [
        [kind, NETWORKS[kind], {**training, **options}, str(folder / name)]
        for name, (kind, options) in RUNS.items()
    ]
    # To be resumed by one.
    half = {**training, "steps": 3, "fsdp": True}
    script.append(["cql", NETWORKS["cql"], half, str(folder / "half")])
    script.append(["lamb", {}, {}, str(folder / "lamb.safetensors")])
    (folder / "script.json").write_text(json.dumps(script))
    done = torchrun(Path(__file__).with_name("ranks.py"), folder / "script.json")
    assert not done.returncode, done.stderr[-3000:]
    return folder


def run_alone(kind, training, output):
    torch.manual_seed(0)
    agent_class = NETWORK_AGENTS[kind]
    config = dataclasses.replace(agent_class.presets["tiny"], **NETWORKS[kind])
    train(agent_class(config, device="cpu"), TrainingConfig(**training), output=output)


@pytest.fixture(scope="module")
def one_process(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    for kind in NETWORKS:
        run_alone(kind, training, folder / kind)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_one_process(one_process, two_processes, name):
    kind, _ = RUNS[name]
    expected, found = log_of(one_process / kind), log_of(two_processes / name)
    assert len(found) == len(expected) == 8
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("folder", [".", "best"])
def test_saved_weights_are_those_of_one_process(one_process, two_processes, name, folder):
    kind, _ = RUNS[name]
    expected = load_file(one_process / kind / folder / "model.safetensors")
    found = load_file(two_processes / name / folder / "model.safetensors")
    assert expected.keys() == found.keys()
    for weight in expected:
        torch.testing.assert_close(found[weight], expected[weight], rtol=1e-3, atol=1e-5)


def test_run_of_two_processes_is_resumed_by_one(training, one_process, two_processes):
    run_alone("cql", training, two_processes / "half")
    expected, found = log_of(one_process / "cql"), log_of(two_processes / "half")
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_lamb_with_shared_out_weights_takes_the_same_steps(two_processes, tmp_path):
    script = [["lamb", {}, {}, str(tmp_path / "lamb.safetensors")]]
    (tmp_path / "script.json").write_text(json.dumps(script))
    command = [sys.executable, Path(__file__).with_name("ranks.py"), tmp_path / "script.json"]
    subprocess.run(command, check=True)
    expected = load_file(tmp_path / "lamb.safetensors")
    found = load_file(two_processes / "lamb.safetensors")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-9)


def test_processes_that_do_not_do_the_same_are_refused(training, tmp_path):
    # Each process reads a script of its own.
    for rank, seed in enumerate((0, 1)):
        script = [["cql", {}, {**training, "seed": seed}, str(tmp_path / "run")]]
        (tmp_path / f"script{rank}.json").write_text(json.dumps(script))
    worker = Path(__file__).with_name("ranks.py")
    start = "import os, runpy, sys; sys.argv[1] = 'script' + os.environ['RANK'] + '.json'; "
    (tmp_path / "start.py").write_text(
        f"{start}runpy.run_path({str(worker)!r}, run_name='__main__')\n"
    )
    done = torchrun(tmp_path / "start.py", "x", cwd=tmp_path)
    assert done.returncode
    assert "Expected the same training in all processes, and training differ" in done.stderr
    assert not list(tmp_path.glob("run/checkpoint*"))


def test_command_under_torchrun_saves_at_sigterm(readable_store, tmp_path):
    output, printed = tmp_path / "run", tmp_path / "printed"
    arguments = ["-m", "mgdt_cli.train", "--agent", "cql", "--size", "tiny", "--device", "cpu"]
    arguments += ["--replay", readable_store, "--batch-size", 8, "--log-interval", 1]
    arguments += ["--output", output, "--steps", "100k"]
    with printed.open("wb") as file:
        process = subprocess.Popen(command_of(*arguments), stdout=file, stderr=file)
        while process.poll() is None and not (output / "metrics.jsonl").exists():
            time.sleep(0.05)
        process.terminate()
        process.wait()
    (path,) = output.glob("checkpoint*")
    step = int(path.name.removeprefix("checkpoint-"))
    assert step == len(log_of(output))
    assert printed.read_text().count(f"Stopped after step {step} of 100000; the same command") == 1


def test_processes_ask_about_once_a_second_whether_to_stop(monkeypatch):
    now = 0.0
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "gather", lambda value: [value, (False, 0.0)])
    monkeypatch.setattr(parallel.time, "monotonic", lambda: now)
    for step_seconds, expected in [(30, 1), (1.1, 1), (0.25, 4), (0.01, 10)]:
        question = parallel.StopQuestion()
        asked = []
        for step in range(40):
            now += step_seconds
            if question.any_says(True):
                asked.append(step)
        assert asked == list(range(0, 40, expected))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu"])
def test_device_that_is_not_there(monkeypatch, device):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match=f"Cannot compute on device '{device}'"):
        parallel.join(device)

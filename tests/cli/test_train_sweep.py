"""mgdt-train --sweep and mgdt-train curves: several runs, and their curves beside each other."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mgdt_cli import train, train_curves, train_sweep
from mgdt_cli.train_arguments import parse_arguments
from mgdt_cli.train_sweep import command_of, read_sweep, shares_of_cores


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-train", *map(str, arguments)])
        train.main()

    return run


@pytest.fixture
def sweep(readable_store, tmp_path):
    """A file of four runs, one of which cannot be."""
    path = tmp_path / "study.json"
    common = {"agent": "dt", "size": "tiny", "replay": [str(readable_store)], "device": "cpu"}
    common |= {"steps": 2, "batch-size": 4, "log-interval": 1, "mix_protocols": True}
    grid = {"seed": [0, 1], "learning_rate": [0.001, -1]}
    path.write_text(json.dumps({"common": common, "grid": grid}))
    return path


def test_runs_of_a_sweep(sweep):
    runs = read_sweep(sweep)
    assert list(runs) == [
        f"seed={seed},learning_rate={rate}" for seed in (0, 1) for rate in (0.001, -1)
    ]
    options = runs["seed=1,learning_rate=0.001"]
    assert (options["agent"], options["seed"], options["learning_rate"]) == ("dt", 1, 0.001)
    command = command_of({**options, "dry-run": False}, sweep.parent / "out")
    assert command[1:3] == ["-m", "mgdt_cli.train"]
    text = " ".join(command)
    assert " --seed 1 --learning-rate 0.001 " in text
    assert " --mix-protocols --seed" in text
    assert "dry-run" not in text
    assert command_of({"network.stem-channels": [8, 16, 16]}, Path("out"))[3:-2] == [
        "--network.stem-channels", "8", "16", "16",
    ]  # fmt: skip


def test_runs_with_options_of_their_own(tmp_path):
    path = tmp_path / "study.json"
    runs = [{"agent": "dt"}, {"agent": "cql", "network.n-steps": 2}]
    path.write_text(json.dumps({"runs": runs, "grid": {"seed": [0, 1]}}))
    assert list(read_sweep(path)) == [
        "agent=dt,seed=0",
        "agent=dt,seed=1",
        "agent=cql,network.n-steps=2,seed=0",
        "agent=cql,network.n-steps=2,seed=1",
    ]


def test_a_run_s_name_stands_for_its_options(tmp_path):
    path = tmp_path / "study.json"
    runs = [{"name": "new", "agent": "dt", "size": "small"}, {"agent": "bc"}]
    path.write_text(json.dumps({"runs": runs, "grid": {"seed": [0, 1]}}))
    found = read_sweep(path)
    assert list(found) == ["new,seed=0", "new,seed=1", "agent=bc,seed=0", "agent=bc,seed=1"]
    assert found["new,seed=1"] == {"agent": "dt", "size": "small", "seed": 1}


@pytest.mark.slow
def test_sweep_trains_all_it_can_and_resumes(run, refused, sweep, tmp_path, capsys):
    arguments = ["--sweep", sweep, "--at-once", 2, "--output", tmp_path / "out"]
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "Not finished: seed=0,learning_rate=-1, seed=1,learning_rate=-1." in printed.err
    assert (
        "must be at least 0, got -1"
        in (tmp_path / "out" / "seed=0,learning_rate=-1.log").read_text()
    )
    rows = [line.split() for line in printed.out.splitlines()]
    assert [row[1] for row in rows if row and row[0].startswith("seed=")] == ["2", "0", "2", "0"]
    weights = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/model.safetensors")
    }
    assert len(weights) == 2
    longer = json.loads(sweep.read_text())
    longer["common"]["steps"], longer["grid"]["learning_rate"] = 3, [0.001]
    sweep.write_text(json.dumps(longer))
    run(*arguments)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows if row and row[0].startswith("seed=")] == ["3", "3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_sweep_stops_its_runs(monkeypatch, tmp_path, number):
    script = (
        "import signal, sys, time, pathlib; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
        f"pathlib.Path({str(tmp_path / 'begun')!r}).touch(); time.sleep(600)"
    )
    commands = {name: [sys.executable, "-c", script] for name in ("a", "b")}

    def stop_when_begun(seconds):
        if (tmp_path / "begun").exists():
            os.kill(os.getpid(), number)
        time.sleep(0.01)

    monkeypatch.setattr(train_sweep, "time", type("", (), {"sleep": stop_when_begun}))
    assert train_sweep.run_here(commands, tmp_path, 1) == ["a", "b"]


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5, 7})
    assert shares_of_cores(1) == [[0, 1, 2, 5, 7]]
    assert shares_of_cores(2) == [[0, 1], [2, 5, 7]]
    assert shares_of_cores(5) == [[0], [1], [2], [5], [7]]
    assert shares_of_cores(7)[5:] == [[0], [1]]


def test_run_where_processes_keep_to_no_cores(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert shares_of_cores(2) == [[0], [1, 2]]
    script = "import os; print(os.environ['OMP_NUM_THREADS'])"
    process = train_sweep.start_run([sys.executable, "-c", script], tmp_path / "log", [1, 2])
    assert process.wait() == 0
    assert (tmp_path / "log").read_text() == "2\n"


def test_run_keeps_to_its_cores(tmp_path):
    core = max(os.sched_getaffinity(0))
    script = "import os; print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])"
    process = train_sweep.start_run([sys.executable, "-c", script], tmp_path / "log", [core])
    assert process.wait() == 0
    assert (tmp_path / "log").read_text() == f"{{{core}}} 1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "Expected common, grid and runs"),
        ('{"grids": {}}', "Expected common, grid and runs"),
        ('{"grid": {"seed": 3}}', "Expected a list of values for each option of grid"),
        ('{"grid": {"seed": [1, 1]}}', "has the run seed=1 twice"),
        ('{"runs": [{"name": "a"}, {"name": "a"}]}', "has the run a twice"),
        ('{"runs": [{"name": "..", "agent": "dt"}]}', "may not begin with a dot, got '..'"),
        ('{"common": ["a"]}', "Expected an object of options as common"),
        ('{"grid": []}', "Expected an object of options as grid"),
        ('{"grid": null}', "Expected an object of options as grid"),
        ('{"runs": ["a"]}', "Expected a list of objects of options as runs"),
        ('{"runs": 3}', "Expected a list of objects of options as runs"),
        ('{"runs": []}', "Expected a list of objects of options as runs"),
        (None, "does not exist"),
    ],
)
def test_no_sweep(refused, tmp_path, content, message):
    path = tmp_path / "study.json"
    if content is not None:
        path.write_text(content)
    assert message in refused("--sweep", path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ray_is_an_extra(refused, sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    error = refused("--sweep", sweep, "--ray", "auto", "--output", tmp_path / "out")
    assert "pip install 'mgdt[ray]'" in error


@pytest.fixture
def runs(tmp_path):
    for name, factor in (("first", 1.0), ("second", 2.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": step, "loss": factor * step} for step in (1, 2, 3, 4)]
        lines.append({"step": 4, "heldout_loss": 7.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text + '{"step": 5, "lo')
    return [tmp_path / "first", tmp_path / "second"]


def test_curves(run, runs, capsys):
    run("curves", *runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "loss: 1 to 8"
    text = "\n".join(lines)
    assert "▁▂▃▄" in text
    assert "▂▄▆█" in text
    assert "heldout_loss: 7 to 7" in text
    run("curves", runs[0], "--figures", "heldout_loss")
    assert "loss: 1" not in capsys.readouterr().out


def test_curve_that_is_no_number(refused, runs):
    (runs[1] / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": NaN}\n')
    assert f"{runs[1]} logged loss nan at step 2, which has no" in refused("curves", *runs)


def test_runs_of_several_seeds_are_one_line(run, refused, tmp_path, capsys):
    for seed in range(3):
        folder = tmp_path / f"agent=dt,seed={seed}"
        folder.mkdir()
        # The last run is a step behind.
        lines = [{"step": step, "loss": 1.0 + seed * step} for step in (1, 2, 3)[: 3 - seed // 2]]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "agent=dt,seed={seed}"
    run("curves", path, "--seeds", "0,1,2")
    printed = " ".join(capsys.readouterr().out.split())
    assert "loss: 2 to 3" in printed  # 1 + the mean of 0, 1, 2 times the step
    # The bootstrap of three reaches from the least to the most.
    assert " 2 2 3 [1, 5] 2 3" in printed
    assert "name the training runs by --seeds" in refused("curves", path)
    assert "needs a path that has {seed}" in refused("curves", tmp_path, "--seeds", "0,1")
    error = refused("curves", path, "--seeds", "0,3")
    assert f"{tmp_path / 'agent=dt,seed=3' / 'metrics.jsonl'} is missing" in error


def test_interval_over_runs_of_a_curve():
    random = np.random.default_rng(0)
    values = random.normal(size=(5, 2))
    runs = [{"loss": ([10, 20], row.tolist())} for row in values]
    curve = train_curves.mean_curves(runs)["loss"]
    assert curve.steps == [10, 20]
    np.testing.assert_allclose(curve.means, values.mean(0))
    draws = values[random.integers(5, size=(20_000, 5))].mean(1)
    expected = np.percentile(draws, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([curve.lows, curve.highs], expected, atol=0.05)


def test_curve_of_play_before_the_first_episode_ends(run, tmp_path, capsys):
    lines = [{"step": 8, "mean_return": None}, {"step": 16, "mean_return": 1.5}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    run("curves", tmp_path, "--figures", "mean_return")
    assert "mean_return: 1.5 to 1.5" in capsys.readouterr().out


def test_names_of_runs_are_no_markup(run, runs, tmp_path, capsys):
    names = ["[bold]x[/bold]", "_:dog:[/]"]  # each the path of a folder in a folder
    for name in names:
        shutil.copytree(runs[0], tmp_path / name)
    run("curves", *(tmp_path / name for name in names))
    printed = "".join(capsys.readouterr().out.split())
    assert all(name in printed for name in names)
    train_sweep.print_runs(dict.fromkeys(names), tmp_path)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_curve_of_zeros_has_no_sign(run, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": -0.0}\n')
    run("curves", tmp_path)
    printed = capsys.readouterr().out
    assert "loss: 0 to 0" in printed
    assert "-0" not in printed.replace(str(tmp_path), "")


def test_picture_of_curves(run, refused, runs, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    run("curves", *runs, "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"{picture} exists" in refused("curves", *runs, "--plot", picture)


def test_legend_has_names_that_begin_with_an_underscore(monkeypatch, tmp_path):
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    monkeypatch.setattr(train_curves, "draw_panels", lambda path, names, draw: draw(axes, "loss"))
    curves = train_curves.mean_curves([{"loss": ([1, 2], [2.0, 1.0])}])
    train_curves.plot_figures(["loss"], {"_a": curves, "b": curves}, tmp_path / "curves.png")
    texts = [text.get_text().strip() for text in axes.legend().get_texts()]
    assert texts == ["_a", "b"]


def test_no_curves(refused, runs, tmp_path):
    assert "at least one folder" in refused("curves")
    assert f"{tmp_path / 'metrics.jsonl'} is missing" in refused("curves", tmp_path)
    error = refused("curves", runs[0], "--figures", "lost")
    assert "No run logged 'lost'. Did you mean 'loss'" in error
    log = runs[0] / "metrics.jsonl"
    log.write_text('{"step": 1, "mean_return": 2.0}\n')
    assert "loss or heldout_loss yet, but mean_return: choose" in refused("curves", runs[0])
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n')
    assert f"a step in line 2 of {log}, got" in refused("curves", runs[0])


def test_sparkline_is_means_on_a_scale():
    assert train_curves.sparkline([0, 0, 4, 4, 8, 8], 0, 8, width=3) == "▁▅█"
    assert train_curves.sparkline([5.0], 5, 5) == "▅"


def test_the_sweeps_of_the_experiment_are_understood(monkeypatch):
    folder = Path(__file__).parents[2] / "docs" / "experiment"
    for path in sorted(folder.glob("*.json")):
        for options in read_sweep(path).values():
            options.pop("init", None)  # weights that another of the sweeps leaves
            command = command_of(options, Path("runs"))[3:]
            monkeypatch.setattr(sys, "argv", ["mgdt-train", *command])
            assert parse_arguments(command, None).agent == options["agent"]

"""mgdt-bench: what it plays, prints, writes and refuses."""

import csv
import dataclasses
import io
import json
import subprocess
import sys

import pytest
import torch

from mgdt_agents import load_agent, make_agent
from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation import BenchmarkConfig, Results, run_benchmark
from mgdt_agents.evaluation.episode_log import EpisodeLog
from mgdt_agents.evaluation.results import Episode
from mgdt_agents.random_agent import RandomAgent
from mgdt_agents.replay.files import exclusive
from mgdt_cli import bench
from mgdt_envs import PROTOCOLS, AtariProtocol, suite
from mgdt_envs.seeds import BENCHMARK_SEED


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-bench", *map(str, arguments)])
        bench.main()

    return run


@pytest.fixture
def played(monkeypatch):
    """What the command asks to be played; nothing is."""
    calls = []

    def play_nothing(agents, config, log, on_step, *, traced):
        calls.append((agents, config))
        for agent, run in [
            (name, run) for name, runs in agents.items() for run in range(len(runs))
        ]:
            for protocol in config.protocols:
                for game in config.games:
                    for number in range(config.episodes):
                        episode = Episode(
                            agent=agent,
                            run=run,
                            protocol=protocol,
                            game=game,
                            seed=config.seed + number,
                            score=11.5 + number % 2 * 2,
                            steps=10,
                        )
                        log.append(f"{agent} {run}", protocol, episode, None)
                        yield episode

    monkeypatch.setattr(bench, "play_episodes", play_nothing)
    return calls


def test_command(run, tmp_path):
    command = ["--agents", "random", "--games", "breakout", "--episodes", "2", "--seed", "5"]
    command.append("--no-report")
    done = subprocess.run(
        [sys.executable, "-m", "mgdt_cli.bench", *command, "--output", tmp_path / "results"],
        capture_output=True,
        text=True,
        check=True,
    )
    config = BenchmarkConfig(games=("Breakout",), episodes=2, seed=5)
    results = Results.load(tmp_path / "results" / "results.json")
    assert results.agents["random"].decisions_per_second > 0
    expected = run_benchmark({"random": load_agent("random")}, config)
    assert dataclasses.replace(results, agents=expected.agents).to_dict() == expected.to_dict()
    breakout, over_games = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert (breakout["agent"], breakout["game"]) == ("random", "Breakout")
    assert float(breakout["mean"]) == results.scores("random", "Breakout").mean()
    assert over_games["game"] == "mean"
    assert "sticky 0.25" in done.stderr
    assert "results.json" in done.stderr
    files = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert files == ["episodes.jsonl", "results.json"]


def test_names_with_commas_and_spaces(run, played, tmp_path):
    make_agent("dt", "tiny").save(tmp_path / "my agent")
    path = str(tmp_path / "my agent")
    for number, agents in enumerate([[f"random,{path}"], ["random", path], ["random,", path]]):
        output = tmp_path / str(number)
        run(
            "--agents",
            *agents,
            "--games",
            "Pong,atari3_val",
            "air_raid",
            "--no-report",
            "--output",
            output,
        )
    for agents, config in played:
        assert list(agents) == ["random", path]
        assert isinstance(agents["random"][0], RandomAgent)
        assert agents[path][0].kind == "dt"
        assert config.games == ("Pong", "Assault", "MsPacman", "YarsRevenge", "AirRaid")


def test_a_sweep_s_run_with_a_setting(run, played, tmp_path):
    path = tmp_path / "agent=dt,steps=10"
    make_agent("dt", "tiny").save(path)
    run("--agents", f"{path}:kappa=3", "--no-report", "--output", tmp_path / "results")
    ((agents, _),) = played
    assert agents[f"{path}:kappa=3"][0].rule.kappa == 3


def test_sweep_s_runs_of_several_seeds(run, played, tmp_path):
    for seed in (0, 1):
        make_agent("dt", "tiny").save(tmp_path / f"agent=dt,seed={seed}")
    path = f"{tmp_path}/agent=dt,seed={{seed}}"
    run("--agents", path, "--seeds", "0,1", "--no-report", "--output", tmp_path / "results")
    ((agents, _),) = played
    assert [len(runs) for runs in agents.values()] == [2]


def test_defaults(run, monkeypatch, played, tmp_path):
    def record(path, *_arguments, **_options):
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr("mgdt_agents.evaluation.videos.record_episode", record)
    monkeypatch.chdir(tmp_path)
    run("--agents", "random")
    ((_, config),) = played
    assert config == BenchmarkConfig(games=suite("bundled"))
    assert config.protocols == {"default": AtariProtocol()}
    assert config.seed == BENCHMARK_SEED
    (output,) = (tmp_path / "results").iterdir()
    assert (output / "report.html").read_text().count("<video") == 12
    assert Results.load(output / "results.json").seeds == range(BENCHMARK_SEED, BENCHMARK_SEED + 16)


def test_games_are_those_that_the_agents_learned(run, played, tmp_path):
    for name, games in (("a", ["Pong", "Boxing"]), ("b", ["Boxing", "Freeway"])):
        make_agent("bc", "tiny", games=games, device="cpu").save(tmp_path / name)
    paths = f"{tmp_path / 'a'},{tmp_path / 'b'},random"
    run("--agents", paths, "--no-report", "--output", tmp_path / "results")
    ((_, config),) = played
    assert config.games == ("Boxing", "Freeway", "Pong")


def test_options(run, played, tmp_path):
    options = ["--episodes", 7, "--seed", 9, "--protocol", "mgdt_release", "--deterministic"]
    options += ["--no-report", "--output", tmp_path / "a"]
    run("--agents", "random", "--games", "Pong", *options)
    ((_, config),) = played
    assert config == BenchmarkConfig(
        games=("Pong",),
        episodes=7,
        seed=9,
        protocols={"mgdt_release": AtariProtocol.mgdt_release()},
        deterministic=True,
    )


def test_terminal_gets_a_table(run, monkeypatch, played, tmp_path, capsys):
    make_agent("dt", "tiny").save(tmp_path / "run[a]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    run(
        *("--agents", "random,run[a]", "--games", "Pong", "--episodes", "2"),
        *("--output", "out[b]", "--no-report"),
    )
    output = capsys.readouterr()
    assert "\t" not in output.out
    summary = Results.load("out[b]/results.json").summaries["run[a]", "default", "Pong"]
    assert "12.5 [{:.1f}, {:.1f}]".format(*summary.interval) in output.out
    # Square brackets are style to rich.
    assert "run[a]" in output.out
    assert "out[b]/results.json" in output.err


@pytest.mark.parametrize("protocols", ["default", "default,mgdt_release"])
def test_a_narrow_terminal_gets_names_and_figures_whole(
    run, played, tmp_path, capsys, monkeypatch, protocols
):
    make_agent("dt", "tiny").save(tmp_path / "dt")
    agent = f"{tmp_path / 'dt'}:kappa=100:action_temperature=1"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # 80 columns without styles
    run(
        *("--agents", f"random,{agent}", "--games", "Pong,SpaceInvaders", "--episodes", 2),
        *("--protocol", protocols, "--output", tmp_path / "results", "--no-report"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    names = ["".join(line[14:30].split()) for line in lines]
    assert agent in "".join(names)
    (row,) = [line for line in lines if line.startswith("SpaceInvaders")]
    assert row.split()[1:3] == ["random", "12.5"]
    assert "…" not in "".join(lines)
    figure = Results.load(tmp_path / "results/results.json").aggregates["random", "default"]["mean"]
    assert f"{figure.value:.1%}" in "".join(lines)


def test_existing_output(run, refused, played, tmp_path):
    (tmp_path / "results.json").write_text("mine")
    arguments = ["--agents", "random", "--games", "Pong", "--output", tmp_path]
    assert f"{tmp_path} exists" in refused(*arguments)
    assert (tmp_path / "results.json").read_text() == "mine"
    assert not played
    run(*arguments, "--overwrite")
    assert Results.load(tmp_path / "results.json").games == ("Pong",)


def test_damaged_results_are_not_advised_away(run, refused, played, tmp_path):
    arguments = ["--agents", "random", "--games", "Pong", "--output", tmp_path, "--no-report"]
    (tmp_path / "results.json").write_text("{")
    message = refused(*arguments)
    assert message.endswith("Choose another --output.")
    (tmp_path / "episodes.jsonl").touch()
    message = refused(*arguments)
    assert "Choose another --output, or move the file away" in message
    assert "overwrite" not in message
    (tmp_path / "results.json").rename(tmp_path / "damaged.json")
    run(*arguments)
    assert len(played) == 1


def test_output_is_made_before_anything_is_played(run, refused, played, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    arguments = ["--agents", "random", "--games", "Pong"]
    message = refused(*arguments, "--output", tmp_path / "file" / "results")
    assert "Cannot write to" in message
    assert "Choose another place" in message

    def no_room(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.Path, "mkdir", no_room)
    assert "No space left" in refused(*arguments, "--output", tmp_path / "results")
    assert not played


def test_interrupt_keeps_what_was_played(run, refused, monkeypatch, tmp_path):
    episodes = [
        Episode(agent="random", game="Pong", seed=BENCHMARK_SEED + n, score=-n, steps=5 + n)
        for n in range(3)
    ]

    def interrupted(agents, config, log, *_arguments, **_options):
        for episode in episodes:
            log.append("weights", "rules", episode, None)
            yield episode
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "play_episodes", interrupted)
    message = refused(
        *("--agents", "random", "--games", "Pong", "--output", tmp_path / "results"), status=130
    )
    assert "3 episodes were played" in message
    assert str(tmp_path / "results" / "episodes.jsonl") in message
    assert f"The same command with --output {tmp_path / 'results'} resumes" in message
    log = EpisodeLog(tmp_path / "results")
    assert [log.find("weights", "rules", episode) for episode in episodes] == episodes
    assert not (tmp_path / "results" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--agents", "randm"], ["Unknown agent 'randm'", "Did you mean", "'random'"]),
        (["--agents", "random", "run[x]"], ["Unknown agent 'run[x]'"]),
        (["--agents", "random,dqn"], ["mgdt-train --agent dqn"]),
        (["--agents", "random", "--games", "Pang"], ["'Pang'", "Did you mean 'Pong'"]),
        (["--agents", "random", "--games", "mgdt40"], ["'mgdt40'", "'mgdt41'"]),
        (["--agents"], ["at least one agent"]),
        (["--agents", "random", "--episodes", "0"], ["--episodes must be at least 1, got 0"]),
        (["--agents", "random", "--workers", "-2"], ["--workers must be at least 1, got -2"]),
        (["--agents", "random", "--idle-steps", "0"], ["--idle-steps must be at least 1, got 0"]),
        (["--agents", "random", "--seed", "-1"], ["--seed must be at least 0"]),
        (["--agents", "random", "--video-seconds", "-1"], ["at least 0 and finite, got -1.0"]),
        (["--agents", "random,random"], ["'random' is named twice"]),
        (["--agents", "random", "--seeds", "0,1"], ["needs a path that has {seed}"]),
        (["--agents", "runs/dt-{seed}"], ["name the training runs by --seeds"]),
        (["--agents", "runs/dt-{seed}", "--seeds", "0,0"], ["a training run twice"]),
        (["--agents", "random", "--protocol", "atari"], ["mgdt_release"]),
    ],
    ids=str,
)
def test_mistakes(refused, played, tmp_path, arguments, messages):
    error = refused(*arguments, "--output", tmp_path / "results")
    assert all(message in error for message in messages), error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    assert not played


def test_output_is_extended_and_never_lost(run, refused, played, tmp_path):
    base = ["--output", tmp_path / "results", "--no-report", "--episodes", "2"]
    run("--agents", "random", "--games", "Pong", *base)
    make_agent("dt", "tiny").save(tmp_path / "dt")
    both = f"random,{tmp_path / 'dt'}"
    run("--agents", both, "--games", "Pong,Boxing", "--protocol", "default,nature", *base)
    results = Results.load(tmp_path / "results" / "results.json")
    assert (len(results.agents), len(results.games), len(results.protocols)) == (2, 2, 2)
    for arguments, lost in (
        (["--agents", "random", "--games", "Pong,Boxing", "--protocol", "default,nature"], "dt"),
        (["--agents", both, "--games", "Pong", "--protocol", "default,nature"], "Boxing"),
        (["--agents", both, "--games", "Pong,Boxing"], "nature"),
        (
            [
                *("--agents", both, "--games", "Pong,Boxing", "--protocol", "default,nature"),
                *("--seed", 7),
            ],
            "seeds",
        ),
        *(
            (
                [
                    *("--agents", both, "--games", "Pong,Boxing", "--protocol", "default,nature"),
                    *options,
                ],
                lost,
            )
            for options, lost in (
                (["--deterministic"], "deterministic=False"),
                (["--max-steps", 50], "max_steps=None"),
                (["--idle-steps", 50], "idle_steps=None"),
            )
        ),
    ):
        message = refused(*base, *arguments)
        assert "would be lost" in message
        assert lost in message
    assert len(played) == 2


def test_json(run, played, tmp_path, capsys):
    run(
        *("--agents", "random", "--games", "Pong", "--json", "--no-report"),
        *("--output", tmp_path / "results"),
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "results" / "results.json").read_text())


def test_training_runs_are_one_row(run, played, tmp_path):
    for seed in (3, 5):
        make_agent("dt", "tiny").save(tmp_path / f"dt-{seed}")
    run(
        *("--agents", tmp_path / "dt-{seed}", "--seeds", "3,5", "--games", "Pong"),
        *("--output", tmp_path / "results", "--no-report"),
    )
    ((agents, _),) = played
    ((name, runs),) = agents.items()
    assert name == str(tmp_path / "dt-{seed}")
    assert [agent.kind for agent in runs] == ["dt", "dt"]
    results = Results.load(tmp_path / "results" / "results.json")
    assert results.scores(name, "Pong").shape == (2, 16)


def test_seeds_and_few_episodes_are_remarked_on(run, played, tmp_path, capsys):
    base = ["--agents", "random", "--games", "Pong", "--no-report"]
    run(*base, "--output", tmp_path / "a")
    assert "may have seen" not in capsys.readouterr().err
    run(*base, "--output", tmp_path / "b", "--seed", 0, "--episodes", 4)
    remarks = " ".join(capsys.readouterr().err.split())
    assert "an agent may have seen these starts" in remarks
    assert "fewer than 8 episodes" in remarks


@pytest.fixture
def traced(run, tmp_path, monkeypatch):
    """A folder of results with traces of short games."""
    monkeypatch.setitem(PROTOCOLS, "default", AtariProtocol(max_frames=80))
    run(
        *("--agents", "random", "--games", "Boxing", "--episodes", "2", "--trace", "--no-report"),
        *("--output", tmp_path / "results"),
    )
    return tmp_path / "results"


def test_verify(run, refused, traced, capsys):
    run("verify", traced)
    said = " ".join(capsys.readouterr().err.split())
    assert "Verified: 2 episodes of random. What agents say of themselves, such as" in said
    (traced / "episodes.jsonl").write_text("")
    assert "there is no trace" in refused("verify", traced)
    assert "Cannot read results" in refused("verify", traced / "none")


def test_compare(run, refused, traced, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run("compare", traced, f"{traced}:random")
    assert "no difference shown" in capsys.readouterr().out
    run("compare", traced, traced, "--json")
    comparison = json.loads(capsys.readouterr().out)
    assert [row["value"] for row in comparison["games"]] == [0]
    assert "there are random" in refused("compare", traced, f"{traced}:dt")
    assert "there are random" in refused("compare", traced, f"{traced}:dt:kappa=3")


def test_import_scores(run, refused, played, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    base = ["--agents", "random", "--output", tmp_path / "results", "--no-report"]
    run(*base, "--games", "Phoenix,Seaquest")
    capsys.readouterr()
    run("import-scores", tmp_path / "results", "jowa15", "--agents", "MGDT 200M")
    table = capsys.readouterr().out
    assert "MGDT 200M †" in table
    assert "5,120.0" in table
    assert "published, github.com/CJReinforce/JOWA" in " ".join(table.split())
    # Twice is once, and playing more leaves them there.
    run("import-scores", tmp_path / "results", "jowa15", "--agents", "MGDT 200M,MGDT 40M")
    run(*base, "--games", "Phoenix,Seaquest,Pong")
    results = Results.load(tmp_path / "results" / "results.json")
    assert [agent.name for agent in results.published] == ["MGDT 200M", "MGDT 40M"]
    # A report that is there has them, too.
    page = tmp_path / "results" / "report.html"
    assert not page.exists()
    page.write_text("old")
    run("import-scores", tmp_path / "results", "jowa15", "--agents", "MTBC 120M")
    names = ("MGDT 40M", "MGDT 200M", "MTBC 120M")
    assert all(f"{name} †</td>" in page.read_text() for name in names)
    capsys.readouterr()
    message = refused("import-scores", tmp_path / "results", "jowa15", "--agents", "MGDT")
    assert "Unknown agent 'MGDT' of jowa15" in message
    assert "jowa15" in refused("import-scores", tmp_path / "results", "jowa")


def test_median_of_atari57_is_estimated(run, played, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    run(
        *("--agents", "random", "--games", "atari5", "--no-report"),
        *("--output", tmp_path / "results"),
    )
    assert "Atari-57 median by atari5" in capsys.readouterr().out
    content = json.loads((tmp_path / "results" / "results.json").read_text())
    (estimate,) = content["atari57_medians"]
    assert (estimate["agent"], estimate["subset"]) == ("random", "atari5")


def test_a_run_that_is_left_out_would_be_lost(run, refused, played, tmp_path):
    for seed in (3, 5):
        torch.manual_seed(seed)
        make_agent("dt", "tiny").save(tmp_path / f"dt-{seed}")
    arguments = ["--agents", tmp_path / "dt-{seed}", "--games", "Pong", "--no-report"]
    arguments += ["--output", tmp_path / "results"]
    run(*arguments, "--seeds", "3,5")
    assert "would be lost: runs of " in refused(*arguments, "--seeds", "5")
    run(*arguments, "--seeds", "5", "--overwrite")


def test_two_benchmarks_of_one_second_have_a_folder_each(run, played, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench.time, "strftime", lambda form: "2026-01-01-000000")
    for game in ("Pong", "Breakout"):
        run("--agents", "random", "--games", game, "--no-report")
    games = {
        folder.name: Results.load(folder / "results.json").games
        for folder in (tmp_path / "results").iterdir()
    }
    assert games == {"2026-01-01-000000": ("Pong",), "2026-01-01-000000-2": ("Breakout",)}


def test_two_benchmarks_in_one_folder_are_refused(run, refused, played, tmp_path):
    output = tmp_path / "results"
    arguments = ["--agents", "random", "--games", "Pong", "--output", output, "--no-report"]
    with exclusive(output, inside=True):
        assert "is being written by another writer" in refused(*arguments)
    run(*arguments)


def test_an_old_report_is_told(run, played, tmp_path, capsys):
    (tmp_path / "report.html").write_text("of before")
    (tmp_path / "episodes.jsonl").touch()
    run("--agents", "random", "--games", "Pong", "--output", tmp_path, "--no-report")
    assert "is of the results before" in " ".join(capsys.readouterr().err.split())


def test_a_report_without_videos_where_they_have_no_room(
    run, played, tmp_path, capsys, monkeypatch
):
    def record(path, *_arguments, **_options):
        raise ReplayError(f"Cannot write {path}, perhaps for want of space")

    monkeypatch.setattr("mgdt_agents.evaluation.videos.record_episode", record)
    run("--agents", "random", "--games", "Pong", "--output", tmp_path / "results")
    remarks = " ".join(capsys.readouterr().err.split())
    assert "The report has no videos. Cannot write" in remarks
    assert "<h2" in (tmp_path / "results" / "report.html").read_text()


def test_videos_and_curves_stay_with_their_agents(run, played, tmp_path, monkeypatch):
    """Also when the scores of others come in, whatever the order of the agents."""
    shown = {}

    def write_report(results, folder, *, curves, videos):
        shown.update(curves=curves, videos={key: path.read_text() for key, path in videos.items()})

    def record(path, agent, *_arguments, **_options):
        path.parent.mkdir(exist_ok=True)
        path.write_text(agent.kind)

    monkeypatch.setattr("mgdt_agents.evaluation.page.write_report", write_report)
    monkeypatch.setattr("mgdt_agents.evaluation.videos.record_episode", record)
    agent = f"{tmp_path / 'bc'}:action_temperature=2"
    make_agent("bc", "tiny").save(tmp_path / "bc")
    (tmp_path / "random").mkdir()  # not what the name stands for
    for folder in ("bc", "random"):
        (tmp_path / folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    monkeypatch.chdir(tmp_path)
    base = ["--games", "Pong", "--output", tmp_path / "results"]
    run("--agents", f"random,{agent}", *base)
    (tmp_path / "results" / "report.html").touch()
    run("--agents", f"{agent},random", *base, "--no-report")
    shown.clear()
    run("import-scores", tmp_path / "results", "jowa15")
    assert shown["videos"] == {(agent, "Pong"): "bc", ("random", "Pong"): "random"}
    assert shown["curves"] == {agent: {"loss": ([1], [2.0])}}

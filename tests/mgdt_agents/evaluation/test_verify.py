"""Verified results: what is as it was played passes, anything else is named."""

import json
import shutil

import pytest

from mgdt_agents import load_agent
from mgdt_agents.evaluation import BenchmarkConfig, Results, run_benchmark
from mgdt_agents.evaluation.benchmark import hash_of_rules
from mgdt_agents.evaluation.episode_log import EpisodeLog
from mgdt_agents.evaluation.verify import verify
from mgdt_envs import AtariProtocol
from mgdt_envs.seeds import BENCHMARK_SEED

pytestmark = pytest.mark.usefixtures("shared_emulators")

CONFIG = BenchmarkConfig(
    games=("Breakout", "Riverraid"),
    episodes=2,
    protocols={"life": AtariProtocol(life_loss_ends=True), "jpeg": AtariProtocol(jpeg=True)},
    max_steps=80,
    idle_steps=60,
)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    log = EpisodeLog(folder)
    results = run_benchmark({"random": load_agent("random")}, CONFIG, log, traced=True)
    log.close()
    results.save(folder / "results.json")
    # Each way to end is there.
    assert {episode.end for episode in results.episodes} >= {"terminated", "step limit", "idle"}
    return folder


@pytest.fixture
def folder(played, tmp_path):
    return shutil.copytree(played, tmp_path / "copy")


def lines(folder):
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


def write(folder, content):
    text = "".join(json.dumps(line) + "\n" for line in content)
    (folder / "episodes.jsonl").write_text(text)


def edit_results(folder, edit):
    path = folder / "results.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_was_played_is_verified(folder):
    seen = []
    results = verify(folder, seen.append)
    assert set(seen) == set(results.episodes) == set(Results.load(folder / "results.json").episodes)
    assert len(seen) == 8


def test_changed_score_is_refused(folder):
    # Changed with all that follows from it, as whoever cheats would do.
    def edit(content):
        content["rows"][0]["scores"][0][1] += 1

    edit_results(folder, edit)
    with pytest.raises(ValueError, match=r"'rows' does not follow .*see random, life, Breakout"):
        verify(folder)
    Results.load(folder / "results.json").save(folder / "results.json")
    message = rf"random, run 0, life, Breakout, seed {BENCHMARK_SEED + 1}: .* its score is"
    with pytest.raises(ValueError, match=message):
        verify(folder)


@pytest.mark.parametrize("action", [0, -1])
def test_changed_action_is_refused(folder, action):
    log = EpisodeLog(folder)
    results = Results.load(folder / "results.json")
    content = lines(folder)
    line = content[5]
    wanted = next(
        e
        for e in results.episodes
        if all(getattr(e, k) == line[k] for k in ("protocol", "game", "seed"))
    )
    trace = log.trace(line["weights"], line["rules"], wanted)
    actions = bytearray(trace.actions)
    actions[action] = (actions[action] + 1) % 18
    write(folder, content[:5] + content[6:])
    log = EpisodeLog(folder)
    log.append(line["weights"], line["rules"], wanted, type(trace)(bytes(actions), trace.checksum))
    log.close()
    with pytest.raises(ValueError, match=f"{line['game']}, seed {line['seed']}: played again, its"):
        verify(folder)


@pytest.mark.parametrize(("name", "value"), [("score", 1e6), ("steps", 3), ("end", "truncated")])
def test_changed_line_is_refused(folder, name, value):
    content = lines(folder)
    content[1][name] = value
    write(folder, content)
    line = content[1]
    with pytest.raises(ValueError, match=rf"{line['game']}, seed {line['seed']}: .*says .*{value}"):
        verify(folder)


def test_left_out_episode_is_refused(folder):
    content = lines(folder)
    removed = content.pop(3)
    write(folder, content)
    with pytest.raises(ValueError, match=f"{removed['game']}, seed {removed['seed']}: .* no trace"):
        verify(folder)


def test_episode_left_out_of_the_results_is_refused(folder):
    def edit(content):
        for name in ("scores", "steps", "ends"):
            content["rows"][2][name][0].pop()

    edit_results(folder, edit)
    with pytest.raises(ValueError, match=r"damaged|an episode of each seed"):
        verify(folder)


def test_untraced_results_are_refused(folder):
    content = lines(folder)
    del content[0]["actions"]
    write(folder, content)
    with pytest.raises(ValueError, match="--trace"):
        verify(folder)


@pytest.mark.parametrize("name", ["aggregates", "left_out", "intervals"])
def test_changed_figures_are_refused(folder, name):
    def edit(content):
        if name == "aggregates":
            content[name][0]["value"] += 0.01
        else:
            content[name] = {}

    edit_results(folder, edit)
    with pytest.raises(ValueError, match=f"'{name}' does not follow"):
        verify(folder)


@pytest.mark.parametrize("limit", ["max_steps", "idle_steps"])
def test_play_beyond_the_rules_is_refused(folder, limit):
    """Rules that are changed everywhere are still not those that were played by."""
    content = lines(folder)
    edit_results(folder, lambda content: content.update({limit: 10}))
    results = Results.load(folder / "results.json")
    for line in content:
        line["rules"] = hash_of_rules(results, line["protocol"])
    write(folder, content)
    with pytest.raises(ValueError, match=r"it goes on after step \d+, where the rules"):
        verify(folder)


def test_results_without_weights_are_refused(folder):
    edit_results(folder, lambda content: content["agents"]["random"].update(weights=[]))
    with pytest.raises(ValueError, match="checksums of the weights of random's 1 runs, got 0"):
        verify(folder)


def test_last_digits_may_differ(folder):
    def edit(content):
        content["rows"][0]["mean"] *= 1 + 1e-12

    edit_results(folder, edit)
    verify(folder)


def test_other_emulator_is_refused(folder):
    edit_results(folder, lambda content: content["versions"].update({"ale-py": "0.9.9"}))
    with pytest.raises(ValueError, match=r"ale-py 0.9.9, and .* pip install ale-py==0.9.9"):
        verify(folder)

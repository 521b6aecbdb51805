"""Episodes on disk: what is there is not played again, and nothing is taken for what it is not."""

import json
import random
import resource

import numpy as np
import pytest
import torch

from mgdt_agents import Agent, load_agent, make_agent
from mgdt_agents.decision_transformer import PredictedReturn
from mgdt_agents.decision_transformer.rules import ActingRule
from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation import BenchmarkConfig, run_benchmark
from mgdt_agents.evaluation.episode_log import EpisodeLog, EpisodeTrace, fingerprint
from mgdt_agents.evaluation.results import Episode
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_envs import AtariProtocol

pytestmark = pytest.mark.usefixtures("shared_emulators")

CONFIG = BenchmarkConfig(
    games=("Breakout",),
    episodes=3,
    protocols={"short": AtariProtocol(max_frames=120), "shorter": AtariProtocol(max_frames=80)},
)


@pytest.fixture
def agents():
    return {"random": load_agent("random"), "dt": make_agent("dt", "tiny", device="cpu")}


class KilledError(Exception):
    """The process ends here."""


def test_killed_at_random_moments_the_results_are_the_same(tmp_path, agents):
    expected = run_benchmark(agents, CONFIG)
    draw = random.Random(0)
    kills = 0
    while True:
        # Each play takes 20 or 30 steps, all its episodes side by side.
        left = draw.randint(1, 60) if kills < 5 else -1

        def kill(name, step):
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError

        log = EpisodeLog(tmp_path)
        try:
            results = run_benchmark(agents, CONFIG, log, kill, traced=True)
            break
        except KilledError:
            kills += 1
        finally:
            log.close()
    assert kills > 2
    results.save(tmp_path / "killed.json")
    expected.save(tmp_path / "expected.json")
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "expected.json").read_bytes()
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == len(expected.episodes) == 12  # none was played twice

    # Now everything is there.
    log = EpisodeLog(tmp_path)
    assert set(run_benchmark(agents, CONFIG, log, pytest.fail).episodes) == set(expected.episodes)
    log.close()


def test_other_weights_rules_and_games_are_other_episodes(tmp_path, agents):
    short = BenchmarkConfig(
        games=("Breakout",), episodes=2, protocols={"short": AtariProtocol(max_frames=40)}
    )
    played = []

    def play(agents, config):
        played.clear()
        log = EpisodeLog(tmp_path)
        run_benchmark(agents, config, log, lambda name, step: played.extend(step.seeds.tolist()))
        log.close()
        return len(set(played))

    dt = agents["dt"]
    assert play({"a": dt}, short) == 2
    assert play({"b": dt}, short) == 0  # the name in the table decides nothing
    torch.manual_seed(1)
    assert play({"a": make_agent("dt", "tiny", device="cpu")}, short) == 2
    options = {"games": ("Breakout",), "protocols": short.protocols}
    assert play({"a": dt}, BenchmarkConfig(**options, episodes=3)) == 1
    assert play({"a": dt}, BenchmarkConfig(**options, episodes=2, deterministic=True)) == 2
    assert play({"a": dt}, BenchmarkConfig(**options, episodes=2, max_steps=5)) == 2
    other = {"short": AtariProtocol(max_frames=40, sticky=0)}
    assert play({"a": dt}, BenchmarkConfig(games=("Breakout",), episodes=2, protocols=other)) == 2


def episode(seed=1):
    return Episode(agent="a", protocol="p", game="Pong", seed=seed, score=-3.5, steps=7, end="idle")


def test_lines(tmp_path):
    log = EpisodeLog(tmp_path)
    trace = EpisodeTrace(bytes(range(7)), 12345)
    log.append("w", "r", episode(1), trace)
    log.append("w", "r", episode(2), None)
    for opened in (log, EpisodeLog(tmp_path)):
        assert len(opened) == 2
        wanted = Episode(agent="b", run=2, protocol="q", game="Pong", seed=1, score=0, steps=0)
        found = opened.find("w", "r", wanted, traced=True)
        assert (found.agent, found.run, found.protocol) == ("b", 2, "q")
        assert (found.score, found.steps, found.end) == (-3.5, 7, "idle")
        assert opened.find("w", "r", episode(2)) is not None
        assert opened.find("w", "r", episode(2), traced=True) is None
        assert opened.find("w", "other", episode(1)) is None
        assert opened.trace("w", "r", episode(1)) == trace
        assert opened.trace("w", "r", episode(2)) is None
        opened.close()


def test_half_a_line_at_the_end_is_dropped(tmp_path):
    log = EpisodeLog(tmp_path)
    for seed in (1, 2):
        log.append("w", "r", episode(seed), None)
    log.close()
    whole = log.path.read_bytes()
    for cut in range(1, 40, 6):
        log.path.write_bytes(whole[:-cut])
        log = EpisodeLog(tmp_path)
        assert len(log) == 1
        assert log.path.read_bytes() == whole[:-cut]  # who reads alone leaves it as it is
        log.append("w", "r", episode(2), None)
        log.close()
        assert log.path.read_bytes() == whole


def test_damaged_lines_are_named(tmp_path):
    log = EpisodeLog(tmp_path)
    for seed in (1, 2, 3):
        log.append("w", "r", episode(seed), EpisodeTrace(b"\1\2", 0))
    log.close()
    lines = log.path.read_text().splitlines()
    without = {name: value for name, value in json.loads(lines[1]).items() if name != "game"}
    no_seed = json.dumps({**json.loads(lines[1]), "seed": [2]})
    for damaged in ("{", "[]", json.dumps(without), no_seed):
        log.path.write_text("\n".join([lines[0], damaged, lines[2], ""]))
        with pytest.raises(ValueError, match=r"episodes.jsonl, line 2, is no episode"):
            EpisodeLog(tmp_path)
    whole = json.loads(lines[0])
    for damaged in (whole | {"actions": "abc"}, whole | {"actions": 5}, whole | {"checksum": None}):
        known = {name: value for name, value in damaged.items() if value is not None}
        log.path.write_text(json.dumps(known) + "\n")
        with pytest.raises(ValueError, match="actions of a in Pong, seed 1, are damaged"):
            EpisodeLog(tmp_path).trace("w", "r", episode(1))


def test_a_full_disk_is_named_and_keeps_what_is_whole(tmp_path):
    log = EpisodeLog(tmp_path)
    log.append("w", "r", episode(1), None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(ReplayError, match=r"Cannot write .*episodes\.jsonl.*File too large"):
            log.append("w", "r", episode(2), None)
        assert len(log) == 1
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log = EpisodeLog(tmp_path)
    assert len(log) == 1
    log.close()


@pytest.mark.parametrize("kind", sorted(NETWORK_AGENTS))
def test_fingerprint_is_of_every_weight(kind):
    size = min(NETWORK_AGENTS[kind].presets, key=lambda name: name != "tiny")
    agent = make_agent(kind, size, device="cpu")
    before = fingerprint(agent)
    assert fingerprint(agent) == before
    for name, weights in agent.model.named_parameters():
        with torch.no_grad():
            first = weights.view(-1)[:1]
            kept = first.clone()
            first.copy_(torch.nextafter(first, torch.full_like(first, 9)))
            assert fingerprint(agent) != before, name
            first.copy_(kept)
    assert fingerprint(agent) == before


def test_fingerprint_of_an_agent_without_a_network():
    assert fingerprint(load_agent("random")) == fingerprint(load_agent("random"))


class Still(Agent):
    """Takes one action, and does not say which."""

    kind = "still"

    def __init__(self, action):
        super().__init__()
        self.action = action

    def _act(self, inputs):
        return np.full(len(inputs.observations), self.action), None


class Says(Still):
    def identity(self):
        return str(self.action)


class Likeliest(ActingRule):
    """A rule that cannot be written down."""

    def action_logits(self, logits_BA):
        return logits_BA * 100


def test_fingerprints_of_agents_of_one_s_own():
    still = Still(0)
    assert fingerprint(still) == fingerprint(still)
    assert len({fingerprint(still), fingerprint(Still(0)), fingerprint(Still(2))}) == 3
    assert fingerprint(Says(0)) == fingerprint(Says(0)) != fingerprint(Says(2))
    torch.manual_seed(0)
    bc = make_agent("bc", "tiny", device="cpu")
    found = []
    for rule in (PredictedReturn(), PredictedReturn(), Likeliest(), Likeliest()):
        agent = bc.changed()
        agent.rule = rule
        found.append(fingerprint(agent))
    assert found[0] == found[1]
    assert len(set(found)) == 3

"""The benchmark's results: what was played, summed and normalized."""

import dataclasses
from importlib.metadata import version

import numpy as np
import pytest

from mgdt_agents import load_agent, make_agent
from mgdt_agents.agent import Agent
from mgdt_agents.evaluation import BenchmarkConfig, play_episodes, rollout, run_benchmark
from mgdt_agents.evaluation.benchmark import (
    MEASURED_SECONDS,
    agent_info,
    decisions_per_second,
    with_speeds,
)
from mgdt_agents.replay.trace import BUNDLED, Trace
from mgdt_envs import AtariProtocol, __version__, suite
from mgdt_envs.seeds import BENCHMARK_SEEDS

pytestmark = pytest.mark.usefixtures("shared_emulators")

# Sixty steps an episode.
PROTOCOL = AtariProtocol(max_frames=240)
# Carnival has no human reference.
GAMES = ("Riverraid", "Boxing", "Carnival")


class OneActionAgent(Agent):
    """Does the same always."""

    kind = "one-action"

    def __init__(self, action, games=()):
        super().__init__(games, PROTOCOL)
        self.action = action

    def _act(self, inputs):
        return np.full(len(inputs.observations), self.action), None


RULES = {"short": PROTOCOL}


@pytest.fixture(scope="module")
def config():
    return BenchmarkConfig(games=GAMES, episodes=2, seed=20, protocols=RULES)


@pytest.fixture(scope="module")
def agents():
    return {"fire": OneActionAgent(1, ["Boxing"]), "noop": OneActionAgent(0)}


@pytest.fixture(scope="module")
def results(agents, config):
    return run_benchmark(agents, config)


def test_scores_are_those_of_the_rollout(results):
    keys = [(game, seed) for game in GAMES for seed in (20, 21)]
    scores, lengths = dict.fromkeys(keys, 0.0), dict.fromkeys(keys, 0)
    for step in rollout(OneActionAgent(1), GAMES, episodes=2, seed=20, protocol=PROTOCOL):
        for game, seed, reward in zip(step.games, step.seeds, step.rewards, strict=True):
            scores[game, seed] += reward
            lengths[game, seed] += 1
    played = {
        (episode.game, episode.seed): episode
        for episode in results.episodes
        if episode.agent == "fire"
    }
    assert {key: episode.score for key, episode in played.items()} == scores
    assert {key: episode.steps for key, episode in played.items()} == lengths
    assert set(lengths.values()) == {60}
    assert {episode.end for episode in played.values()} == {"truncated"}
    assert results.summaries["fire", "short", "Riverraid"].mean > 0
    assert not np.array_equal(
        results.scores("fire", "Riverraid", "short"), results.scores("noop", "Riverraid", "short")
    )


def test_what_the_results_say_of_themselves(results):
    assert results.games == GAMES
    assert results.protocols == RULES
    assert results.seeds == range(20, 22)
    assert not results.deterministic
    assert results.versions["mgdt"] == __version__
    assert results.versions["ale-py"] == version("ale-py")
    assert list(results.agents) == ["fire", "noop"]
    assert results.agents["fire"].trained_on == ("Boxing",)
    assert results.agents["fire"].trained_under == PROTOCOL
    # Who names no games may have learned under any rules.
    assert results.agents["noop"].trained_under is None
    assert results.agents["fire"].parameters is None


def test_training_windows_are_told_where_they_are_known(tmp_path):
    assert agent_info([load_agent("dt", device="cpu")]).trained_windows == 1_408_000
    agent = make_agent("dt", "tiny", device="cpu")
    for known, told in ((256, 256), (0, None), (None, None)):
        agent.trained_windows = known
        agent.save(tmp_path)
        assert agent_info([load_agent(tmp_path, device="cpu")]).trained_windows == told
    assert agent_info([load_agent("random")]).trained_windows is None


def test_speed_is_measured_and_not_measured_twice(results):
    class CountingAgent(OneActionAgent):
        rows = 0

        def _act(self, inputs):
            self.rows += len(inputs.observations)
            return super()._act(inputs)

    agent = CountingAgent(1)
    speed = decisions_per_second(agent, 3)
    assert agent.rows % 3 == 0
    # The first call does not count.
    assert speed <= (agent.rows - 3) / MEASURED_SECONDS
    agents = {name: OneActionAgent(1) for name in results.agents}
    config = BenchmarkConfig(games=GAMES, episodes=2)
    measured = with_speeds(results, agents, config)
    assert all(info.decisions_per_second > 0 for info in measured.agents.values())
    assert with_speeds(measured, agents, config).agents == measured.agents


def test_parameters_are_counted():
    agent = make_agent("dt", "tiny", games=["Pong"], device="cpu")
    config = BenchmarkConfig(games=("Pong",), episodes=1, protocols=RULES)
    (info,) = run_benchmark({"dt": agent}, config).agents.values()
    assert info.parameters == sum(weights.numel() for weights in agent.model.parameters())
    assert (info.kind, info.trained_on) == ("dt", ("Pong",))


def test_repeated_benchmark_gives_the_same_results():
    short = BenchmarkConfig(games=("Riverraid",), episodes=1, seed=3, protocols=RULES)
    agents = {"random": load_agent("random")}
    first = run_benchmark(agents, short)
    assert run_benchmark(agents, short) == first
    other = dataclasses.replace(short, seed=5)
    assert run_benchmark(agents, other).episodes != first.episodes


def test_episodes_come_as_they_end(agents, config):
    # Whoever stops in the middle has what was played until then.
    episodes = []
    for episode in play_episodes(agents, config):
        episodes.append(episode)
        if len(episodes) == 2:
            break
    assert len({(episode.game, episode.seed) for episode in episodes}) == 2


def test_games_by_the_name_of_a_suite():
    assert BenchmarkConfig(games="bundled").games == suite("bundled")
    with pytest.raises(ValueError, match="Unknown game or suite 'Pang'"):
        BenchmarkConfig(games=("Pang",))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["dt"], r"agents by name, such as .*, got \['dt'\]"),
        ({"dt": "dt"}, "an agent for 'dt', got 'dt'; load_agent"),
        ({"noop": [OneActionAgent(0), None]}, "an agent for 'noop', got None"),
    ],
    ids=["list", "name", "none"],
)
def test_what_is_no_agent(wrong, message, config):
    with pytest.raises(ValueError, match=message):
        run_benchmark(wrong, config)


def test_several_protocols(results):
    rules = {"short": PROTOCOL, "shorter": AtariProtocol(max_frames=120)}
    both = run_benchmark(
        {"fire": OneActionAgent(1)},
        BenchmarkConfig(games=GAMES, episodes=2, seed=20, protocols=rules),
    )
    steps = {episode.protocol: episode.steps for episode in both.episodes}
    assert steps == {"short": 60, "shorter": 30}
    for game in GAMES:
        assert both.scores("fire", game, "short").tolist() == (
            results.scores("fire", game, "short").tolist()
        )


def test_episodes_that_end_with_a_life_are_not_normalized():
    rules = {"default": AtariProtocol(life_loss_ends=True, max_frames=240)}
    config = BenchmarkConfig(games=("Breakout",), episodes=1, protocols=rules)
    results = run_benchmark({"fire": OneActionAgent(1)}, config)
    (episode,) = results.episodes
    assert episode.steps < 60
    assert episode.end == "terminated"
    assert results.summaries["fire", "default", "Breakout"].human_normalized is None
    assert results.aggregates["fire", "default"] == {}
    assert "lost life" in results.left_out()["Breakout"]


def test_on_step_sees_every_step():
    seen = {"a": 0, "b": 0}

    def count(name, step):
        seen[name] += len(step.actions)

    short = BenchmarkConfig(games=("Riverraid",), episodes=1, protocols=RULES)
    results = run_benchmark({"a": OneActionAgent(0), "b": OneActionAgent(1)}, short, on_step=count)
    assert seen == {episode.agent: episode.steps for episode in results.episodes}


def test_seeds_of_recordings_are_none_of_the_benchmark_s():
    for path in BUNDLED.glob("*.npz"):
        assert not any(seed in BENCHMARK_SEEDS for seed in Trace.load(path).seeds.tolist()), path
    assert BenchmarkConfig(games=GAMES).seed in BENCHMARK_SEEDS

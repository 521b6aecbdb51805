"""The agents whose weights come with the package."""

import gymnasium as gym
import pytest

from mgdt_agents import NetworkAgent, load_agent
from mgdt_agents.evaluation import BenchmarkConfig, run_benchmark
from mgdt_agents.registry import PRETRAINED, bundled_agents
from mgdt_envs import AtariProtocol, suite

IMPALA_GAMES = ("Breakout", "CrazyClimber", "Pong", "SpaceInvaders")


def test_the_agents_are_there() -> None:
    assert bundled_agents() == ("bc", "bc-filtered", "bc-weighted", "cql", "dt", "dtq", "impala")
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*")) < 16e6


@pytest.mark.parametrize("name", bundled_agents())
def test_agents_know_their_games_and_what_made_them(name: str) -> None:
    agent = load_agent(name, env=gym.make("MultiGameAtari-v0", games="bundled"), device="cpu")
    assert isinstance(agent, NetworkAgent)
    assert agent.kind == name.split("-")[0]
    games = suite("bundled") if name != "impala" else IMPALA_GAMES
    assert sorted(agent.games) == sorted(games)
    assert agent.protocol == AtariProtocol()
    card = (PRETRAINED / name / "card.md").read_text()
    for word in ("mgdt-train", "seed", "steps", "Commit", *agent.games):
        assert word in card, word


def test_agents_play_breakout() -> None:
    # With these seeds, 300 steps of any one action score 0 and random play 0.25 on average; the
    # bundled agents, which have to move to where the ball comes down, 5.75 to 7.5.
    config = BenchmarkConfig(
        games=("Breakout",),
        episodes=4,
        protocols={"short": AtariProtocol(max_frames=1200)},
    )
    agents = {name: load_agent(name, device="cpu") for name in bundled_agents()}
    results = run_benchmark(agents, config)  # in the same emulators, which take long to make
    for name in agents:
        assert results.scores(name, "Breakout", "short").mean() >= 4, name

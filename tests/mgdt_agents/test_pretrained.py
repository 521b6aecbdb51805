"""The agents whose weights come with the package."""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from mgdt_agents import NetworkAgent, load_agent
from mgdt_agents.registry import PRETRAINED, bundled_agents
from mgdt_envs import AtariProtocol, suite

README = Path(__file__).parents[2] / "README.md"


def test_the_three_agents_are_there() -> None:
    assert bundled_agents() == ("bc", "cql", "dt")
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*")) < 16e6


@pytest.mark.parametrize("name", ["bc", "cql", "dt"])
def test_agents_know_their_games_and_what_made_them(name: str) -> None:
    agent = load_agent(name, env=gym.make("MultiGameAtari-v0", games="bundled"), device="cpu")
    assert isinstance(agent, NetworkAgent)
    assert agent.kind == name
    assert sorted(agent.games) == list(suite("bundled"))
    assert agent.protocol == AtariProtocol()
    card = (PRETRAINED / name / "card.md").read_text()
    for word in ("mgdt-train", "seed", "steps", *agent.games):
        assert word in card, word


@pytest.mark.parametrize("name", ["bc", "cql", "dt"])
def test_agents_move_up_in_freeway(name: str) -> None:
    # In 400 steps of Freeway the random policy hardly ever crosses the road; whoever learned
    # anything from the traces does, on average over a few episodes.
    protocol = AtariProtocol(max_frames=1600)
    env = gym.make("MultiGameAtari-v0", games="Freeway", protocol=protocol)
    env.reset(seed=0)
    agent = load_agent(name, device="cpu")
    agent.set_random_seed(0)
    mean_return, _ = evaluate_policy(agent, env, 4, deterministic=False, warn=False)
    assert isinstance(mean_return, float)
    assert mean_return >= 1


@pytest.mark.slow
def test_the_ten_lines_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    exec(compile(example, str(README), "exec"), {})
    game, score, normalised = capsys.readouterr().out.split()
    assert game == "Pong"
    assert -21 <= float(score) <= 21
    assert np.isfinite(float(normalised))

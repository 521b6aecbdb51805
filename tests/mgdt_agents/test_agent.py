"""The contract of predict, save and load, the same for every agent."""

import dataclasses
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import mgdt_envs
from mgdt_agents import Agent, NetworkAgent, load_agent, make_agent
from mgdt_agents.errors import AgentLoadError, ReplayError
from mgdt_agents.planning import Search, TrajectoryTransformerAgent
from mgdt_agents.random_agent import RandomAgent
from mgdt_agents.registry import NETWORK_AGENTS, ONLINE_AGENTS
from mgdt_agents.sb3_agent import SB3Agent
from mgdt_envs.sb3 import MultiGameAtariVecEnv

KINDS = [*NETWORK_AGENTS, *ONLINE_AGENTS, "random", "sb3"]


class NoEnv(gym.Env):
    """The spaces of the suite."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(18)


def make(kind: str) -> Agent:
    torch.manual_seed(0)
    if kind == "random":
        return RandomAgent()
    if kind == "sb3":
        model = PPO("MlpPolicy", NoEnv(), policy_kwargs={"net_arch": [4]}, device="cpu", seed=0)
        return SB3Agent(model, games=["Pong"], protocol=mgdt_envs.AtariProtocol())
    agent_class = (NETWORK_AGENTS | ONLINE_AGENTS)[kind]
    config = agent_class.presets["small" if kind in ONLINE_AGENTS else "tiny"]
    if kind in ("cql", "pqn"):
        # Else greedy but for one action in a thousand, which no test would see.
        config = dataclasses.replace(config, exploration=0.5)
    agent = agent_class(config, games=["Pong", "Breakout"], device="cpu")
    if isinstance(agent, TrajectoryTransformerAgent):
        agent.search = Search(likely=0.0)  # else one action is much likelier than all others
    # At initialization every action is as good as another: make the observation matter.
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.mul_(3)
    return agent


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest) -> Agent:
    return make(request.param)


@pytest.fixture(params=[*NETWORK_AGENTS, *ONLINE_AGENTS])
def network_agent(request: pytest.FixtureRequest) -> NetworkAgent:
    agent = make(request.param)
    assert isinstance(agent, NetworkAgent)
    return agent


def observations(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(rows, 4, 84, 84), dtype=np.uint8)


def test_one_observation_and_a_batch(agent: Agent) -> None:
    action, _ = agent.predict(observations(1)[0])
    assert isinstance(action, np.ndarray)
    assert (action.shape, action.dtype) == ((), np.int64)
    assert agent.action_space.contains(action)
    for rows in (1, 3):
        actions, _ = agent.predict(observations(rows))
        assert (actions.shape, actions.dtype) == ((rows,), np.int64)


@pytest.mark.parametrize(
    ("observation", "error", "message"),
    [
        (np.zeros((84, 84, 4), np.uint8), ValueError, r"\(84, 84, 4\).*expected \(4, 84, 84\)"),
        (np.zeros((2, 84, 84, 4), np.uint8), ValueError, r"np\.moveaxis\(observation, -1, -3\)"),
        (np.zeros((84, 84), np.uint8), ValueError, r"expected \(4, 84, 84\)"),
        (np.zeros((4, 84, 84), np.float32), ValueError, "uint8.*float32"),
        ((np.zeros((4, 84, 84), np.uint8), {}), ValueError, "obs, info = env.reset"),
        ([[0]], TypeError, "numpy array.*list"),
        (torch.zeros(4, 84, 84), TypeError, "numpy array.*Tensor"),
    ],
    ids=["hwc", "batch of hwc", "one frame", "float", "obs and info", "list", "tensor"],
)
def test_wrong_observations(
    agent: Agent, observation: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        agent.predict(observation)  # type: ignore[arg-type]


def test_wrong_rows(agent: Agent) -> None:
    with pytest.raises(ValueError, match=r"reward of shape \(3,\), got \(2,\)"):
        agent.predict(observations(3), reward=np.zeros(2))
    with pytest.raises(ValueError, match=r"episode_start of shape \(3,\), got \(1,\)"):
        agent.predict(observations(3), episode_start=np.array([True]))
    for reward in (np.array([0.0, np.nan, 1.0]), np.array([np.inf, 0, 0]), np.array(["1"] * 3)):
        with pytest.raises(ValueError, match="finite numbers as reward, got array"):
            agent.predict(observations(3), reward=reward)


@pytest.mark.filterwarnings("error")
def test_observations_in_any_memory(agent: Agent) -> None:
    batch = observations(3)
    expected, _ = agent.predict(batch, deterministic=True, stream=np.zeros((3, 2), int))
    read_only = batch.copy()
    read_only.flags.writeable = False
    strided = np.repeat(batch, 2, 0)[::2]
    for array in (batch[::-1].copy()[::-1], read_only, strided, np.asfortranarray(batch)):
        actions, _ = agent.predict(array, deterministic=True, stream=np.zeros((3, 2), int))
        np.testing.assert_array_equal(actions, expected)
    action, _ = agent.predict(batch[::-1][0])
    assert action.shape == ()


@pytest.mark.parametrize("kind", ["dt", "bc"])
def test_state_of_another_batch(kind: str) -> None:
    agent = make(kind)
    _, state = agent.predict(observations(2))
    with pytest.raises(ValueError, match="2 rows and the observation of 3"):
        agent.predict(observations(3), state)
    with pytest.raises(ValueError, match="2 rows and the observation of 3"):
        agent.predict(observations(3), state, np.array([False, True, True]))
    agent.predict(observations(3), state, np.ones(3, bool))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dt", r"\[\(n, 3\), \(n, 3\), \(n, 0\)\]"), ("cql", r"\[\]"), ("random", r"\[\]")],
)
def test_state_of_another_agent(kind: str, expected: str) -> None:
    state = (np.zeros((2, 5), int),)
    with pytest.raises(ValueError, match=rf"this {kind} agent.* {expected}, got \[\(2, 5\)\]"):
        make(kind).predict(observations(2), state)


@pytest.mark.parametrize("kind", ["dt", "bc"])
def test_state_holds_last_actions_and_rewards(kind: str) -> None:
    agent = make(kind)
    taken, state, rewards = [], None, [0.0, 5.0, 0.0, -2.0, 0.0]
    for reward in rewards:
        action, state = agent.predict(observations(1), state, reward=np.array([reward]))
        taken.append(int(action[0]))
    assert state is not None
    np.testing.assert_array_equal(state[0], [taken[-3:]])
    np.testing.assert_array_equal(state[1], [[0, 3, 0]])
    # A row that begins an episode forgets; the other goes on.
    _, both = agent.predict(
        observations(2),
        tuple(np.repeat(part, 2, 0) for part in state),
        np.array([True, False]),
        reward=np.array([1.0, 1.0]),
    )
    assert both is not None
    np.testing.assert_array_equal(both[0][:, :2], [[0, 0], taken[-2:]])
    np.testing.assert_array_equal(both[1], [[0, 0, 0], [3, 0, 1]])


@pytest.mark.parametrize("kind", ["dt", "bc"])
def test_memory_changes_what_is_done(kind: str) -> None:
    agent = make(kind)
    batch = observations(64)
    actions, state = agent.predict(batch, deterministic=True)
    again, _ = agent.predict(batch, state, deterministic=True)
    fresh, _ = agent.predict(batch, state, np.ones(64, bool), deterministic=True)
    assert (again != actions).any()
    np.testing.assert_array_equal(fresh, actions)


def test_draws_follow_the_seed(agent: Agent) -> None:
    batch = observations(64)

    def draw(seed: int) -> np.ndarray:
        agent.set_random_seed(seed)
        return np.concatenate([agent.predict(batch)[0] for _ in range(3)])

    np.testing.assert_array_equal(draw(1), draw(1))
    if agent.kind == "random":
        assert len(set(map(tuple, draw(1).reshape(3, 64)))) == 3  # no call repeats another
    assert (draw(1) != draw(2)).any()


def test_seeds_of_any_kind(agent: Agent) -> None:
    batch = observations(64)

    def draw(seed: Any) -> np.ndarray:
        agent.set_random_seed(seed)
        return agent.predict(batch)[0]

    np.testing.assert_array_equal(draw(3), draw(np.int64(3)))
    agent.set_random_seed(3)
    np.testing.assert_array_equal(draw(None), draw(3))  # None begins nothing anew
    with pytest.raises(TypeError, match="float"):
        agent.set_random_seed(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"integers as stream of shape \(64, 2\), got \(2,\)"):
        agent.predict(batch, stream=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"shape \(64, 2\), got \(64, 2\) of float64"):
        agent.predict(batch, stream=np.zeros((64, 2)))
    listed = [[7, 0]] * 64
    expected, _ = agent.predict(batch, stream=np.array(listed))
    np.testing.assert_array_equal(agent.predict(batch, stream=listed)[0], expected)  # type: ignore[arg-type]


def test_rows_do_not_mix(network_agent: NetworkAgent) -> None:
    batch = observations(5)
    together, _ = network_agent.predict(batch, deterministic=True)
    alone = [network_agent.predict(row, deterministic=True)[0] for row in batch]
    np.testing.assert_array_equal(together, alone)


def test_save_and_load(network_agent: NetworkAgent, tmp_path) -> None:
    network_agent.save(tmp_path / "agent", card="# It\n")
    assert sorted(path.name for path in (tmp_path / "agent").iterdir()) == [
        "card.md",
        "config.json",
        "model.safetensors",
    ]
    env = gym.make("MultiGameAtari-v0", games=["Pong"])
    loaded = type(network_agent).load(tmp_path / "agent", env=env, device="cpu")
    assert type(load_agent(tmp_path / "agent")) is type(network_agent)
    assert loaded.config == network_agent.config
    assert (loaded.games, loaded.protocol) == (network_agent.games, network_agent.protocol)
    for name, tensor in network_agent.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    batch = observations(16)
    for deterministic in (True, False):
        actions, _ = network_agent.predict(batch, deterministic=deterministic)
        again, _ = loaded.predict(batch, deterministic=deterministic)
        np.testing.assert_array_equal(actions, again)
    loaded.save(tmp_path / "agent")
    assert (tmp_path / "agent" / "card.md").read_text() == "# It\n"


def test_load_refuses(tmp_path) -> None:
    make("dt").save(tmp_path / "dt")  # type: ignore[attr-defined]
    with pytest.raises(AgentLoadError, match="kind 'dt', expected 'cql'"):
        NETWORK_AGENTS["cql"].load(tmp_path / "dt")
    env = gym.make("MultiGameAtari-v0", protocol=mgdt_envs.AtariProtocol(stack=3))
    with pytest.raises(AgentLoadError, match="observation_space does not match"):
        NETWORK_AGENTS["dt"].load(tmp_path / "dt", env=env)
    config = (tmp_path / "dt" / "config.json").read_text()
    (tmp_path / "dt" / "config.json").write_text(config.replace('"width": 64', '"width": 128'))
    with pytest.raises(AgentLoadError, match="does not fit"):
        NETWORK_AGENTS["dt"].load(tmp_path / "dt")
    for content, message in {
        "{": "not JSON",
        "null": "Expected an object .* found None",
        config.replace('"games"', '"suite"'): r"lacks \['games'\]",
    }.items():
        (tmp_path / "dt" / "config.json").write_text(content)
        with pytest.raises(AgentLoadError, match=message):
            NETWORK_AGENTS["dt"].load(tmp_path / "dt")
    (tmp_path / "dt" / "config.json").write_text(config)
    weights = (tmp_path / "dt" / "model.safetensors").read_bytes()
    (tmp_path / "dt" / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(AgentLoadError, match=r"model\.safetensors is damaged"):
        NETWORK_AGENTS["dt"].load(tmp_path / "dt")


def test_weights_carry_a_checksum(tmp_path) -> None:
    make("cql").save(tmp_path)  # type: ignore[attr-defined]
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(AgentLoadError, match=r"model\.safetensors is damaged .* SHA-256"):
        load_agent(tmp_path, device="cpu")
    # A folder from before there was one is taken as it is.
    content = json.loads((tmp_path / "config.json").read_text())
    del content["model_sha256"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    load_agent(tmp_path, device="cpu")


def test_weights_that_are_not_finite(network_agent: NetworkAgent, tmp_path) -> None:
    with torch.no_grad():
        for parameter in network_agent.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"finite logits to act by, got \[.*nan|No action is left"):
        network_agent.predict(observations(2))
    network_agent.save(tmp_path)
    with pytest.raises(
        AgentLoadError, match=r"safetensors is of no use: \S+ has infinite or undef"
    ):
        load_agent(tmp_path, device="cpu")


def test_weights_are_saved_as_floating_numbers(network_agent: NetworkAgent, tmp_path) -> None:
    for dtype in (torch.int8, torch.bool):
        with pytest.raises(
            ValueError, match=f"floating dtype, such as torch.bfloat16, got {dtype}"
        ):
            network_agent.save(tmp_path / "agent", dtype=dtype)
    assert not (tmp_path / "agent").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"Expected a folder at .*file, or nothing"):
        network_agent.save(tmp_path / "file")
    network_agent.save(tmp_path / "agent", dtype=torch.bfloat16)
    load_agent(tmp_path / "agent", device="cpu").predict(observations(2))


def test_files_follow_the_umask(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        make("bc").save(tmp_path / "agent")  # type: ignore[attr-defined]
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "agent").iterdir()
    }
    assert modes == dict.fromkeys(("card.md", "config.json", "model.safetensors"), 0o640)


def test_failed_save_leaves_the_agent_that_was_there(tmp_path, monkeypatch) -> None:
    agent = make("bc")
    assert isinstance(agent, NetworkAgent)
    agent.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        agent.model.action_head.bias.add_(1)  # type: ignore[operator, union-attr]

    def full(self: Path, data: bytes) -> int:
        if self.name.startswith("config"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.write_text("part")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        ReplayError, match=r"Cannot write .*config\.json, perhaps for want of space"
    ):
        agent.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_devices_that_are_not_there(tmp_path) -> None:
    make("dt").save(tmp_path)  # type: ignore[attr-defined]
    for device in ("gpu", "mps", "cuda:99"):
        with pytest.raises(ValueError, match=f"Cannot compute on device '{device}'.*'auto', 'cpu'"):
            load_agent(tmp_path, device=device)
        with pytest.raises(ValueError, match=f"Cannot compute on device '{device}'"):
            make_agent("cql", "tiny", device=device)


def test_games_of_rows(agent: Agent) -> None:
    agent.predict(observations(2), game="pong")
    agent.predict(observations(2), game=["Pong", "Breakout"])
    agent.predict(observations(1)[0], game="Pong")
    with pytest.raises(ValueError, match="Expected one game or 2, got 3"):
        agent.predict(observations(2), game=["Pong"] * 3)
    with pytest.raises(ValueError, match="Unknown game 'Pnog'"):
        agent.predict(observations(2), game="Pnog")


def test_predict_refuses_an_empty_batch(agent: Agent) -> None:
    with pytest.raises(ValueError, match="at least one observation"):
        agent.predict(observations(0))


def make_env() -> gym.Env:
    protocol = mgdt_envs.AtariProtocol(max_frames=80)
    return gym.make("MultiGameAtari-v0", games=["Pong", "Breakout"], protocol=protocol)


def make_vec_env() -> MultiGameAtariVecEnv:
    return MultiGameAtariVecEnv(2, ["Pong"], mgdt_envs.AtariProtocol(max_frames=80))


@pytest.mark.parametrize(
    ("make_any", "deterministic"),
    [(make_env, True), (lambda: DummyVecEnv([make_env]), True), (make_vec_env, False)],
    ids=["env", "dummy", "vectorized"],
)
def test_evaluate_policy(agent: Agent, make_any, deterministic: bool) -> None:
    returns, lengths = evaluate_policy(
        agent,
        make_any(),
        n_eval_episodes=3,
        deterministic=deterministic,
        return_episode_rewards=True,
        warn=False,
    )
    assert lengths == [20, 20, 20]
    assert np.shape(returns) == (3,)

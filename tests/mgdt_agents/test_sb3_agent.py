"""Models of stable-baselines3 as agents."""

import json
import re
import zipfile

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO, TD3

from mgdt_agents import load_agent
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.evaluation.rollout import rollout
from mgdt_agents.sb3_agent import SB3Agent
from mgdt_envs import AtariProtocol


class BlackEnv(gym.Env):
    """An environment that shows nothing, with spaces to choose."""

    def __init__(self, action_space=None, shape=(4, 84, 84)):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = action_space or gym.spaces.Discrete(18)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action):
        return np.zeros(self.observation_space.shape, np.uint8), 0.0, False, False, {}


def make_model(algorithm=PPO, env=None):
    small = {"buffer_size": 10} if algorithm in (DQN, TD3) else {"n_steps": 2}
    if algorithm is PPO:
        small["batch_size"] = 2
    policy_kwargs = {"net_arch": [4]}
    return algorithm(
        "MlpPolicy", env or BlackEnv(), policy_kwargs=policy_kwargs, device="cpu", seed=0, **small
    )


@pytest.fixture(scope="module")
def observations():
    return np.random.default_rng(0).integers(256, size=(5, 4, 84, 84)).astype(np.uint8)


def test_dqn_acts_as_the_model_does(dqn_zip, observations):
    agent = load_agent(dqn_zip, device="cpu")
    assert isinstance(agent, SB3Agent)
    expected, _ = DQN.load(dqn_zip, device="cpu").predict(observations, deterministic=True)
    expected = np.array([0, 1, 3, 4])[expected]  # Breakout's actions among all
    actions, state = agent.predict(observations, deterministic=True)
    assert (actions.shape, actions.dtype, state) == ((5,), np.int64, None)
    assert np.array_equal(actions, expected)
    for observation, action in zip(observations, expected, strict=True):
        single, _ = agent.predict(observation, deterministic=True)
        assert single.shape == ()
        assert single == action


def test_zip_says_what_the_model_is_for(dqn_zip, tmp_path):
    agent = load_agent(dqn_zip, device="cpu")
    assert (agent.games, agent.protocol) == (("Breakout",), AtariProtocol())
    assert not agent.protocol_is_assumed
    protocol = AtariProtocol(sticky=0.0)
    model = make_model(PPO, BlackEnv(gym.spaces.Discrete(2)))
    SB3Agent(model, games=["Pong"], protocol=protocol, actions=[3, 4]).save(tmp_path / "agent")
    assert [path.name for path in (tmp_path / "agent").iterdir()] == ["model.zip"]
    for path in (tmp_path / "agent", tmp_path / "agent" / "model.zip"):
        agent = load_agent(path, device="cpu")
        assert (agent.games, agent.protocol) == (("Pong",), protocol)
        assert agent.actions.tolist() == [3, 4]


def test_protocol_of_a_model_from_elsewhere_is_assumed(tmp_path):
    make_model().save(tmp_path / "model.zip")
    agent = load_agent(tmp_path / "model.zip", device="cpu")
    assert agent.protocol_is_assumed
    assert agent.protocol == AtariProtocol()
    with pytest.raises(ValueError, match=r"does not say .* load_agent\(path, protocol="):
        next(rollout(agent, ["Pong"], episodes=1, seed=0))
    given = load_agent(tmp_path / "model.zip", protocol=AtariProtocol(sticky=0.0))
    assert given.known_protocol() == AtariProtocol(sticky=0.0)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_algorithm_is_recognized(tmp_path, observations, algorithm):
    model = make_model(algorithm)
    model.save(tmp_path / "model.zip")
    agent = load_agent(str(tmp_path / "model.zip"), env=BlackEnv(), device="cpu")
    assert isinstance(agent, SB3Agent)
    assert type(agent.model) is algorithm
    actions, _ = agent.predict(observations, deterministic=True)
    assert np.array_equal(actions, model.predict(observations, deterministic=True)[0])


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_draws_depend_on_the_seed(observations, algorithm):
    agent = SB3Agent(make_model(algorithm))
    if algorithm is DQN:
        agent.model.exploration_rate = 1.0
    drawn = []
    for seed in (3, 3, 4):
        agent.set_random_seed(seed)
        drawn.append([agent.predict(observations)[0].tolist() for _ in range(4)])
    assert drawn[0] == drawn[1] != drawn[2]


def test_model_of_another_action_space(tmp_path):
    model = make_model(PPO, BlackEnv(gym.spaces.Discrete(4)))
    with pytest.raises(AgentLoadError, match=r"action_space is Discrete\(18\), got Discrete\(4\)"):
        SB3Agent(model)
    model.save(tmp_path / "model.zip")
    with pytest.raises(AgentLoadError, match=r"got Discrete\(4\)"):
        load_agent(tmp_path / "model.zip", device="cpu")


def test_model_of_another_observation_space():
    with pytest.raises(AgentLoadError, match=r"observation_space is .*, got Box\(.*\(3, 84, 84\)"):
        SB3Agent(make_model(PPO, BlackEnv(shape=(3, 84, 84))))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (BlackEnv(gym.spaces.Discrete(6)), "action_space does not match the agent's"),
        (BlackEnv(shape=(3, 84, 84)), "observation_space does not match the agent's"),
    ],
)
def test_environment_of_other_spaces(dqn_zip, env, message):
    with pytest.raises(AgentLoadError, match=message):
        load_agent(dqn_zip, env=env, device="cpu")


def test_algorithm_without_discrete_actions(tmp_path):
    make_model(TD3, BlackEnv(gym.spaces.Box(-1, 1, (2,)))).save(tmp_path / "model.zip")
    with pytest.raises(AgentLoadError, match="expected DQN, PPO or A2C"):
        load_agent(tmp_path / "model.zip")


def test_file_that_is_no_model(dqn_zip, tmp_path):
    path = tmp_path / "model.zip"
    for content in (b"", b"no zip file", dqn_zip.read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(AgentLoadError, match=re.escape(f"{path} is no stable-baselines3")):
            load_agent(path)
    for member, content in (("another", "{}"), ("data", "no JSON")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(member, content)
        with pytest.raises(AgentLoadError, match=re.escape(f"{path} is no stable-baselines3")):
            load_agent(path)


def test_model_without_weights(dqn_zip, tmp_path):
    with zipfile.ZipFile(dqn_zip) as source, zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        file.writestr("data", source.read("data"))
    with pytest.raises(AgentLoadError, match=r"model\.zip"):
        load_agent(tmp_path / "model.zip", device="cpu")


def test_model_of_sb3_contrib(dqn_zip, tmp_path):
    # Its QRDQN has the hyper-parameters of DQN, and another network.
    with zipfile.ZipFile(dqn_zip) as source:
        data = json.loads(source.read("data"))
    data["policy_class"]["__module__"] = "sb3_contrib.qrdqn.policies"
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        file.writestr("data", json.dumps(data))
    with pytest.raises(AgentLoadError, match=r"written by sb3_contrib.*SB3Agent\(model\)"):
        load_agent(tmp_path / "model.zip")


def test_replay_buffer_is_not_made(dqn_zip):
    agent = load_agent(dqn_zip, device="cpu")
    assert agent.model.replay_buffer.buffer_size == 1


@pytest.mark.parametrize("algorithm", [A2C, PPO, DQN])
def test_rows_draw_the_same_in_any_company(algorithm, observations):
    model = make_model(algorithm)
    model.exploration_rate = 0.5
    agent = SB3Agent(model)
    stream = np.stack([np.arange(5), np.arange(5) % 3], 1)
    together, _ = agent.predict(observations, stream=stream)
    alone = [
        agent.predict(observations[row : row + 1], stream=stream[row : row + 1])[0][0]
        for row in range(5)
    ]
    assert together.tolist() == alone


def test_actions_are_drawn_from_the_policy(observations):
    model = make_model(PPO)
    agent = SB3Agent(model)
    model.policy.set_training_mode(True)  # as after learning
    rows = np.repeat(observations[:1], 4000, 0)
    drawn = np.bincount(agent.predict(rows)[0], minlength=18) / len(rows)
    assert not model.policy.training
    tensor, _ = model.policy.obs_to_tensor(observations[:1])
    expected = model.policy.get_distribution(tensor).distribution.probs[0].detach().numpy()
    np.testing.assert_allclose(drawn, expected, atol=4 * np.sqrt(0.25 / len(rows)))
    model = make_model(DQN)
    model.exploration_rate = 0.5
    agent = SB3Agent(model)
    (greedy,), _ = agent.predict(observations[:1], deterministic=True)
    drawn = np.bincount(agent.predict(rows)[0], minlength=18) / len(rows)
    expected = np.full(18, 0.5 / 18)
    expected[greedy] += 0.5
    np.testing.assert_allclose(drawn, expected, atol=4 * np.sqrt(0.25 / len(rows)))

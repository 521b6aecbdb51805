"""stable-baselines3 on many games: its own vector environment is the oracle."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor

from mgdt_envs import AtariProtocol, MultiGameAtariEnv
from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv

SHORT = AtariProtocol(max_frames=40)
"""Ten agent steps an episode."""
EIGHT = ("Boxing", "Breakout", "Freeway", "Pong", "Asterix", "Seaquest", "Qbert", "AirRaid")


class Recorder(VecEnvWrapper):
    """Keeps what the wrapped environment returns."""

    def __init__(self, venv):
        super().__init__(venv)
        self.steps = []

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        self.steps.append(self.venv.step_wait())
        return self.steps[-1]


def without_seconds(info):
    """Return a copy of `info` whose arrays compare, without what depends on the clock."""
    info = info | {"terminal_observation": info.get("terminal_observation", np.zeros(1)).tolist()}
    if "episode" in info:
        info["episode"] = {key: info["episode"][key] for key in info["episode"] if key != "t"}
    return info


@pytest.mark.parametrize(
    "protocol",
    [SHORT, AtariProtocol(life_loss_ends=True, max_frames=300)],
    ids=["short", "life loss"],
)
def test_it_is_the_dummy_vec_env_of_single_environments(protocol):
    games = ["Breakout", "AirRaid", "Pong"]
    ours = MultiGameAtariVecEnv(games=games, protocol=protocol)
    dummy = DummyVecEnv([lambda name=name: MultiGameAtariEnv(name, protocol) for name in games])
    assert ours.observation_space == dummy.observation_space
    assert ours.action_space == dummy.action_space
    assert ours.seed(5) == dummy.seed(5)
    assert np.array_equal(ours.reset(), dummy.reset())
    assert ours.reset_infos == dummy.reset_infos
    random = np.random.default_rng(0)
    ends = 0
    for step in range(100):
        actions = random.integers(18, size=3)
        *our_arrays, our_infos = ours.step(actions)
        assert ours.last_actions is actions
        *their_arrays, their_infos = dummy.step(actions)
        for mine, expected in zip(our_arrays, their_arrays, strict=True):
            assert mine.dtype == expected.dtype
            assert np.array_equal(mine, expected), step
        assert list(map(without_seconds, our_infos)) == list(map(without_seconds, their_infos))
        assert ours.reset_infos == dummy.reset_infos
        ends += our_arrays[2].sum()
    assert ends >= 3
    assert ours.get_attr("games_of_envs", [0]) == [("Breakout", "AirRaid", "Pong")]


def test_unseeded_environments_differ():
    env = MultiGameAtariVecEnv(4, "Pong")
    env.seed()
    env.reset()
    frames = np.stack([env.step(np.full(4, 2 + step % 2))[0] for step in range(40)])
    assert (frames != frames[:, :1]).any()  # two of them can play alike


def test_seeds_of_32_bits(monkeypatch):
    # What stable-baselines3 draws where it is given none.
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: np.uint32(2**32 - 2))
    env = make_vec_env("MultiGameAtari/Pong-v0", 2)
    first = env.reset()
    assert first.shape == (2, 4, 84, 84)
    ours = MultiGameAtariVecEnv(2, "Pong")
    assert ours.seed(2**32 - 2) == [2**32 - 2, 2**32 - 1]
    assert np.array_equal(ours.reset(), first)
    for step in range(40):
        actions = np.full(2, 2 + step % 2)
        assert np.array_equal(ours.step(actions)[0], env.step(actions)[0])


def test_options_are_refused_once():
    env = MultiGameAtariVecEnv(1, "Pong")
    env.set_options({"game": "Pong"})
    with pytest.raises(ValueError, match=r"no options, got \[{'game': 'Pong'}"):
        env.reset()
    env.reset()


def test_the_learner_sees_signs_and_lost_lives_and_scores_stay_true():
    env = MultiGameAtariVecEnv(3, ["Breakout", "Riverraid"], AtariProtocol(max_frames=1200))
    recorder = Recorder(env)
    learner = LearnerRewards(recorder)
    env.seed(0)
    learner.reset()
    lives = np.array([info["lives"] for info in env.reset_infos])
    random = np.random.default_rng(0)
    lost, returns, scores = 0, np.zeros(3), []
    for _ in range(400):
        observations, rewards, dones, infos = learner.step(random.integers(18, size=3))
        true_observations, true_rewards, true_dones, true_infos = recorder.steps[-1]
        assert np.array_equal(observations, true_observations)
        assert np.array_equal(rewards, np.sign(true_rewards))
        returns += true_rewards
        for row, (info, true_info) in enumerate(zip(infos, true_infos, strict=True)):
            if dones[row] and not true_dones[row]:
                lost += 1
                assert info["lives"] == lives[row] - 1 > 0
                assert np.array_equal(info["terminal_observation"], observations[row])
                assert not info["TimeLimit.truncated"]
                assert "episode" not in info
                assert "terminal_observation" not in true_info
            else:
                assert dones[row] == true_dones[row]
                assert info is true_info
                assert dones[row] or info["lives"] >= lives[row]
            lives[row] = env.reset_infos[row]["lives"] if true_dones[row] else info["lives"]
            if true_dones[row]:
                scores.append(info["episode"]["r"])
                assert scores[-1] == returns[row]
                returns[row] = 0
    assert lost >= 8
    assert max(scores) >= 30  # more than any sum of signs


def test_the_learner_may_keep_rewards_and_lives():
    recorder = Recorder(MultiGameAtariVecEnv(1, "Breakout"))
    learner = LearnerRewards(recorder, clip=False, life_loss_ends=False)
    learner.seed(0)
    learner.reset()
    lives = []
    for _ in range(60):
        _, rewards, dones, infos = learner.step(np.array([1]))
        assert rewards is recorder.steps[-1][1]
        assert dones is recorder.steps[-1][2]
        lives.append(infos[0]["lives"])
    assert len(set(lives)) > 1


def make_model(algorithm, env):
    """Return a small model that learns from `env`."""
    if algorithm == "ppo":
        return PPO("CnnPolicy", env, n_steps=16, batch_size=64, n_epochs=1, seed=0, device="cpu")
    return DQN(
        "CnnPolicy",
        env,
        buffer_size=500,
        learning_starts=64,
        train_freq=(16, "step"),
        seed=0,
        device="cpu",
    )


def train_on(games, algorithm, steps):
    """Train under `VecMonitor` and `LearnerRewards`; return the true and the monitored scores."""
    recorder = Recorder(MultiGameAtariVecEnv(games=games, protocol=AtariProtocol(max_frames=200)))
    monitored = Recorder(VecMonitor(recorder, info_keywords=("game",)))
    model = make_model(algorithm, LearnerRewards(monitored))
    before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
    model.learn(steps)
    assert any((before[name] != w).any() for name, w in model.policy.state_dict().items())
    assert model.num_timesteps >= steps
    scores = []
    for kept in (recorder, monitored):
        episodes = [info["episode"] for step in kept.steps for info in step[3] if "episode" in info]
        scores.append([(episode["r"], episode["l"]) for episode in episodes])
    assert {episode["game"] for episode in episodes} == set(games)
    assert len(model.ep_info_buffer) == min(len(episodes), 100)
    return scores


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_training_and_vec_monitor(algorithm):
    true, monitored = train_on(EIGHT[:4], algorithm, 440)
    assert true == monitored
    assert len(true) >= 8
    assert any(score for score, _ in true)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_5000_steps(algorithm):
    true, monitored = train_on(EIGHT, algorithm, 5000)
    assert true == monitored
    assert len(true) >= 90


def test_learning_from_it_alone_reports_scores():
    model = make_model("ppo", MultiGameAtariVecEnv(4, ["Boxing", "Breakout"], SHORT))
    model.learn(64)
    assert [episode["l"] for episode in model.ep_info_buffer] == [10] * 4
    assert all(episode.keys() == {"r", "l", "t", "hns"} for episode in model.ep_info_buffer)


def test_refusals():
    with pytest.raises(ValueError, match="at least 2, one environment a game, got 1"):
        MultiGameAtariVecEnv(1, ["Pong", "Breakout"])
    env = MultiGameAtariVecEnv(1, "Pong")
    with pytest.raises(NotImplementedError, match="set 'protocol' of emulators"):
        env.set_attr("protocol", None)
    with pytest.raises(NotImplementedError, match="call 'clone' of emulators"):
        env.env_method("clone")
    assert not env.has_attr("ale")


def test_pictures(tmp_path):
    env = MultiGameAtariVecEnv(2, games="Pong", render_mode="rgb_array")
    env.reset()
    images = env.get_images()
    assert [image.shape for image in images] == [(210, 160, 3)] * 2
    assert env.render(mode="rgb_array").shape == (420, 160, 3)
    env.close()
    mixed = MultiGameAtariVecEnv(games=["Pong", "Pooyan"], render_mode="rgb_array")
    mixed.reset()
    pong, pooyan = mixed.envs.render()
    assert (len(pong), len(pooyan)) == (210, 220)
    padded, same = mixed.get_images()
    assert np.array_equal(padded[:210], pong)
    assert not padded[210:].any()
    assert np.array_equal(same, pooyan)
    assert mixed.render().shape == (440, 160, 3)
    assert MultiGameAtariVecEnv(2, games="Pong").get_images() == [None, None]

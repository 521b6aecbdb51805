"""The play of stable-baselines3's learners as a trace."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor

from mgdt_agents.errors import TraceDivergedError
from mgdt_agents.replay import Trace
from mgdt_agents.replay.sb3_recorder import RecordingCallback
from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv

# A time limit after 15 steps: all environments have equally many episodes.
PROTOCOL = {"max_frames": 60}


class Witness(VecEnvWrapper):
    """Remembers each step of each environment: frame before it, action, reward, end."""

    def reset(self):
        self.seen = [[] for _ in range(self.num_envs)]
        self.observations = self.venv.reset()
        return self.observations

    def step_async(self, actions):
        self.played = actions
        self.venv.step_async(actions)

    def step_wait(self):
        before = self.observations
        self.observations, rewards, dones, infos = self.venv.step_wait()
        for env, steps in enumerate(self.seen):
            frame = before[env, -1].copy()
            steps.append((frame, int(self.played[env]), float(rewards[env]), bool(dones[env])))
        return self.observations, rewards, dones, infos


def make_env(games="Breakout", protocol=PROTOCOL):
    witness = Witness(MultiGameAtariVecEnv(2, games, protocol, num_threads=1))
    return witness, VecMonitor(LearnerRewards(witness))


def make_model(learner, env):
    arguments = {"buffer_size": 300, "learning_starts": 60, "batch_size": 8}
    if learner is PPO:
        arguments = {"n_steps": 20, "batch_size": 20, "n_epochs": 1}
    small = {"features_extractor_kwargs": {"features_dim": 8}}
    return learner("CnnPolicy", env, **arguments, policy_kwargs=small, device="cpu", seed=1)


@pytest.mark.parametrize("learner", [DQN, PPO])
def test_trace_holds_every_step_that_the_learner_played(learner, tmp_path):
    witness, env = make_env()
    callback = RecordingCallback(tmp_path / "a.npz", {"learner": "test"}, seed=5)
    make_model(learner, env).learn(80, callback=callback)
    trace = Trace.load(tmp_path / "a.npz")
    assert trace.seeds.tolist() == [5, 6]
    assert trace.source["learner"] == "test"
    played = [[] for _ in trace.seeds]
    for step in trace.play(num_threads=1):
        ends = step.terminated | step.truncated
        for number in np.flatnonzero(step.is_transition):
            played[number].append(
                (step.frames[number], step.actions[number], step.rewards[number], ends[number])
            )
    for seen, again in zip(witness.seen, played, strict=True):
        # All 40 steps, for all have as many episodes.
        assert len(seen) == len(again) == 40
        assert sum(end for *_, end in seen) == 2
        for first, second in zip(seen, again, strict=True):
            assert np.array_equal(first[0], second[0])
            assert first[1:] == second[1:]
    env.close()


def test_environments_with_fewer_episodes_cut_the_others(tmp_path):
    witness, env = make_env("Breakout", None)
    callback = RecordingCallback(tmp_path / "a.npz", seed=3)
    callback.init_callback(make_model(PPO, env))
    callback.on_training_start({}, {})
    random = np.random.default_rng(0)
    steps = episodes = 0
    while not episodes:
        _, _, _, infos = env.step(random.choice([0, 1, 3, 4], size=2))
        callback.update_locals({"infos": infos})
        callback.on_step()
        steps += 1
        episodes = sum(end for seen in witness.seen for *_, end in seen)
    callback.on_training_end()
    assert episodes < 2
    trace = Trace.load(tmp_path / "a.npz")
    assert len(trace.actions) == steps
    assert len(trace.episode_return) == episodes
    assert sum(1 for _ in trace.play(num_threads=1)) == steps
    env.close()


def test_trace_can_be_saved_while_learning(tmp_path):
    path, lengths = tmp_path / "a.npz", []

    class Saving(RecordingCallback):
        def _on_step(self):
            super()._on_step()
            if self.n_calls in (5, 8):
                self.save()
                lengths.append(len(Trace.load(path).actions))
            return True

    _, env = make_env()
    callback, model = Saving(path), make_model(DQN, env)
    model.learn(24, callback=callback)
    assert [*lengths, len(Trace.load(path).actions)] == [5, 8, 12]
    # What another training wrote is not replaced.
    with pytest.raises(FileExistsError, match=r"a.npz exists"):
        model.learn(24, callback=callback)
    env.close()


def test_play_of_others_is_noticed(tmp_path):
    _, env = make_env()

    class Meddler(RecordingCallback):
        def _on_step(self):
            if self.n_calls == 5:
                self.training_env.step(np.zeros(2, np.int64))
            return super()._on_step() and self.n_calls < 10

    callback = Meddler(tmp_path / "a.npz")
    with pytest.raises(TraceDivergedError, match=r"differently at step 5: were the environments"):
        make_model(DQN, env).learn(60, callback=callback)
    assert not (tmp_path / "a.npz").exists()
    env.close()


def test_what_cannot_be_recorded(tmp_path):
    _, env = make_env()
    model = make_model(DQN, env)
    (tmp_path / "mine.npz").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine.npz exists"):
        model.learn(3, callback=RecordingCallback(tmp_path / "mine.npz"))
    env.close()
    _, env = make_env(["Pong", "Breakout"])
    with pytest.raises(ValueError, match="A trace holds one game"):
        make_model(DQN, env).learn(3, callback=RecordingCallback(tmp_path / "a.npz"))
    env.close()
    with pytest.raises(ValueError, match=r"records play on MultiGameAtariVecEnv, got DummyVecEnv"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=4, batch_size=4, device="cpu").learn(
            4, callback=RecordingCallback(tmp_path / "a.npz")
        )
    _, env = make_env()
    with pytest.raises(ValueError, match=r"Cannot write .*a\.npz: .*exists"):
        make_model(DQN, env).learn(3, callback=RecordingCallback(tmp_path / "mine.npz" / "a.npz"))
    env.close()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


def test_folder_of_the_trace_is_made(tmp_path):
    _, env = make_env()
    path = tmp_path / "new" / "a.npz"
    make_model(DQN, env).learn(3, callback=RecordingCallback(path))
    env.close()
    assert Trace.load(path).actions.size

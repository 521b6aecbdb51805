"""Buffers of stable-baselines3's learners, filled from stores."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.logger import Logger

from mgdt_agents.replay import ReplayStore, expand
from mgdt_agents.replay.formats.sb3_buffer import fill_replay_buffer
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_envs import MultiGameAtariVectorEnv
from mgdt_envs.sb3 import MultiGameAtariVecEnv

STACKS = Box(0, 255, (4, 84, 84), np.uint8)
# A time limit after 15 steps.
PROTOCOL = {"max_frames": 60}
MINIMAL = {0: 0, 1: 1, 3: 2, 4: 3}  # of Breakout


def make_buffer(size, n_envs=1, *, stacks=STACKS, actions=18, kind=ReplayBuffer, **options):
    return kind(size, stacks, Discrete(actions), device="cpu", n_envs=n_envs, **options)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Return a store, and the transitions in its order as the environments gave them."""
    envs = TraceRecorder(MultiGameAtariVectorEnv(2, "Breakout", PROTOCOL), {})
    random = np.random.default_rng(0)
    observations, _ = envs.reset(seed=3)
    ended, running = [], [[], []]
    begins = np.zeros(2, bool)
    for _ in range(70):
        actions = random.choice(list(MINIMAL), size=2)
        before = observations.copy()
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        for env in np.flatnonzero(~begins):
            done = (bool(terminated[env]), bool(truncated[env]))
            step = (before[env], observations[env].copy(), actions[env], rewards[env], *done)
            running[env].append(step)
            if any(done):
                ended += running[env]
                running[env] = []
        begins = terminated | truncated
    path = tmp_path_factory.mktemp("replay") / "Breakout"
    expand(envs.trace(), path, num_threads=1)
    envs.close()
    return ReplayStore(path), ended


def test_buffer_holds_what_was_played(played):
    store, transitions = played
    assert len(transitions) == len(store) == 120
    assert store.truncated.sum() == 8
    buffer = make_buffer(200)
    assert fill_replay_buffer(buffer, store, clip_rewards=False) == 120
    assert buffer.size() == 120
    before, after, actions, rewards, terminated, truncated = map(
        np.array, zip(*transitions, strict=True)
    )
    np.testing.assert_array_equal(buffer.observations[:120, 0], before)
    np.testing.assert_array_equal(buffer.actions[:120, 0, 0], actions)
    np.testing.assert_array_equal(buffer.rewards[:120, 0], rewards)
    np.testing.assert_array_equal(buffer.dones[:120, 0], terminated | truncated)
    np.testing.assert_array_equal(buffer.timeouts[:120, 0], truncated)
    inside = ~(terminated | truncated)
    np.testing.assert_array_equal(buffer.next_observations[:120, 0][inside], after[inside])
    repeated = np.concatenate([before[:, 1:], before[:, -1:]], axis=1)
    np.testing.assert_array_equal(buffer.next_observations[:120, 0][~inside], repeated[~inside])


def test_samples_are_transitions(played):
    store, transitions = played
    buffer = make_buffer(80, n_envs=2, actions=4)
    fill_replay_buffer(buffer, store)
    known = {
        (before.tobytes(), MINIMAL[action], np.sign(reward), after.tobytes() * (not truncated))
        for before, after, action, reward, _, truncated in transitions
    }
    batch = buffer.sample(64)
    is_last = {before.tobytes() for before, *_, truncated in transitions if truncated}
    assert not batch.dones.any()  # time-outs are none to the learner
    for before, action, after, _, reward, *_ in zip(*batch[:5], strict=True):
        image = before.numpy().tobytes()
        shown = after.numpy().tobytes() * (image not in is_last)
        assert (image, int(action), float(reward), shown) in known


def test_rewards(make_random_episodes, write_store, tmp_path):
    store = ReplayStore(write_store(tmp_path / "Pong", "Pong", make_random_episodes([30])))
    for clip_rewards, expected in [(True, np.sign(store.rewards)), (False, store.rewards)]:
        buffer = make_buffer(30)
        fill_replay_buffer(buffer, store, clip_rewards=clip_rewards)
        np.testing.assert_array_equal(buffer.rewards[:, 0], expected)


@pytest.mark.parametrize(
    ("size", "n_envs", "stops", "rows"),
    [
        (100, 1, [40], 40),
        (9, 1, [40], 9),
        (100, 2, [21, 40], 19),
        (100, 3, [21, 28, 40], 7),
        (20, 2, [28, 40], 10),
        (12, 4, [21, 28, 36, 40], 3),
    ],
)
def test_newest_that_fit(make_random_episodes, write_store, tmp_path, size, n_envs, stops, rows):
    episodes = make_random_episodes([5, 16, 7, 8, 4])
    store = ReplayStore(write_store(tmp_path / "Pong", "Pong", episodes))
    buffer = make_buffer(size, n_envs)
    assert fill_replay_buffer(buffer, store) == rows * n_envs
    assert buffer.pos % buffer.buffer_size == rows % buffer.buffer_size
    shown = buffer.observations[:rows, :, -1, 0, :4].copy().view("<u4")[..., 0]
    for env, stop in enumerate(stops):
        assert shown[:, env].tolist() == list(range(stop - rows, stop))
    assert buffer.dones[rows - 1].all()
    # The first has its history, as far as its episode goes back.
    row = stops[0] - rows
    start = max(start for start in (0, 5, 21, 28, 36) if start <= row)
    history = [np.zeros((84, 84))] * 3 + list(store.frames[start : row + 1])
    np.testing.assert_array_equal(buffer.observations[0, 0], history[-4:])


def test_other_stacks_and_buffers(played):
    store, transitions = played
    buffer = make_buffer(200, stacks=Box(0, 255, (1, 84, 84), np.uint8))
    fill_replay_buffer(buffer, store)
    np.testing.assert_array_equal(buffer.observations[:120, 0, 0], store.frames[:])
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer = make_buffer(200, **options)
    fill_replay_buffer(buffer, store)
    expected = [before for before, *_ in transitions]
    np.testing.assert_array_equal(buffer.observations[:120, 0], expected)
    buffer = make_buffer(200, kind=NStepReplayBuffer, n_steps=3, gamma=0.9)
    fill_replay_buffer(buffer, store)
    assert buffer.sample(16).observations.shape == (16, 4, 84, 84)


def test_learner_trains_on_it(played):
    store, _ = played
    env = MultiGameAtariVecEnv(2, "Breakout", num_threads=1)
    small = {"features_extractor_kwargs": {"features_dim": 8}}
    model = DQN("CnnPolicy", env, buffer_size=100, policy_kwargs=small, device="cpu", seed=1)
    fill_replay_buffer(model.replay_buffer, store)
    model.set_logger(Logger(None, []))
    weights = [value.clone() for value in model.q_net.parameters()]
    model.train(gradient_steps=3, batch_size=8)
    changed = zip(weights, model.q_net.parameters(), strict=True)
    assert all((before != after).any() for before, after in changed)
    env.close()


def test_actions(make_random_episodes, write_store, tmp_path):
    episodes = make_random_episodes([40])
    noop = ReplayStore(write_store(tmp_path / "noop", "Breakout", episodes))
    buffer = make_buffer(40, actions=4)
    fill_replay_buffer(buffer, noop)
    expected = [MINIMAL.get(action, 0) for action in noop.actions.tolist()]
    assert buffer.actions[:, 0, 0].tolist() == expected
    path = write_store(tmp_path / "native", "Breakout", episodes, outside_action="native")
    with pytest.raises(ValueError, match=r"outside of the minimal set of Breakout, .* not NOOP"):
        fill_replay_buffer(buffer, ReplayStore(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_buffer(9, stacks=Box(0, 255, (84, 84, 4), np.uint8)),
            r"uint8 observations of shape \(stack, 84, 84\), .* got Box\(0, 255, \(84, 84, 4\)",
        ),
        (lambda: make_buffer(9, stacks=Box(0, 1, (4, 84, 84))), "got Box.*float32"),
        (
            lambda: make_buffer(9, stacks=Dict({"a": STACKS}), kind=DictReplayBuffer),
            "got Dict",
        ),
        (lambda: make_buffer(9, actions=5), r"Discrete\(18\), or Discrete\(4\) .* Discrete\(5\)"),
        (lambda: make_buffer(90, n_envs=9), "each of the buffer's 9 environments, found 8"),
    ],
)
def test_refused(played, make, message):
    buffer = make()
    with pytest.raises(ValueError, match=message):
        fill_replay_buffer(buffer, played[0])
    assert buffer.size() == 0

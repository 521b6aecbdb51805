"""An agent's play as a trace: what it holds, and what the agent is told meanwhile."""

import numpy as np
import pytest

from mgdt_agents.evaluation.agent_trace import record_agent
from mgdt_agents.random_agent import RandomAgent
from mgdt_agents.replay import ReplayStore, Trace, expand
from mgdt_agents.replay.files import file_checksum
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv
from mgdt_envs.seeds import emulator_seed

SHORT = AtariProtocol(max_frames=160)


class Attentive(RandomAgent):
    """Keeps what it was told."""

    def __init__(self):
        super().__init__(protocol=SHORT)
        self.told = []

    def predict(self, observation, state=None, episode_start=None, *args, reward, **options):
        actions, state = super().predict(observation, state, episode_start, *args, **options)
        self.told.append((observation.copy(), episode_start, reward, actions))
        return actions, state


def test_store_has_the_returns_that_the_environments_reported(tmp_path):
    protocol = AtariProtocol(max_frames=400)
    agent = RandomAgent(protocol=protocol)
    trace = record_agent(agent, "random", "Breakout", 930, num_envs=3, seed=4, num_threads=1)
    assert trace.actions.shape == (310, 3)
    assert (trace.source["agent"], trace.source["seed"]) == ("random", 4)
    assert "ale-py" in trace.source["versions"]
    envs = MultiGameAtariVectorEnv(3, "Breakout", protocol, num_threads=1)
    envs.reset(seed=4)
    reported = []
    for actions in trace.actions:
        *_, infos = envs.step(actions)
        if "episode" in infos:
            reported += infos["episode"]["r"][infos["_episode"]].tolist()
    expand(trace, tmp_path / "store", num_threads=1)
    store = ReplayStore(tmp_path / "store")
    assert store.episode_returns.tolist() == reported
    assert len(reported) >= 9
    assert len(set(reported)) > 1
    assert store.meta["source"]["deterministic"] is False


def test_what_the_agent_is_told(tmp_path):
    agent = Attentive()
    trace = record_agent(agent, "attentive", "Breakout", 200, num_envs=2, num_threads=1)
    expand(trace, tmp_path / "store", num_threads=1)
    store = ReplayStore(tmp_path / "store")
    # Of each environment, the rows of the store in the order in which they were played.
    rows: dict[int, list[int]] = {0: [], 1: []}
    for env, start, length in zip(
        trace.episode_env, store.episode_starts, store.episode_lengths, strict=True
    ):
        rows[int(env)] += range(start, start + length)
    for env, its_rows in rows.items():
        brought = 0.0
        told = iter(agent.told)
        for row in its_rows:
            observation, starts, reward, actions = next(told)
            if row in store.episode_starts and row != its_rows[0]:
                # What it was told before was the last of the old episode, and its answer ignored.
                observation, starts, reward, actions = next(told)
                brought = 0.0
            assert starts[env] == (row in store.episode_starts)
            assert reward[env] == brought
            assert actions[env] == store.actions[row]
            assert np.array_equal(observation[env, -1], store.frames[row])
            brought = store.rewards[row]


def test_seed_decides():
    first, again, other = (
        record_agent(RandomAgent(), "random", "Pong", 40, num_envs=2, seed=seed).actions
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seeds_of_any_size_are_kept(tmp_path):
    seed = 2**31 - 1  # the next environment's is larger than an emulator takes
    trace = record_agent(RandomAgent(), "random", "Pong", 40, num_envs=2, seed=seed)
    trace.save(tmp_path / "Pong.npz")
    loaded = Trace.load(tmp_path / "Pong.npz")
    assert sum(1 for _ in loaded.play(num_threads=1)) == 20
    assert loaded.seeds.tolist() == [seed, emulator_seed(seed + 1)]
    assert loaded.source["seed"] == seed


def test_checksums_are_of_the_agent_that_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dt", "random"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    for name in ("dt", "dt:kappa=5", "random"):  # which come with the package
        source = record_agent(RandomAgent(), name, "Pong", 2, num_envs=1).source
        assert "agent_checksums" not in source, name
    source = record_agent(RandomAgent(), "./dt", "Pong", 2, num_envs=1).source
    assert source["agent_checksums"] == {"config.json": file_checksum(tmp_path / "dt/config.json")}


def test_stopped_play_is_a_trace():
    calls = []
    trace = record_agent(
        RandomAgent(),
        "random",
        "Pong",
        1000,
        num_envs=2,
        on_step=calls.append,
        should_stop=lambda: len(calls) == 5,
    )
    assert trace.actions.shape == (5, 2)
    assert sum(1 for _ in trace.play(num_threads=1)) == 5


def test_protocol_that_no_trace_holds():
    agent = RandomAgent(protocol=AtariProtocol.mgdt_release())
    with pytest.raises(ValueError, match="play without JPEG"):
        record_agent(agent, "random", "Pong", 10)

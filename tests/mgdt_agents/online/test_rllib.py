"""RLlib: its module and connectors, runs that lose a process or stop, bad input."""

import copy
import dataclasses
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch

try:
    from mgdt_agents.online import rllib
    from mgdt_agents.online.rllib_config import ALGORITHMS, RETURNS, RLlibConfig, algorithm_config
    from mgdt_agents.online.rllib_module import ALLOWED, PolicyModule, ToPixels
except ImportError:
    pytest.skip("RLlib has an environment of its own: make test-rllib", allow_module_level=True)

import ray
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner import Learner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from mgdt_agents import load_agent
from mgdt_agents.action_sets import allowed_actions
from mgdt_agents.actor_critic import ImpalaAgent
from mgdt_agents.errors import TrainingError
from mgdt_agents.online import online_run
from mgdt_cli import bench, train
from mgdt_cli.cluster import connect
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import InvalidArgument, OutputExists

GAMES = ("Pong", "Breakout")
SMALL = RLlibConfig(envs_per_runner=2, unroll_length=10, batch_size=4)


def make_agent(**protocol):
    return ImpalaAgent("small", games=GAMES, protocol=AtariProtocol(**protocol), device="cpu")


def make_runner(agent, number=1, **changes):
    """Return an env runner in this process, as the one of a `number` would be."""
    config = algorithm_config(dataclasses.replace(SMALL, **changes), agent, steps=1000)
    return SingleAgentEnvRunner(config=config, worker_index=number)


@pytest.fixture(scope="module")
def episodes():
    """What an env runner played of Pong and Breakout, each cut after 25 steps by the protocol.

    With it come the runner's figures and spaces.
    """
    runner = make_runner(make_agent(max_frames=100))
    played = runner.sample(num_timesteps=240)
    figures, spaces = runner.get_metrics(), runner.get_spaces()
    runner.stop()
    return played, figures, spaces


def test_runner_plays_each_game_with_its_actions(episodes):
    played, figures, _ = episodes
    games = [episode.get_infos(0)["game"] for episode in played]
    assert set(games) == set(GAMES)
    for name, episode in zip(games, played, strict=True):
        assert episode.get_observations(0).shape == (42, 42, 4)
        (allowed,) = allowed_actions([name], AtariProtocol())
        assert set(episode.get_actions()) <= set(np.flatnonzero(allowed))
    returns = figures[RETURNS]
    assert {name: len(returns[name].peek()) for name in GAMES} == {"Pong": 4, "Breakout": 4}


def test_episodes_end_and_begin_where_the_environments_do(episodes):
    played, *_ = episodes
    for episode in played:
        assert episode.is_truncated == episode.is_done == (len(episode) == 25)
        assert not episode.is_terminated
        frames = [info["episode_frame_number"] for info in episode.get_infos()]
        assert frames == list(range(frames[0], frames[0] + 4 * len(frames), 4))
        if episode.is_done:
            assert episode.get_infos(-1)["episode"]["r"] == episode.get_rewards().sum()


def test_runners_have_environments_of_their_own():
    seeds = []
    for number in (1, 2):
        runner = make_runner(make_agent(), number, envs_per_runner=3)
        seeds += range(runner._seed, runner._seed + 3)
        runner.stop()
    assert len(set(seeds)) == 6


def make_episode(lives, rewards, game="Breakout"):
    infos = [{"game": game, "lives": number} for number in lives]
    pixels = [np.full((42, 42, 4), number, np.uint8) for number in range(len(infos))]
    return SingleAgentEpisode(
        observations=pixels,
        infos=infos,
        actions=[0] * len(rewards),
        rewards=rewards,
        extra_model_outputs={"action_logp": [-1.0] * len(rewards)},
        terminated=lives[-1] == 0,
        len_lookback_buffer=0,
    ).to_numpy()


@pytest.mark.parametrize("life_loss_ends", [True, False])
def test_learner_sees_clipped_rewards_and_lost_lives(life_loss_ends):
    agent = make_agent()
    config = algorithm_config(
        dataclasses.replace(SMALL, life_loss_ends=life_loss_ends), agent, steps=1000
    )
    pipeline = config.build_learner_connector(None, None)
    episodes = [
        make_episode([5, 5, 4, 4, 3], [1.0, -7.0, 0.0, 4.0]),
        make_episode([1, 1, 0], [0.5, 2.0]),
        make_episode([0, 0], [-1.0], game="Pong"),
    ]
    batch = pipeline(rl_module=None, batch={}, episodes=episodes, shared_data={})
    # RLlib adds a step to each episode, whose value alone counts.
    learned = batch[Columns.LOSS_MASK]
    assert learned.tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 1, 0]
    assert batch[Columns.REWARDS][learned].tolist() == [1, -1, 0, 1, 0.5, 1, -1]
    lost = [0, 1, 0, 1] if life_loss_ends else [0, 0, 0, 0]
    assert batch[Columns.TERMINATEDS][learned].tolist() == [*lost, 0, 1, 1]
    expected = allowed_actions(["Breakout"] * 8 + ["Pong"] * 2, agent.protocol)
    assert (np.asarray(batch[ALLOWED]) == expected).all()
    assert batch[Columns.OBS][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]


def test_module_is_the_agents_network():
    agent = make_agent()
    module = PolicyModule(
        observation_space=agent.observation_space,
        action_space=agent.action_space,
        model_config={"network": dataclasses.asdict(agent.config)},
    )
    module.network.load_state_dict(agent.model.state_dict())
    observations = np.random.default_rng(0).integers(256, size=(6, 4, 84, 84)).astype(np.uint8)
    games = ["Pong", "Breakout", "Pong"] * 2
    to_pixels = ToPixels(agent.observation_space, agent.action_space, network=agent.config)
    pixels = np.stack([to_pixels.preprocess(row, None) for row in observations])
    batch = {
        Columns.OBS: torch.from_numpy(pixels),
        ALLOWED: torch.from_numpy(allowed_actions(games, agent.protocol)),
    }
    logits = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    expected, _ = agent.predict(observations, deterministic=True, game=games)
    assert logits.argmax(-1).tolist() == expected.tolist()
    assert to_pixels.observation_space.shape == pixels.shape[1:]
    module.make_target_networks()
    target = module.forward_target(batch)
    torch.testing.assert_close(next(iter(target.values())), logits)
    assert not any("target" in name for name in module.get_state(inference_only=True))


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_learner_learns(episodes, algorithm):
    agent = make_agent()
    config = algorithm_config(dataclasses.replace(SMALL, algorithm=algorithm), agent, steps=1000)
    played, _, spaces = episodes
    learner = config.build_learner(spaces=spaces)
    before = learner.get_state(components="rl_module")
    Learner.update(
        learner,
        training_data=TrainingData(episodes=copy.deepcopy(played)),
        timesteps={"num_env_steps_sampled_lifetime": 0},
        _no_metrics_reduce=True,
    )
    after = rllib._weights(learner.get_state(components="rl_module"))
    assert set(after) == set(agent.model.state_dict())
    changed = [
        name
        for name, weights in rllib._weights(before).items()
        if not torch.equal(weights, after[name])
    ]
    assert {"policy.weight", "value.output.weight", "body.hidden.weight"} <= set(changed)
    learner.shutdown()


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else whatever else is checked comes first
        connect("local", shows_output=False)
    yield
    ray.shutdown()


def pid_of(runner):
    return os.getpid()


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory):
    """The folder of a run that lost an env runner and went on, and the lines it logged."""
    output, lines, killed = tmp_path_factory.mktemp("rllib") / "run", [], []
    advance = rllib._Run.advance

    def advance_and_kill(run):
        figures = advance(run)
        if run.steps_played and not killed:
            killed.append(run.steps_played)
            group = run.algorithm.env_runner_group
            os.kill(group.foreach_env_runner(pid_of, local_env_runner=False)[0], signal.SIGKILL)
        return figures

    def should_stop():
        after = [line["step"] for line in lines if line["runner_restarts"]]
        return bool(after) and after[-1] > after[0] + 500

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online_run, "LOG_INTERVAL", 100)
        patch.setattr(rllib._Run, "advance", advance_and_kill)
        assert not rllib.train_rllib(
            GAMES, 10_000_000, SMALL, output, on_log=lines.append, should_stop=should_stop
        )
    return output, lines


def test_dead_runner_is_replaced(trained):
    output, lines = trained
    assert [line["runner_restarts"] for line in (lines[0], lines[-1])] == [0, 1]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert any("loss" in line for line in lines)
    logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert logged == lines


def test_checkpoint_is_an_agent_that_is_scored(trained, monkeypatch, tmp_path, capsys):
    output, _ = trained
    agent = load_agent(output, device="cpu")
    assert (agent.kind, agent.games) == ("impala", GAMES)
    assert "RLlib's IMPALA" in (output / "card.md").read_text()
    arguments = ["--agents", output, "--games", "Breakout", "--episodes", 1, "--no-report"]
    arguments += ["--output", tmp_path / "bench"]
    monkeypatch.setattr(sys, "argv", ["mgdt-bench", *map(str, arguments)])
    bench.main()
    assert "Breakout" in capsys.readouterr().out


def test_stopped_run_resumes(trained, monkeypatch, capsys):
    output, lines = trained
    before = load_agent(output, device="cpu").model.state_dict()
    resumed = []
    resume = rllib._Run.resume

    def resume_and_look(run, state):
        resume(run, state)
        learner = run.algorithm.learner_group.get_state(components="learner/rl_module")["learner"]
        played = run.algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.module.get_state(), local_env_runner=False
        )
        resumed.append((rllib._weights(learner), played))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(rllib._Run, "resume", resume_and_look)
    monkeypatch.setattr(train, "connect", lambda address, shows_output: None)
    options = ["--envs-per-runner", 2, "--unroll-length", 10, "--batch-size", 4, "--env-runners", 1]
    arguments = ["--agent", "impala", "--ray", "local", "--games", ",".join(GAMES), *options]
    arguments += ["--steps", "10m", "--output", output]
    monkeypatch.setattr(sys, "argv", ["mgdt-train", *map(str, arguments)])
    train.main()
    (learned, played), *_ = resumed
    for name, weights in before.items():
        assert torch.equal(learned[name], weights)
        for module in played:
            assert (module[f"network.{name}"] == weights.numpy()).all()
    assert f"Stopped; the same command resumes from {output}" in capsys.readouterr().err
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert state["steps_played"] == lines[-1]["step"]


def test_refused(trained, tmp_path):
    output, _ = trained

    def refused(error, message, games=GAMES, folder=tmp_path / "new", **changes):
        with pytest.raises(error, match=message):
            rllib.train_rllib(games, 10_000_000, dataclasses.replace(SMALL, **changes), folder)
        assert not (tmp_path / "new").exists()

    refused(
        InvalidArgument,
        "envs_per_runner must be at least 3, one environment a game, got 2",
        games=[*GAMES, "Qbert"],
    )
    refused(InvalidArgument, "has . CPUs, and 500 are needed for 500 env runners", env_runners=500)
    refused(InvalidArgument, "Unknown size 'tiny'", size="tiny")
    refused(InvalidArgument, r"discount must be in \[0, 1\], got 2", discount=2)
    refused(OutputExists, "size was small, is deep", folder=output, size="deep")
    refused(OutputExists, "games was .*, is .*Qbert", folder=output, games=["Pong", "Qbert"])


def test_checkpoints_that_cannot_be_used(trained, tmp_path):
    output, _ = trained
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.json").write_text((output / "training.json").read_text())
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    saved = torch.load(output / "checkpoint.pt", weights_only=True)
    weights = saved["learner"]["rl_module"]["default_policy"]
    weights["network.policy.weight"] = weights["network.policy.weight"][:, :7]
    torch.save(saved, checkpoint)
    with pytest.raises(TrainingError, match=r"(?s)damaged or of another network.*policy\.weight"):
        rllib.train_rllib(GAMES, 10_000_000, SMALL, tmp_path / "run")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="damaged or of another network"):
        rllib.train_rllib(GAMES, 10_000_000, SMALL, tmp_path / "run")

"""The training loop: it learns, repeats itself, and goes on where it was stopped."""

import dataclasses
import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mgdt_agents import load_agent, make_agent
from mgdt_agents.errors import TrainingError
from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.replay import ReplayStore
from mgdt_agents.training import Augmentation, TrainingConfig, loop, optimizers, train
from mgdt_envs import AtariProtocol

KINDS = pytest.mark.parametrize(
    ("kind", "optimizer"),
    [(kind, "lamb" if kind == "cql" else "adamw") for kind in NETWORK_AGENTS],
)


ROLLOUT = importlib.import_module("mgdt_agents.evaluation.rollout")  # its package has the function
ALWAYS = {"accuracy", "gradient_norm"}
MEASURED = {"windows_per_second", "data_wait", "memory"}


class KilledError(Exception):
    """What stops a training in these tests."""


def run(config, kind="dt", output=None, kill_at=None, weights_seed=0, **network):
    """Train an agent that is made anew, as a new process would; return it."""
    torch.manual_seed(weights_seed)
    agent_class = NETWORK_AGENTS[kind]
    network = dataclasses.replace(agent_class.presets["tiny"], **network)
    agent = agent_class(network, device="cpu")

    def kill(figures):
        if figures["step"] == kill_at:
            raise KilledError

    train(agent, config, output=output, on_log=kill)
    return agent


def weights_of(agent):
    """Return every tensor of the networks that training changes, by name."""
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in agent.training_modules().items()
        for key, tensor in module.state_dict().items()
    }


def assert_same_weights(first, second, networks=""):
    first, second = (
        {name: tensor for name, tensor in weights_of(agent).items() if name.startswith(networks)}
        for agent in (first, second)
    )
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def log_of(output):
    """Return the lines of the log without what is another each time."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in MEASURED} for line in lines]


@pytest.fixture
def config(readable_store):
    return TrainingConfig(
        replay=(readable_store,),
        steps=6,
        batch_size=4,
        optimizer="adamw",
        learning_rate=1e-2,
        warmup_steps=4,
        decay="linear",
        weight_decay=0.01,
        log_interval=1,
        checkpoint_interval=3,
    )


@KINDS
def test_resumed_training_equals_one_run_straight(config, tmp_path, kind, optimizer):
    config = dataclasses.replace(config, optimizer=optimizer)
    straight = run(config, kind, tmp_path / "straight")
    # Killed two steps after the checkpoint, whose lines are already in the log.
    with pytest.raises(KilledError):
        run(config, kind, tmp_path / "resumed", kill_at=5)
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint*")] == ["checkpoint-3"]
    # Other weights at first: all of them come from the checkpoint.
    resumed = run(config, kind, tmp_path / "resumed", weights_seed=1)
    assert_same_weights(straight, resumed)
    assert [line["step"] for line in log_of(tmp_path / "straight")] == [1, 2, 3, 4, 5, 6]
    assert log_of(tmp_path / "straight") == log_of(tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "checkpoint-3").exists()


@pytest.mark.parametrize("tokenizer_steps", [3, 4])
def test_stages_resume_where_they_were(config, tmp_path, tokenizer_steps):
    # The checkpoint is of step 3: where the first stage ends, and within it.
    network = {"tokenizer_steps": tokenizer_steps, "target_period": 2}
    straight = run(config, "tt", tmp_path / "straight", **network)
    with pytest.raises(KilledError):
        run(config, "tt", tmp_path / "resumed", kill_at=5, **network)
    resumed = run(config, "tt", tmp_path / "resumed", weights_seed=1, **network)
    assert_same_weights(straight, resumed)
    lines = log_of(tmp_path / "straight")
    assert lines == log_of(tmp_path / "resumed")
    first = [line["step"] for line in lines if "changed_error" in line]
    assert first == list(range(1, tokenizer_steps + 1))
    assert all(("frame_loss" in line) != ("changed_error" in line) for line in lines)


def test_finished_training_does_nothing_more(config, tmp_path):
    trained = run(config, output=tmp_path)
    log = log_of(tmp_path)
    again = run(config, output=tmp_path, weights_seed=1)
    assert_same_weights(trained, again)
    assert log_of(tmp_path) == log


@KINDS
def test_training_is_a_function_of_its_seed(config, kind, optimizer):
    config = dataclasses.replace(config, steps=3, optimizer=optimizer)
    first, second = run(config, kind), run(config, kind)
    assert_same_weights(first, second)
    other = run(dataclasses.replace(config, seed=1), kind)
    changed = [
        name
        for name, weights in weights_of(other).items()
        if name.startswith("model") and not torch.equal(weights, weights_of(first)[name])
    ]
    assert len(changed) > len(list(first.model.parameters())) / 2


def test_training_does_not_depend_on_the_global_random_stream(config):
    config = dataclasses.replace(config, steps=2)
    trained = []
    for draws in (0, 5):
        torch.manual_seed(0)
        agent = make_agent("dt", "tiny", device="cpu")
        torch.rand(draws)
        train(agent, config)
        trained.append(agent)
    assert_same_weights(*trained)


def test_optimizer_gets_the_scheduled_rate_and_clipped_gradients(config, monkeypatch):
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            matrices, others = self.param_groups
            parameters = [*matrices["params"], *others["params"]]
            assert all(p.ndim > 1 for p in matrices["params"])
            assert all(p.ndim == 1 for p in others["params"])
            norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters]))
            assert matrices["lr"] == others["lr"]
            decays = matrices["weight_decay"], others["weight_decay"]
            seen.append((matrices["lr"], decays, norm.item()))

    monkeypatch.setitem(optimizers.OPTIMIZERS, "adamw", Spy)
    run(dataclasses.replace(config, max_gradient_norm=0.01))
    rates, decays, norms = zip(*seen, strict=True)
    assert rates == pytest.approx([config.learning_rate_at(step) for step in range(6)])
    assert set(decays) == {(0.01, 0.0)}
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    seen.clear()
    run(dataclasses.replace(config, max_gradient_norm=0))
    assert min(norm for _, _, norm in seen) > 0.1


def test_training_that_ends_before_the_last_stage_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"more than 6 steps, .* \(tokenizer_steps"):
        run(config, "tt", tmp_path / "run", tokenizer_steps=6)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["dt", "bc", "cql"])
def test_short_training_reads_the_action_from_the_frame(config, tmp_path, kind):
    config = dataclasses.replace(
        config, steps=60, batch_size=16, learning_rate=5e-3, log_interval=10, decay="none"
    )
    run(config, kind, tmp_path)
    name = "conservative_loss" if kind == "cql" else "action_loss"
    losses = [line[name] for line in log_of(tmp_path)]
    # The four actions are equally frequent: without the frame, log 4 is the least.
    assert losses[-1] < 0.5 * np.log(4) < losses[0]


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("dt", {"action_loss", "reward_loss", "return_loss"}),
        ("bc", {"action_loss", "reward_loss"}),
        ("cql", {"c51_loss", "conservative_loss", "value"}),
    ],
)
def test_log(config, tmp_path, kind, figures):
    config = dataclasses.replace(config, steps=5, log_interval=2)
    logged = []
    torch.manual_seed(0)
    train(make_agent(kind, "tiny", device="cpu"), config, output=tmp_path, on_log=logged.append)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == logged
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert line.keys() == {"step", "loss", "learning_rate", *ALWAYS} | MEASURED | figures
        assert line["learning_rate"] == pytest.approx(config.learning_rate_at(line["step"] - 1))
        assert all(np.isfinite(value) for value in line.values())
    # A line is the mean since the one before it.
    run(dataclasses.replace(config, log_interval=1), kind, tmp_path / "each")
    each = [line["loss"] for line in log_of(tmp_path / "each")]
    assert [line["loss"] for line in lines] == pytest.approx(
        [(each[0] + each[1]) / 2, (each[2] + each[3]) / 2, each[4]]
    )


def test_trained_folder_is_an_agent(config, tmp_path):
    trained = run(config, "dt", tmp_path / "run")
    loaded = load_agent(tmp_path / "run", device="cpu")
    assert loaded.kind == "dt"
    assert loaded.games == trained.games == ("Pong",)
    assert_same_weights(trained, loaded)
    observations = np.random.default_rng(0).integers(256, size=(3, 4, 84, 84)).astype(np.uint8)
    assert np.array_equal(
        trained.predict(observations, deterministic=True)[0],
        loaded.predict(observations, deterministic=True)[0],
    )
    description = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (description["agent"], description["training"]["batch_size"]) == ("dt", 4)


def test_learn_trains_in_place_and_returns_the_agent(readable_store):
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu")
    before = weights_of(agent)
    assert agent.learn([str(readable_store)], steps=1, batch_size=2, warmup_steps=0) is agent
    assert agent.games == ("Pong",)
    assert any(not torch.equal(before[name], now) for name, now in weights_of(agent).items())


def test_bf16_keeps_fp32_weights(config, tmp_path):
    run(config, output=tmp_path / "fp32")
    agent = run(dataclasses.replace(config, precision="bf16"), output=tmp_path / "bf16")
    assert {weights.dtype for weights in agent.model.parameters()} == {torch.float32}
    fp32, bf16 = (log_of(tmp_path / name)[0]["loss"] for name in ("fp32", "bf16"))
    assert fp32 != bf16
    assert bf16 == pytest.approx(fp32, rel=0.02)


def test_replay_of_another_protocol_is_refused(config, make_random_episodes, write_store, tmp_path):
    path = write_store(tmp_path / "store", "Pong", make_random_episodes([5]), noop_max=30)
    config = dataclasses.replace(config, replay=(path,))
    with pytest.raises(ValueError, match=r"store was recorded under another .*no-ops 0-29"):
        run(config, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    torch.manual_seed(0)
    protocol = AtariProtocol(noop_max=30)
    train(make_agent("dt", "tiny", protocol=protocol), dataclasses.replace(config, steps=1))
    mixed = dataclasses.replace(config, steps=1, mix_protocols=True)
    train(make_agent("dt", "tiny", device="cpu"), mixed)


@KINDS
def test_stopped_training_saves_and_resumes_to_the_same_losses(config, tmp_path, kind, optimizer):
    # The line of step 4 is the mean of steps before and after the stop.
    config = dataclasses.replace(config, optimizer=optimizer, log_interval=2, decay="none")
    straight = run(config, kind, tmp_path / "straight")
    torch.manual_seed(0)
    agent = make_agent(kind, "tiny", device="cpu")
    asked = iter([False, False, True])
    done = train(agent, config, output=tmp_path / "run", should_stop=lambda: next(asked))
    assert done == 3
    assert [line["step"] for line in log_of(tmp_path / "run")] == [2]
    assert_same_weights(agent, load_agent(tmp_path / "run", device="cpu"), networks="model")
    resumed = run(config, kind, tmp_path / "run", weights_seed=1)
    assert_same_weights(straight, resumed)
    assert log_of(tmp_path / "straight") == log_of(tmp_path / "run")


def test_finished_training_can_get_more_steps(config, tmp_path):
    config = dataclasses.replace(config, decay="none")
    straight = run(config, output=tmp_path / "straight")
    run(dataclasses.replace(config, steps=3), output=tmp_path / "run")
    longer = run(config, output=tmp_path / "run", weights_seed=1)
    assert_same_weights(straight, longer)
    assert log_of(tmp_path / "straight") == log_of(tmp_path / "run")


@pytest.mark.parametrize("kind", ["dt", "bc", "cql", "tt"])
def test_parts_give_the_losses_of_the_whole_batch(
    config, make_random_episodes, write_store, tmp_path, kind
):
    # Short episodes: the parts have not the same number of valid rows. Two games: nor of actions.
    stores = tuple(
        write_store(tmp_path / game, game, make_random_episodes([1, 2, 3, 4, 5]))
        for game in ("Pong", "Boxing")
    )
    # Slowly, for Adam moves weights whose gradient is mere rounding like any other.
    config = dataclasses.replace(
        config, replay=stores, augmentation=Augmentation(shift=4), learning_rate=1e-4
    )
    network = {} if kind == "cql" else {"dropout": 0.0}
    run(config, kind, tmp_path / "whole", **network)
    run(dataclasses.replace(config, accumulate=4), kind, tmp_path / "parts", **network)
    for whole, parts in zip(*(log_of(tmp_path / n) for n in ("whole", "parts")), strict=True):
        assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_batch_that_cannot_be_divided(config):
    with pytest.raises(ValueError, match="batch_size that 1 processes of 3 parts each can share"):
        run(dataclasses.replace(config, accumulate=3))


def test_average_of_the_weights_is_saved_and_played(config, tmp_path):
    config = dataclasses.replace(config, average_decay=0.5, steps=3)
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu")
    weights = []

    def after_step(step):
        weights.append(agent.model.state_dict()["action_head.weight"].clone())

    agent.after_step = after_step
    train(agent, config, output=tmp_path / "run")
    expected = weights[0]
    for now in weights[1:]:
        expected = 0.5 * expected + 0.5 * now
    for found in (agent, load_agent(tmp_path / "run", device="cpu")):
        average = found.model.state_dict()["action_head.weight"]
        torch.testing.assert_close(average, expected)
    assert not torch.allclose(expected, weights[-1])


def test_average_of_the_weights_resumes(config, tmp_path):
    config = dataclasses.replace(config, average_decay=0.9)
    straight = run(config, output=tmp_path / "straight")
    with pytest.raises(KilledError):
        run(config, output=tmp_path / "run", kill_at=5)
    assert_same_weights(straight, run(config, output=tmp_path / "run", weights_seed=1))


def test_heldout_loss_by_game_and_the_best_agent(
    config, readable_store, make_random_episodes, write_store, tmp_path
):
    noise = write_store(tmp_path / "noise", "Boxing", make_random_episodes([9] * 12))
    config = dataclasses.replace(
        config,
        replay=(readable_store, noise),
        steps=60,
        batch_size=32,
        learning_rate=5e-3,
        decay="none",
        log_interval=60,
        heldout_fraction=0.3,
        heldout_interval=20,
        heldout_windows=100,
    )
    run(config, output=tmp_path / "run")
    lines = [line for line in log_of(tmp_path / "run") if "heldout_loss" in line]
    assert [line["step"] for line in lines] == [20, 40, 60]
    for line in lines:
        mean = (line["heldout_loss/Pong"] + line["heldout_loss/Boxing"]) / 2
        assert line["heldout_loss"] == pytest.approx(mean)
    # What can be learned is learned; noise is not.
    assert lines[-1]["heldout_accuracy/Pong"] > 0.6
    assert lines[-1]["heldout_accuracy/Boxing"] < 0.3
    assert load_agent(tmp_path / "run" / "best", device="cpu").games == ("Pong", "Boxing")


def test_best_agent_is_that_of_the_lowest_heldout_loss(config, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(loop.HeldOut, "measure", lambda self, agent: {"heldout_loss": next(losses)})
    config = dataclasses.replace(config, heldout_fraction=0.5, heldout_interval=2)
    run(config, output=tmp_path / "run")
    # The agent after step 4.
    asked = iter([False, False, False, True])
    losses = iter([3.0, 1.0])
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu")
    train(agent, config, should_stop=lambda: next(asked))
    best = load_agent(tmp_path / "run" / "best", device="cpu")
    assert_same_weights(best, agent, networks="model")


def test_games_are_played(config, tmp_path):
    config = dataclasses.replace(config, steps=2, play_interval=2, play_episodes=1)
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu", protocol=AtariProtocol(max_frames=400))
    config = dataclasses.replace(config, mix_protocols=True)
    train(agent, config, output=tmp_path / "run")
    (scores,) = [line for line in log_of(tmp_path / "run") if "score/Pong" in line]
    assert scores["step"] == 2
    assert -21 <= scores["score/Pong"] <= 21
    assert agent.model.training is False


@pytest.mark.parametrize("checkpoint_interval", [2, 4])
def test_stopped_play_is_played_when_the_run_resumes(
    config, tmp_path, monkeypatch, checkpoint_interval
):
    played = []

    def play_three_steps(agent, games, **options):
        for _ in range(3):
            played.append(games)
            yield SimpleNamespace(games=games, rewards=[1.0])

    monkeypatch.setattr(ROLLOUT, "rollout", play_three_steps)
    config = dataclasses.replace(
        config, steps=4, play_interval=2, checkpoint_interval=checkpoint_interval
    )
    straight = run(config, output=tmp_path / "straight")
    assert [line["step"] for line in log_of(tmp_path / "straight") if "score/Pong" in line] == [
        2,
        4,
    ]
    # In the second step of each evaluation; the first is played again before the other.
    for stop_at, done in ((2, 2), (5, 4)):
        played.clear()
        torch.manual_seed(0)
        agent = make_agent("dt", "tiny", device="cpu")
        stopped = train(
            agent, config, output=tmp_path / "run", should_stop=lambda at=stop_at: len(played) >= at
        )
        assert stopped == done
        assert (tmp_path / "run" / f"checkpoint-{done}").exists()
    assert_same_weights(straight, run(config, output=tmp_path / "run", weights_seed=1))
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")


def test_checkpoint_is_made_before_play(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, steps=2, play_interval=2)
    seen = []

    def look(agent, games, **options):
        seen.append((tmp_path / "checkpoint-2").exists())
        yield from ()

    monkeypatch.setattr(ROLLOUT, "rollout", look)
    run(config, output=tmp_path)
    assert seen == [True]


def test_loss_that_is_no_number_stops_and_names_the_windows(config, readable_store, tmp_path):
    torch.manual_seed(0)
    agent = make_agent("dt", "tiny", device="cpu")
    loss, calls = agent.loss, []

    def break_at_step_5(batch):
        calls.append(batch)
        value, figures = loss(batch)
        return value * (float("nan") if len(calls) == 5 else 1), figures

    agent.loss = break_at_step_5
    with pytest.raises(TrainingError, match="Step 5 has a loss of nan") as caught:
        train(agent, config, output=tmp_path)
    assert f"from 4 windows: {readable_store}, row " in str(caught.value)
    report = json.loads((tmp_path / "not_finite.json").read_text())
    assert (report["step"], len(report["windows"])) == (5, 4)
    actions = [ReplayStore(readable_store).actions[int(w.split()[-1])] for w in report["windows"]]
    assert actions == calls[4].actions[:, -1].tolist()
    # The last checkpoint is from before, and can be resumed.
    assert "The last checkpoint is from before." in str(caught.value)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-3"]
    run(config, output=tmp_path)
    # There may be none.
    calls[:] = [None] * 4
    with pytest.raises(TrainingError, match="Step 1 has a loss of nan") as caught:
        train(agent, config, output=tmp_path / "new")
    assert "checkpoint" not in str(caught.value)


def test_tensorboard_reads_the_log(config, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    with pytest.raises(KilledError):
        run(config, output=tmp_path, kill_at=5)
    run(config, output=tmp_path)
    events = accumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in log_of(tmp_path)]


def test_card_says_what_was_trained_and_is_the_users(config, tmp_path):
    run(config, output=tmp_path)
    card = (tmp_path / "card.md").read_text()
    assert "Trained offline, for 6 gradient steps of 4 windows when it is done" in card
    assert "| Pong | 240 | 4 |" in card
    assert "| learning_rate | 0.01 |" in card
    (tmp_path / "card.md").write_text("# Mine\n")
    run(dataclasses.replace(config, steps=7), output=tmp_path)
    assert (tmp_path / "card.md").read_text() == "# Mine\n"

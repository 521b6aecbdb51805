"""Which windows are learned from, and which are held out."""

import dataclasses

import pytest
import torch

from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.q_learning import CQLAgent
from mgdt_agents.replay import ReplayStore
from mgdt_agents.training import TrainingConfig
from mgdt_agents.training.windows import HeldOut, open_replay


def test_return_weighting_reaches_learned_and_heldout_windows(
    make_random_episodes, write_store, tmp_path
):
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([9] * 12))
    config = TrainingConfig(replay=(path,), steps=1, heldout_fraction=0.4)
    agent = DecisionTransformerAgent(DecisionTransformerAgent.presets["tiny"], device="cpu")

    def ranks(config):
        samplers = [
            open_replay(agent, config),
            HeldOut(agent, config, [ReplayStore(path)]).samplers["Pong"],
        ]
        return [set(sampler.sample(200, 0).episode_ranks.tolist()) for sampler in samplers]

    learned, heldout = ranks(config)
    assert len(learned) > 1
    assert len(heldout) > 1
    best = ranks(dataclasses.replace(config, return_weighting=100.0))
    assert best == [{max(learned)}, {max(heldout)}]


def test_as_many_windows_are_measured_as_asked_for(make_random_episodes, write_store, tmp_path):
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([9] * 12))
    agent = DecisionTransformerAgent(DecisionTransformerAgent.presets["tiny"], device="cpu")
    measured = []

    def loss(batch):
        measured.append(len(batch.games))
        figure = torch.tensor(float(len(measured)))
        return figure, {"accuracy": figure}

    agent.loss = loss
    for windows, sizes in [(100, [64, 36]), (8, [8]), (128, [64, 64])]:
        measured.clear()
        config = TrainingConfig(
            replay=(path,), steps=1, heldout_fraction=0.4, heldout_windows=windows
        )
        found = HeldOut(agent, config, [ReplayStore(path)]).measure(agent)
        assert measured == sizes
        mean = sum(number * size for number, size in enumerate(sizes, 1)) / windows
        assert found["heldout_loss"] == found["heldout_accuracy/Pong"] == pytest.approx(mean)


@pytest.mark.parametrize("names", [("Pong", "Boxing"), ("Boxing", "Pong"), ("Pong",)])
def test_heldout_windows_are_judged_by_the_heads_of_their_games(
    make_random_episodes, write_store, tmp_path, names
):
    """Whatever games an agent knows, and in whatever order, beside those of the replay."""
    config = dataclasses.replace(CQLAgent.presets["tiny"], heads="per-game")
    agent = CQLAgent(config, games=("Boxing", "Pong"), device="cpu")
    paths = [write_store(tmp_path / name, name, make_random_episodes([9] * 12)) for name in names]
    training = TrainingConfig(
        replay=tuple(paths), steps=1, heldout_fraction=0.4, heldout_windows=8, batch_size=4
    )
    sampler = open_replay(agent, training)
    agent.begin_training(sampler)
    heldout = HeldOut(agent, training, sampler.stores)
    before = heldout.measure(agent)
    with torch.no_grad():
        # Boxing's is the first half of the maps.
        agent.model.output.weight[: config.actions * config.atoms].normal_()
    after = heldout.measure(agent)
    changed = [
        name for name in names if before[f"heldout_loss/{name}"] != after[f"heldout_loss/{name}"]
    ]
    assert changed == [name for name in names if name == "Boxing"]


def test_replay_named_twice_is_refused(make_random_episodes, write_store, tmp_path, monkeypatch):
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([9] * 12))
    agent = DecisionTransformerAgent(DecisionTransformerAgent.presets["tiny"], device="cpu")
    monkeypatch.chdir(tmp_path)
    twice = TrainingConfig(replay=(path, "./Pong"), steps=1)
    with pytest.raises(ValueError, match=r"is the same replay as .*Pong; name it once"):
        open_replay(agent, twice)

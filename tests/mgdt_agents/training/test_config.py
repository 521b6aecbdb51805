"""How to train: what cannot be, and the learning rate's course."""

import dataclasses
from pathlib import Path

import pytest

from mgdt_agents.training import TrainingConfig


def test_learning_rate_schedule():
    config = TrainingConfig(steps=20, learning_rate=0.8, warmup_steps=4)
    rates = [config.learning_rate_at(step) for step in range(20)]
    assert rates == pytest.approx([0.2, 0.4, 0.6] + [0.8] * 17)
    falling = dataclasses.replace(config, decay="linear", warmup_steps=0)
    rates = [falling.learning_rate_at(step) for step in range(20)]
    assert rates == pytest.approx([0.8 * (1 - step / 20) for step in range(20)])
    both = dataclasses.replace(config, decay="linear")
    assert both.learning_rate_at(1) == pytest.approx(0.8 * 0.5 * 0.95)


def test_cosine_falls_to_zero():
    config = TrainingConfig(steps=20, learning_rate=0.8, warmup_steps=0, decay="cosine")
    rates = [config.learning_rate_at(step) for step in (0, 5, 10, 20)]
    assert rates == pytest.approx([0.8, 0.4 * (1 + 0.5**0.5), 0.4, 0.0])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("size", "size"),
        (("uniform",), "uniform"),
        (("Pong=2", "Boxing=0.5"), {"Pong": 2, "Boxing": 0.5}),
        ({"Pong": 2, "Boxing": 0.5}, {"Pong": 2, "Boxing": 0.5}),
    ],
)
def test_weights_by_game(weights, expected):
    config = TrainingConfig(steps=1, weights=weights)
    assert config.game_weights == expected
    assert dataclasses.replace(config, steps=2).game_weights == expected


@pytest.mark.parametrize("weights", [("Pong",), ("Pong=many",), ("size", "Pong=2")])
def test_no_weights(weights):
    with pytest.raises(ValueError, match="weights must be uniform, size, or a weight for each"):
        TrainingConfig(steps=1, weights=weights)


@pytest.mark.parametrize("replay", ["a/b", Path("a/b"), ("a/b",), [Path("a/b")]], ids=repr)
def test_replay_is_paths_or_one(replay):
    assert TrainingConfig(steps=1, replay=replay).replay == (Path("a/b"),)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"log_interval": 0},
        {"checkpoint_interval": 0},
        {"optimizer": "sgd"},
        {"decay": "exponential"},
        {"precision": "fp16"},
        {"learning_rate": -1.0},
        {"max_gradient_norm": -1.0},
        {"weight_decay": float("nan")},
        {"accumulate": 0},
        {"keep_checkpoints": 0},
        {"average_decay": 1.0},
        {"heldout_fraction": 1.0},
    ],
    ids=str,
)
def test_impossible_configs_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name} must"):
        TrainingConfig(**{"steps": 1, **fields})

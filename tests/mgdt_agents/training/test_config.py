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
        {"decay": "cosine"},
        {"precision": "fp16"},
        {"learning_rate": -1.0},
        {"max_gradient_norm": -1.0},
    ],
    ids=str,
)
def test_impossible_configs_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name} must"):
        TrainingConfig(**{"steps": 1, **fields})

"""Checks of the fields of configurations."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

import pytest

from mgdt_agents.config_checks import check_choices, check_interval, config_of
from mgdt_agents.registry import NETWORK_AGENTS, ONLINE_AGENTS
from mgdt_envs.errors import InvalidArgument


@dataclass
class Config:
    share: float | None = 0.5
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b", "c"] = "a"


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "message"),
    [
        ("[0, 1]", (0, 0.5, 1), (-0.1, 1.1), "share must be in [0, 1], got "),
        ("(0, 1)", (0.5,), (0, 1), "share must be in (0, 1), got "),
        ("[2, inf)", (2, 1e9), (1, float("nan")), "share must be at least 2, got "),
        ("(0, inf)", (1e-9,), (0, -1, float("nan")), "share must be above 0, got "),
        ("[1, 2147483647]", (2147483647,), (2147483648,), "share must be in [1, 2147483647], got "),
    ],
)
def test_interval(interval, inside, outside, message):
    for value in (*inside, None):
        check_interval(Config(share=value), interval, "share")
    for value in outside:
        with pytest.raises(InvalidArgument, match=f"^{re.escape(f'{message}{value}')}$"):
            check_interval(Config(share=value), interval, "share")


def test_each_number_of_a_field_and_each_field():
    check_interval(Config(), "[0, 2]", "share", "sizes")
    with pytest.raises(InvalidArgument, match=r"sizes must be at least 1, got \(1, 0\)"):
        check_interval(Config(share=2, sizes=(1, 0)), "[1, inf)", "share", "sizes")


def test_choices():
    check_choices(Config(kind="c"))
    with pytest.raises(InvalidArgument, match="kind must be 'a', 'b' or 'c', got 'd'"):
        check_choices(Config(kind="d"))


def test_config_of_an_agent():
    cloning = NETWORK_AGENTS["bc_conv"]
    assert config_of(cloning, "tiny") is cloning.presets["tiny"]
    assert config_of(cloning, cloning.presets["5m"]) is cloning.presets["5m"]
    for wrong in (None, {"blocks": 1}, Config(), NETWORK_AGENTS["cql"].presets["tiny"]):
        message = f"Expected a ImpalaConfig for bc_conv, or the name of a size, got {wrong!r}"
        with pytest.raises(InvalidArgument, match=re.escape(message)):
            config_of(cloning, wrong)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *(
            (kind, field, value)
            for kind in ("bc", "dtq")
            for field, value in {
                "return_definition": "episode_rank",
                "discount": 0.5,
                "min_return": 0,
                "max_return": 50,
                "return_bin": 2,
                "rank_bins": 10,
                "return_weight": 9.0,
            }.items()
        ),
        ("dtq", "loss_weights", "vocabulary"),
    ],
)
def test_training_refuses_a_setting_that_the_agent_does_not_read(kind, field, value, tmp_path):
    agent_class = NETWORK_AGENTS[kind]
    default = getattr(preset := agent_class.preset("tiny"), field)
    agent_class(dataclasses.replace(preset, **{field: value}), device="cpu").save(tmp_path)
    agent = agent_class.load(tmp_path, device="cpu")
    message = f"{field} is not read by {kind}: expected its default, {default!r}, got {value!r}"
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}$"):
        agent.begin_training(None)


def test_impala_refuses_a_setting_that_it_does_not_read():
    config = ONLINE_AGENTS["impala"].preset("small")
    with pytest.raises(InvalidArgument, match=r"normalize_features is not read by impala: .* True"):
        dataclasses.replace(config, normalize_features=True)

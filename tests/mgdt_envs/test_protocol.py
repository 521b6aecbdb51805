"""The protocol: what it holds, what it refuses, and how it is written."""

import dataclasses
import json
import re

import numpy as np
import pytest

from mgdt_envs import PROTOCOLS, AtariProtocol
from mgdt_envs.protocol import as_protocol


def test_default_is_that_of_dqn_replay():
    assert AtariProtocol().to_dict() == {
        "frame_skip": 4,
        "max_pool": True,
        "sticky": 0.25,
        "noop_max": 0,
        "fire_reset": False,
        "life_loss_ends": False,
        "max_frames": 108_000,
        "screen_size": 84,
        "stack": 4,
        "outside_action": "noop",
        "jpeg": False,
    }


def test_named_protocols():
    assert {
        "default": AtariProtocol(),
        "mgdt_release": AtariProtocol(sticky=0.0, jpeg=True),
        "nature": AtariProtocol(sticky=0.0, noop_max=31),
        "machado": AtariProtocol(sticky=0.25, outside_action="native"),
    } == PROTOCOLS
    assert len({protocol.sheet() for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AtariProtocol().sticky = 0.0


def test_json_round_trip():
    protocol = AtariProtocol(sticky=0.1, noop_max=30, outside_action="native", jpeg=True)
    assert AtariProtocol.from_json(protocol.to_json()) == protocol
    assert json.loads(protocol.to_json())["noop_max"] == 30
    assert "\n" not in protocol.to_json()


def test_unknown_field():
    with pytest.raises(ValueError, match=r"\['color'\]; known are .*newer version"):
        AtariProtocol.from_dict({"sticky": 0.0, "color": True})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("frame_skip", 0, "frame_skip must be at least 1, got 0"),
        ("max_frames", 0, "max_frames must be at least 1, got 0"),
        ("screen_size", 0, "screen_size must be at least 1, got 0"),
        ("stack", 0, "stack must be at least 1, got 0"),
        ("sticky", 1.0, r"sticky must be in \[0, 1\), got 1.0"),
        ("sticky", -0.1, r"sticky must be in \[0, 1\), got -0.1"),
        ("noop_max", -1, "noop_max must be at least 0, got -1"),
        ("outside_action", "error", "'noop' or 'native', got 'error'"),
    ],
)
def test_refused_values(field, value, message):
    with pytest.raises(ValueError, match=message):
        AtariProtocol(**{field: value})


def test_sheet_shows_every_switch():
    default = AtariProtocol().sheet()
    others = {
        "frame_skip": 3,
        "max_pool": False,
        "sticky": 0.1,
        "noop_max": 30,
        "fire_reset": True,
        "life_loss_ends": True,
        "max_frames": 100_000,
        "screen_size": 96,
        "stack": 2,
        "outside_action": "native",
        "jpeg": True,
    }
    assert set(others) == {field.name for field in dataclasses.fields(AtariProtocol)}
    for field, value in others.items():
        assert AtariProtocol(**{field: value}).sheet() != default, field


def test_sheet_says_how_many_no_ops_there_are():
    assert " no-ops 0 " in AtariProtocol().sheet()
    assert " no-ops 0 " in AtariProtocol(noop_max=1).sheet()
    assert " no-ops 0-30 " in AtariProtocol.nature().sheet()


def test_as_protocol():
    protocol = AtariProtocol(sticky=0.0)
    assert as_protocol(protocol) is protocol
    assert as_protocol(protocol.to_dict()) == protocol
    assert as_protocol(None) == AtariProtocol()
    assert as_protocol("machado") == AtariProtocol.machado()
    with pytest.raises(ValueError, match=r"Unknown protocol 'mgdt'\. .*mgdt_release"):
        as_protocol("mgdt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jpeg": "no"}, "jpeg must be true or false, got 'no'"),
        ({"life_loss_ends": 1}, "life_loss_ends must be true or false, got 1"),
        ({"frame_skip": 2.5}, "frame_skip must be a whole number, got 2.5"),
        ({"noop_max": True}, "noop_max must be a whole number, got True"),
        ({"sticky": "0.25"}, "sticky must be a number, got '0.25'"),
    ],
    ids=str,
)
def test_fields_of_other_types(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AtariProtocol(**fields)
    assert AtariProtocol(frame_skip=np.int64(4), sticky=0).sticky == 0

"""What the emulators are told: actions, arguments, no-op starts."""

import ale_py
import pytest
from ale_py import roms

from mgdt_envs import GAMES, AtariProtocol, MultiGameAtariVectorEnv, game
from mgdt_envs.emulator import (
    emulator_action_set,
    emulator_arguments,
    minimal_action_index,
)


def test_action_mapping():
    index = minimal_action_index(game("Freeway"), AtariProtocol())
    assert index.tolist() == [0, 0, 1, 0, 0, 2] + [0] * 12
    native = minimal_action_index(game("Freeway"), AtariProtocol(outside_action="native"))
    assert native.tolist() == list(range(18))
    for entry in GAMES:
        index = minimal_action_index(entry, AtariProtocol())
        assert index.shape == (18,)
        for action in range(18):
            played = entry.minimal_actions[index[action]]
            assert played == (action if action in entry.minimal_actions else 0)


@pytest.mark.parametrize("entry", GAMES, ids=lambda entry: entry.name)
def test_actions_are_those_that_ale_py_takes(entry):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(entry.rom))
    assert entry.minimal_actions == tuple(action.value for action in ale.getMinimalActionSet())
    taken = tuple(action.value for action in ale.getLegalActionSet())
    assert emulator_action_set(entry, AtariProtocol.machado()) == taken


def test_emulator_arguments_name_every_switch():
    default = emulator_arguments(AtariProtocol())
    for switches in (
        {"sticky": 0.5},
        {"noop_max": 3},
        {"fire_reset": True},
        {"life_loss_ends": True},
        {"frame_skip": 2},
        {"max_pool": False},
        {"max_frames": 10},
        {"screen_size": 10},
        {"stack": 1},
        {"outside_action": "native"},
    ):
        assert emulator_arguments(AtariProtocol(**switches)) != default, switches
    assert emulator_arguments(AtariProtocol(jpeg=True)) == default


def test_nature_starts_with_0_to_30_no_ops():
    vector = MultiGameAtariVectorEnv(2, "Pong", "nature")
    # Of 0 to 3,000, a seed whose first two draws are the ends of the range.
    _, infos = vector.reset(seed=[362, 543])
    assert infos["episode_frame_number"].tolist() == [0, 30]
    _, infos = vector.reset()
    assert infos["episode_frame_number"].tolist() == [30, 0]

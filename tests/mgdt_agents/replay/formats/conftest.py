"""Files that several tests of DQN Replay read."""

import pytest

from tests.mgdt_agents.replay.formats.dqn_replay_ring import CAPACITY, RingWriter


@pytest.fixture
def ring(tmp_path):
    return RingWriter(tmp_path / "source")


@pytest.fixture
def small_source(ring, tmp_path):
    ring.play_to(CAPACITY + 30)
    ring.log_final()
    return tmp_path / "source"

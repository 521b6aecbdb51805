"""Emulators that the tests share: to make one takes as long as to play some hundred steps."""

import pytest

from mgdt_agents.evaluation import benchmark, verify
from mgdt_agents.evaluation.place import Emulators

# What an episode is does not depend on what its emulator played before: see `test_rollout`.
EMULATORS = Emulators()


@pytest.fixture
def shared_emulators(monkeypatch):
    """Let benchmarks of this process play on the emulators of those before; not where it forks."""
    for module in (benchmark, verify):
        monkeypatch.setattr(module, "Emulators", lambda: EMULATORS)

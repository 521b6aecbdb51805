"""Memory that was freed is used again instead of being fetched from the system anew."""

import platform
import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource, sys
import numpy as np
from mgdt_agents.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1 << 20) for _ in range(8)]
    del arrays
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def page_faults(what: str) -> int:
    """Return how often the third round of arrays, 64 MB, met a page that it did not have yet."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS, what], check=True, capture_output=True, text=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_freed_memory_is_used_again() -> None:
    assert page_faults("keep") < page_faults("leave") / 10

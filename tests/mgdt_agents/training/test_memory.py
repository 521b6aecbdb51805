"""Memory that was freed is used again instead of being fetched from the system anew."""

import platform
import subprocess
import sys

import pytest

from mgdt_agents.training import memory

# The module is run by its path: what its packages import would only take time here.
COUNT_PAGE_FAULTS = """
import resource, runpy, sys
import numpy as np

def page_faults():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(1 << 20) for _ in range(8)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults())
runpy.run_path(sys.argv[1])["keep_freed_memory"]()
print(page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_freed_memory_is_used_again() -> None:
    """A third round of arrays, 64 MB, meets few pages that the process does not have yet."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS, memory.__file__],
        check=True,
        capture_output=True,
        text=True,
    )
    before, after = map(int, run.stdout.split())
    assert after < before / 10

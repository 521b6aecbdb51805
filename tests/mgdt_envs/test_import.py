"""What `import mgdt_envs` does, seen from a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import mgdt_envs

SOURCE = Path(mgdt_envs.__file__).parents[1]


def run(code):
    """Return what `code` prints in a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def test_import_does_not_need_torch():
    code = "import sys, mgdt_envs; print(sorted({'torch', 'stable_baselines3'} & set(sys.modules)))"
    assert run(code) == "[]"


def test_gymnasium_imports_the_package_by_id():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('mgdt_envs:MultiGameAtari-v0', games='bundled')\n"
        "print(env.unwrapped.games)"
    )
    assert run(code) == str(mgdt_envs.resolve_games("bundled"))

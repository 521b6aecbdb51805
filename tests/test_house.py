"""The house rules: which way imports go, how long files are, what they are called."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"mgdt_envs": "mgdt_envs", "mgdt_agents": "mgdt_agents", "cli": "mgdt_cli"}
"""Folders, and the names under which they are imported."""

FLOORS = (
    ("mgdt_envs",),
    (
        "mgdt_agents.errors",
        "mgdt_agents.markdown",
        "mgdt_agents.number_text",
        "mgdt_agents.replay",
    ),
    ("mgdt_agents",),
    (
        "mgdt_agents.evaluation",
        "mgdt_agents.hub",
        "mgdt_agents.online",
        "mgdt_agents.play",
        "mgdt_agents.training",
    ),
    ("mgdt_cli",),
)
"""Modules by their longest prefix, the lowest floor first: imports go down or stay."""

MAX_LINES = 420
NAMES_OF_MANY = {"__init__.py", "agent.py", "config.py"}
"""What each kind of agent may have: the folder says whose it is."""


def find_modules() -> dict[str, Path]:
    """Return the files of the packages by the names of their modules."""
    modules = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


MODULES = find_modules()


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a module, functions included, but for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from walk(child)


def imports_of(module: str) -> set[str]:
    """Return the modules of the packages that a module imports, wherever in its code."""
    imported = set()
    for node in walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imported.add(inner if inner in MODULES else str(node.module))
    return imported & MODULES.keys() - {module}  # itself, as pickling may want


IMPORTS = {module: imports_of(module) for module in MODULES}


def floor(module: str) -> int:
    """Return the number of the floor that a module is on."""
    prefixes = {prefix: number for number, floor in enumerate(FLOORS) for prefix in floor}
    name = module
    while name not in prefixes:
        name = name.rpartition(".")[0]
    # The front door of the agents opens on all rooms of its house.
    return len(FLOORS) - 2 if module == "mgdt_agents" else prefixes[name]


def test_modules_are_found():
    assert {"mgdt_agents", "mgdt_agents.replay.store", "mgdt_cli.bench"} <= MODULES.keys()
    assert "mgdt_agents.replay.store" in IMPORTS["mgdt_agents.replay"]
    # Within a function.
    assert any("mgdt_agents.online" in name for name in IMPORTS["mgdt_cli.train"])


def test_no_import_goes_up():
    upward = {
        (module, imported)
        for module in MODULES
        for imported in IMPORTS[module]
        if floor(imported) > floor(module)
    }
    assert not upward


def test_no_import_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_environments_import_no_torch():
    for module, path in MODULES.items():
        # stable-baselines3, which the adapter is for, needs it.
        if module.startswith("mgdt_envs") and module != "mgdt_envs.sb3":
            assert "import torch" not in path.read_text(), module


def test_no_file_is_long():
    long = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES.values()
        if len(path.read_text().splitlines()) > MAX_LINES
    }
    assert not long


def test_no_name_of_a_file_occurs_twice():
    names = Counter(
        path.name for module, path in MODULES.items() if module.startswith("mgdt_agents")
    )
    twice = {name for name, number in names.items() if number > 1}
    assert twice <= NAMES_OF_MANY

"""The arguments of the commands: their forms, and how they are read."""

import dataclasses
import glob
import inspect
import os
import platform
import re
import sys
import types
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from mgdt_agents.acting_settings import split_settings
from mgdt_envs.errors import InvalidArgument

SEED_MARK = "{seed}"
"""In the path of a training run, what becomes each of --seeds."""


def parse_number(text: str) -> int:
    """Return the whole number that `text` says, such as 1500000, 1_500_000, 1.5m or 200k.

    Raises:
        ValueError: if it says none.
    """
    match = re.fullmatch(r"(-?\d+(?:_\d+)*(?:\.\d+)?)([km]?)", text.strip().lower())
    # Before Python 3.11 a fraction has no underscores.
    number = (
        match
        and Fraction(match[1].replace("_", "")) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]]
    )
    if number is None or number.denominator != 1:
        raise InvalidArgument(f"Expected a whole number such as 8000, 10k or 1.5m, got {text!r}")
    return int(number)


def parse_steps(text: str) -> int:
    """Return the number of steps that `text` says, such as 1500000, 1.5m or 200k.

    Raises:
        ValueError: if it says none, or one below 1.
    """
    try:
        number = parse_number(text)
    except InvalidArgument:
        number = 0
    if number < 1:
        raise InvalidArgument(
            f"Expected a number of steps such as 500000, 500k or 1.5m, got {text!r}"
        )
    return number


def _write_number(number: int) -> str:
    for unit, size in ("m", 1_000_000), ("k", 1_000):
        if number >= 10_000 and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def _number(metavar: str, parse: Callable[[str], int]) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda args: parse(args[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [_write_number(value)],
    )


def _path(metavar: str, kind: type) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        # The shell expands a ~ at the beginning of an argument alone, and not in --output=~/runs.
        instance_from_str=lambda args: kind(os.path.expanduser(args[0])),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _several(metavar: str, kind: type = str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{metavar}[,{metavar}...]",
        instance_from_str=lambda args: tuple(
            kind(os.path.expanduser(name)) for arg in args for name in _split_at_commas(arg)
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))] if value else [],
    )


def _split_at_commas(text: str) -> list[str]:
    """Return the parts of `text`, unless it is the name of a file that has commas."""
    if "," in text:
        pattern = glob.escape(split_settings(text)[0]).replace(SEED_MARK, "*")
        if next(glob.iglob(pattern), None):
            return [text]
    return [name for part in text.split(",") if (name := part.strip())]


def training_runs(names: Sequence[str], seeds: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths of the training runs of each name; `{seed}` in it becomes each seed.

    Raises:
        ValueError: if two names or two runs are the same, or seeds and `{seed}` do not go together.
    """
    paths: dict[str, list[str]] = {}
    for name in names:
        if name in paths:
            raise InvalidArgument(f"{name!r} is named twice; once is enough.")
        if SEED_MARK in name and not seeds:
            raise InvalidArgument(f"{name!r} has {SEED_MARK}: name the training runs by --seeds.")
        runs = [name.replace(SEED_MARK, seed) for seed in seeds] if SEED_MARK in name else [name]
        if len(set(runs)) < len(runs):
            raise InvalidArgument(f"--seeds names a training run twice: {', '.join(seeds)}.")
        paths[name] = runs
    if seeds and not any(SEED_MARK in name for name in names):
        raise InvalidArgument(
            f"--seeds needs a path that has {SEED_MARK}, such as runs/dt-{SEED_MARK}."
        )
    return paths


Names = Annotated[tuple[str, ...], _several("NAME")]
"""Names, separated by commas or by spaces."""

AgentPath = Annotated[str, _path("AGENT", str)]
"""The name or the path of a saved agent."""

Games = Annotated[tuple[str, ...], _several("GAME")]
"""Games or suites, separated by commas or by spaces."""

Paths = Annotated[tuple[Path, ...], _several("PATH", Path)]
"""Paths, separated by commas or by spaces."""

Steps = Annotated[int, _number("STEPS", parse_steps)]
"""A number of steps; 200k and 1.5m are understood."""

# The same forms for configurations of other packages, whose fields have plain types.
_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _plain_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if info.type is int:
        return _number("INT", parse_number)
    if info.type is Path:
        return _path("PATH", Path)
    if info.type_origin is tuple and get_args(info.type) in ((str, ...), (Path, ...)):
        kind = get_args(info.type)[0]
        return _several("PATH" if kind is Path else "NAME", kind)
    return None


@_REGISTRY.primitive_rule
def _optional_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read `X | None` as X: an option is left out rather than set to None."""
    kinds = get_args(info.type)
    if info.type_origin not in (Union, types.UnionType) or len(kinds) != 2:
        return None
    if kinds[1] is not type(None):
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [] if value is None else spec.str_from_instance(value),
    )


_is_asking_others = False


@_REGISTRY.struct_rule
def _struct_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Leave defaults that say nothing out of the help; else tyro's own rules hold."""
    global _is_asking_others
    if _is_asking_others:
        return None
    _is_asking_others = True
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _is_asking_others = False
    if not isinstance(spec, StructConstructorSpec):
        return None
    hint = tyro.conf.arg(help_behavior_hint=_say_default)
    return dataclasses.replace(
        spec,
        fields=tuple(
            dataclasses.replace(field, type=Annotated[field.type, hint])  # type: ignore[arg-type]
            for field in spec.fields
        ),
    )


def _say_default(default: str) -> str:
    # A flag such as --no-report, which takes no value, has the default True of what it leaves out.
    return "" if default in ("", "None", "False", "True") else f"(default: {default})"


def parse(kind: Any, description: str | None, command: str = "") -> Any:
    """Return the arguments of the command line as `kind`, a dataclass or a union of them.

    `--help` prints `description` and ends the process, `--version` the versions. `command` is the
    first argument where that chose `kind`, such as "compare".
    """
    name = Path(sys.argv[0]).stem
    prog = name if name.startswith("mgdt-") else f"mgdt-{name}"
    if sys.argv[1:] == ["--version"]:
        libraries = [f"{library} {version(library)}" for library in ("ale-py", "torch")]
        python = platform.python_version()
        print(f"{prog} {version('mgdt')} (Python {python}, {', '.join(libraries)})")
        sys.exit()
    return tyro.cli(
        kind,
        prog=f"{prog} {command}".strip(),
        args=sys.argv[2 if command else 1 :],
        description=inspect.cleandoc(description or ""),
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=_REGISTRY,
    )

"""Checks of the fields of configurations.

A config that extends another calls the checks of that by the class's name: `super()` does not know
a dataclass with slots, which is another class than the one written down.
"""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mgdt_envs.emulator import NUM_ACTIONS
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean


def check_interval(config: Any, interval: str, *names: str) -> None:
    """Check that numbers are in an interval.

    Args:
        config: what the numbers are fields of.
        interval: such as "[0, 1)", which includes 0 and excludes 1, or "[1, inf)".
        names: of the fields. Of several numbers in a field, each is checked; None is left out.

    Raises:
        ValueError: naming the first field that is not in the interval.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if number is None:
                continue
            above = number > low or (number == low and interval[0] == "[")
            below = number < high or (number == high and interval[-1] == "]")
            if not (above and below):
                bound = "at least" if interval[0] == "[" else "above"
                expected = f"{bound} {low:g}" if interval.endswith("inf)") else f"in {interval}"
                raise InvalidArgument(f"{name} must be {expected}, got {value}")


def check_actions(config: Any) -> None:
    """Check that a network chooses among all actions, as the ids in replay are of the full set.

    Raises:
        ValueError: if it does not.
    """
    if config.actions != NUM_ACTIONS:
        raise InvalidArgument(
            f"actions must be {NUM_ACTIONS}, the full set, of which games may leave out some; got "
            f"{config.actions}"
        )


def check_choices(config: Any) -> None:
    """Check that fields whose type is `Literal` have one of its values.

    Raises:
        ValueError: naming the first field that has not.
    """
    for name, kind in get_type_hints(type(config)).items():
        value, choices = getattr(config, name), get_args(kind)
        if get_origin(kind) is Literal and value not in choices:
            *others, last = map(repr, choices)
            raise InvalidArgument(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def check_unread(config: Any, reason: str, *names: str) -> None:
    """Check that fields that are not read have their defaults: none is set in vain.

    Raises:
        ValueError: naming the first field that has not, and the `reason`.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in names and value != field.default:
            raise InvalidArgument(
                f"{field.name} is not read {reason}: expected its default, {field.default!r}, got "
                f"{value!r}"
            )


def config_of(agent_class: Any, config: Any) -> Any:
    """Return a config of an agent's class, or the one of its presets that has this name.

    Raises:
        ValueError: if there is no such preset, and then the message suggests the nearest; or for
            anything but a config of this very class, as no other can be saved and loaded.
    """
    if isinstance(config, str):
        if config not in agent_class.presets:
            near = did_you_mean(config, agent_class.presets)
            raise InvalidArgument(f"Unknown size {config!r} of {agent_class.kind}. {near}")
        config = agent_class.presets[config]
    if type(config) is not agent_class.config_class:
        raise InvalidArgument(
            f"Expected a {agent_class.config_class.__name__} for {agent_class.kind}, or the name "
            f"of a size, got {config!r}"
        )
    return config

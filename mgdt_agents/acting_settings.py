"""How a saved agent acts, changed by text behind its name: `dt:kappa=30:action_temperature=1`."""

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

from mgdt_agents.decision_transformer.rules import rule_fields
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean


def split_settings(name: str) -> tuple[str, dict[str, str]]:
    """Return a name or path without the settings behind it, and these.

    Raises:
        ValueError: for a setting that is given twice.

    Example:
        >>> split_settings("runs/dt:kappa=30:action_temperature=1")
        ('runs/dt', {'kappa': '30', 'action_temperature': '1'})
        >>> split_settings("hf://user/name")
        ('hf://user/name', {})
    """
    settings: dict[str, str] = {}
    while found := re.fullmatch(r"(.+):(\w+)=([^:=,/\\]*)", name, re.DOTALL):
        name, setting, value = found.groups()
        if setting in settings:
            raise InvalidArgument(f"{setting} of {name} is given twice; each setting may be once.")
        settings = {setting: value, **settings}
    return name, settings


def options_with(
    saved: Mapping[str, Any], settings: Mapping[str, str], kind: str
) -> dict[str, Any]:
    """Return the options of a saved agent with other settings.

    Args:
        saved: the options as `config.json` has them: numbers, and what holds several, such as a
            "rule".
        settings: numbers by name, wherever the options have them; and "rule", the name of an acting
            rule that takes the place of the saved one.
        kind: what the agent is called in messages.

    Raises:
        ValueError: for a setting that the agent has not, or that is no number.
    """
    options = copy.deepcopy(dict(saved))
    numbers = dict(settings)
    if "rule" in options and "rule" in numbers:
        options["rule"] = rule_fields(numbers.pop("rule"))
    elif "rule" in options:  # saved before it had all of its fields, perhaps
        options["rule"] = rule_fields(options["rule"]["name"]) | options["rule"]
    holders = [options, *(value for value in options.values() if isinstance(value, dict))]
    places = {
        name: holder
        for holder in holders
        for name, value in holder.items()
        if type(value) in (int, float) or (holder is options.get("rule") and value is None)
    }
    for name, text in numbers.items():
        if name not in places:
            names = [*places, *(["rule"] if "rule" in options else [])]
            advice = did_you_mean(name, names) if names else "It has no settings."
            raise InvalidArgument(f"Unknown setting {name!r} of how {kind} acts. {advice}")
        number = int if type(places[name][name]) is int else float
        try:
            value = number(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InvalidArgument(
                f"{name} of {kind} must be {'an integer' if number is int else 'a number'}, got "
                f"{text!r}."
            )
        places[name][name] = value
    for name, holder in places.items():
        if holder[name] is None:
            raise InvalidArgument(f"{options['rule']['name']} needs its {name}, such as {name}=20.")
    return options

"""Keys of a keyboard as actions of the console."""

from collections.abc import Collection

from ale_py import Action


def action_of_keys(pressed: Collection[str]) -> int:
    """Return the full-set id that a joystick held so would give.

    Args:
        pressed: any of "up", "down", "left", "right", "fire"; opposite directions cancel out.

    Example:
        >>> action_of_keys({"up", "right", "fire"})  # UPRIGHTFIRE
        14
    """
    vertical = ("up" in pressed) - ("down" in pressed)
    horizontal = ("right" in pressed) - ("left" in pressed)
    name = {1: "UP", 0: "", -1: "DOWN"}[vertical] + {1: "RIGHT", 0: "", -1: "LEFT"}[horizontal]
    name += "FIRE" if "fire" in pressed else ""
    return int(getattr(Action, name or "NOOP").value)

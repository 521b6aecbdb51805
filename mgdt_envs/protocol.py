"""Every switch of preprocessing and of the rules of an episode, in one frozen dataclass."""

import dataclasses
import json
import numbers
from dataclasses import dataclass
from typing import Any, Literal

from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class AtariProtocol:
    """How frames become observations and when an episode starts and ends.

    The default is the protocol that DQN Replay was recorded with (Agarwal et al. 2020, and
    Dopamine's `AtariPreprocessing`): sticky actions, no no-op starts, whole games.
    `PROTOCOLS` has the published ones by name. Rewards are the game's own; clipping is a
    learner's business, see `mgdt_envs.sb3.LearnerRewards`.

    Example:
        >>> from mgdt_envs import AtariProtocol
        >>> protocol = AtariProtocol(sticky=0.0)
        >>> AtariProtocol.from_json(protocol.to_json()) == protocol
        True
        >>> AtariProtocol.nature().noop_max
        31
    """

    frame_skip: int = 4
    """Emulator frames per agent step."""
    max_pool: bool = True
    """Take the maximum over the last two frames of a step, before resizing."""
    sticky: float = 0.25
    """Probability that the emulator repeats the previous action, drawn at each frame."""
    noop_max: int = 0
    """A reset presses NOOP for 0 to `noop_max` - 1 frames, drawn uniformly, as ale-py does; so
    31 is the published "up to 30"."""
    fire_reset: bool = False
    """A reset presses FIRE once in games that have it; it takes the place of one of the NOOPs."""
    life_loss_ends: bool = False
    """A lost life ends the episode. Scores of such episodes are not scores of games."""
    max_frames: int = 108_000
    """Emulator frames after which an episode is truncated; 30 minutes of play."""
    screen_size: int = 84
    """Height and width of an observation in pixels, resized by area."""
    stack: int = 4
    """Frames per observation, oldest first; zero frames before the episode's start."""
    outside_action: Literal["noop", "native"] = "noop"
    """An action outside the game's minimal set is NOOP, or what the console makes of it."""
    jpeg: bool = False
    """Send each frame through JPEG (quality 95), as the data of Lee et al. 2022 were."""

    def __post_init__(self) -> None:
        """Check that the protocol can be played.

        Raises:
            ValueError: naming the field, what it may be, and what it is.
        """
        kinds: dict[Any, tuple[type, str]] = {
            bool: (bool, "true or false"),
            int: (numbers.Integral, "a whole number"),
            float: (numbers.Real, "a number"),
        }
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            kind, expected = kinds.get(each.type, (object, ""))
            # A truth value is a number to Python.
            if (expected and (type(value) is bool) != (kind is bool)) or not isinstance(
                value, kind
            ):
                raise InvalidArgument(
                    f"AtariProtocol.{each.name} must be {expected}, got {value!r}"
                )
        for field in ("frame_skip", "max_frames", "screen_size", "stack"):
            if (value := getattr(self, field)) < 1:
                raise InvalidArgument(f"AtariProtocol.{field} must be at least 1, got {value}")
        if not 0 <= self.sticky < 1:
            raise InvalidArgument(f"AtariProtocol.sticky must be in [0, 1), got {self.sticky}")
        if self.noop_max < 0:
            raise InvalidArgument(f"AtariProtocol.noop_max must be at least 0, got {self.noop_max}")
        if self.outside_action not in ("noop", "native"):
            raise InvalidArgument(
                "AtariProtocol.outside_action must be 'noop' or 'native', "
                f"got {self.outside_action!r}"
            )

    @classmethod
    def mgdt_release(cls) -> "AtariProtocol":
        """Return the protocol of the released evaluator of Lee et al. 2022."""
        return cls(sticky=0.0, jpeg=True)

    @classmethod
    def nature(cls) -> "AtariProtocol":
        """Return the protocol of DQN (Mnih et al. 2015): no-op starts and no sticky actions.

        It is dqn_zoo's (`dqn_zoo/dqn/run_atari.py`): up to 30 NOOPs, 108,000 frames. There every
        start has at least one NOOP, here it may have none. In learning, a lost life ended an
        episode and rewards were clipped, but scores are of whole games: that is
        `mgdt_envs.sb3.LearnerRewards`.
        """
        return cls(sticky=0.0, noop_max=31)

    @classmethod
    def machado(cls) -> "AtariProtocol":
        """Return the protocol that Machado et al. 2018 recommend: sticky actions, all 18 actions.

        Frame skip and frame limit are those of ale-py's v5 environments, which follow that paper.
        """
        return cls(outside_action="native")

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of an observation."""
        return self.stack, self.screen_size, self.screen_size

    @property
    def steps_per_second(self) -> float:
        """Agent steps a second at which the console's 60 frames a second play."""
        return 60 / self.frame_skip

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "AtariProtocol":
        """Return the protocol with the given fields.

        Raises:
            ValueError: if a field is unknown; it is from a newer version, perhaps.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise InvalidArgument(
                f"Unknown fields of AtariProtocol: {unknown}; known are {sorted(known)}. "
                "A newer version of mgdt may have written them."
            )
        return cls(**fields)

    def to_json(self) -> str:
        """Return the protocol as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "AtariProtocol":
        """Return the protocol that `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    def sheet(self) -> str:
        """Return one line that says under which rules a table's scores were made."""
        return " · ".join(
            [
                f"sticky {self.sticky:g}",
                f"no-ops {f'0-{self.noop_max - 1}' if self.noop_max > 1 else 0}",
                f"FIRE reset {'on' if self.fire_reset else 'off'}",
                f"life loss {'ends' if self.life_loss_ends else 'goes on'}",
                f"frame skip {self.frame_skip}{', max of last 2' if self.max_pool else ''}",
                f"{self.screen_size}x{self.screen_size} area, {self.stack} frames, zero padded",
                f"18 actions, others {self.outside_action}",
                f"{self.max_frames:,} frames",
                f"JPEG {'on' if self.jpeg else 'off'}",
                "rewards unclipped",
            ]
        )


PROTOCOLS: dict[str, AtariProtocol] = {
    "default": AtariProtocol(),
    "mgdt_release": AtariProtocol.mgdt_release(),
    "nature": AtariProtocol.nature(),
    "machado": AtariProtocol.machado(),
}
"""The named protocols, by name."""


AnyProtocol = AtariProtocol | str | dict[str, Any] | None
"""What `as_protocol` takes."""


def as_protocol(protocol: AnyProtocol) -> AtariProtocol:
    """Return `protocol`; a name is looked up in `PROTOCOLS`, and `None` is the default.

    A dictionary holds the fields: Gymnasium writes the arguments of an environment as JSON, so
    that protocols come back as dictionaries.

    Raises:
        ValueError: for an unknown name or field.
    """
    if isinstance(protocol, AtariProtocol):
        return protocol
    if isinstance(protocol, dict):
        return AtariProtocol.from_dict(protocol)
    name = "default" if protocol is None else protocol
    if name not in PROTOCOLS:
        raise InvalidArgument(f"Unknown protocol {name!r}. {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]

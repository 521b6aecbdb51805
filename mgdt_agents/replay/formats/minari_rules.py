"""What a Minari data set says of its play: the game, the rules, and what observations look like."""

import re
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete, Space

from mgdt_agents.errors import ReplayError
from mgdt_envs import AtariProtocol, Game, game, resolve_games
from mgdt_envs.emulator import NUM_ACTIONS
from mgdt_envs.games import ALL_ACTIONS
from mgdt_envs.protocol import as_protocol

NO_LIMIT = 2**31 - 1  # frames: more than two years of play
SCREEN_HEIGHTS = range(210, 251)
SCREEN_WIDTH = 160
"""Of the console's pictures; the height is the game's."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an environment's specification says of the play."""

    game: Game
    protocol: AtariProtocol
    """As far as it can say; the rest is in `notes`."""
    action_ids: np.ndarray
    """`(actions,)` uint8: the full-set id of each action."""
    notes: tuple[str, ...]
    """What the protocol cannot say, a sentence each."""
    rewards_clipped: bool


def recorded_rules(spec: EnvSpec | None, action_space: Space[Any]) -> Rules:
    """Return the rules that a data set was recorded under.

    Args:
        spec: of the environment, as the data set holds it.
        action_space: of the data set.

    Raises:
        ReplayError: if it is not of one Atari game, or has rules that no protocol can say.
    """
    if spec is None:
        raise ReplayError(
            "Expected the specification of an environment in the data set, there is none: neither "
            "its game nor its rules are known."
        )
    if str(spec.entry_point).startswith("mgdt_envs."):
        rules = _suite_rules(spec)
    elif "game" in spec.kwargs and re.match("ale_py|shimmy", str(spec.entry_point)):
        rules = _ale_rules(spec)
    else:
        raise ReplayError(
            "Expected a data set of Atari play, recorded on an environment of ale-py or of "
            f"mgdt_envs, found {spec.id} ({spec.entry_point})."
        )
    if action_space != Discrete(len(rules.action_ids)):
        raise ReplayError(
            f"Expected actions Discrete({len(rules.action_ids)}) of {spec.id}, "
            f"found {action_space}."
        )
    return _wrapped(spec, rules)


def _suite_rules(spec: EnvSpec) -> Rules:
    games = resolve_games(spec.kwargs.get("games", "atari57"))
    if len(games) != 1:
        raise ReplayError(
            f"Expected a data set of one game, found {len(games)} of {spec.id}: which of them an "
            "episode is of is not told."
        )
    protocol = as_protocol(spec.kwargs.get("protocol"))
    return Rules(game(games[0]), protocol, np.array(ALL_ACTIONS, np.uint8), (), False)


def _ale_rules(spec: EnvSpec) -> Rules:
    """Return the rules of `ale_py.AtariEnv`; what is not given is as that class has it."""
    given = spec.kwargs
    played = game(given["game"])
    frame_skip = given.get("frameskip", 4)
    if not isinstance(frame_skip, int):
        raise ReplayError(
            f"Expected a fixed number of frames a step, found {spec.id}, which draws it from "
            f"{frame_skip}: no AtariProtocol can say that."
        )
    notes = [
        f"{name} {given[name]}" for name in ("mode", "difficulty") if given.get(name) is not None
    ]
    all_actions = given.get("full_action_space", False)
    protocol = AtariProtocol(
        frame_skip=frame_skip,
        max_pool=False,
        sticky=given.get("repeat_action_probability", 0.25),
        max_frames=given.get("max_num_frames_per_episode") or NO_LIMIT,
        outside_action="native" if all_actions else "noop",
    )
    actions = range(NUM_ACTIONS) if all_actions else played.minimal_actions
    return Rules(played, protocol, np.array(actions, np.uint8), tuple(notes), False)


def _wrapped(spec: EnvSpec, rules: Rules) -> Rules:
    """Return the rules of an environment in its wrappers, from the innermost to the outermost."""
    inner_frame_skip = rules.protocol.frame_skip
    for wrapper in spec.additional_wrappers:
        protocol, notes, clips = rules.protocol, rules.notes, rules.rewards_clipped
        match wrapper.name, wrapper.kwargs:
            case (
                "AtariPreprocessing",
                {"frame_skip": frames, "noop_max": noops, "terminal_on_life_loss": life_loss_ends},
            ):
                protocol = replace(_skipping(protocol, frames), life_loss_ends=life_loss_ends)
                if noops:
                    protocol = replace(protocol, noop_max=noops + 1)
                    notes += (f"a reset presses NOOP at least once, and up to {noops} times",)
            case "MaxAndSkipObservation", {"skip": frames}:
                protocol = _skipping(protocol, frames)
            case "FrameStackObservation", {"stack_size": stack}:
                protocol = replace(protocol, stack=stack)
            case "ClipReward", _:
                clips = True
            case name, _ if name not in _WITHOUT_RULES:
                notes += (f"wrapped in {name}",)
        rules = replace(rules, protocol=protocol, notes=notes, rewards_clipped=clips)
    return _limited(rules, spec.max_episode_steps, inner_frame_skip)


_WITHOUT_RULES = (
    "GrayscaleObservation",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "ResizeObservation",
)
"""Wrappers that change no more than what observations look like, which their shape says."""


def _limited(rules: Rules, max_steps: int | None, inner_frame_skip: int) -> Rules:
    """Return the rules with a limit of steps, which a specification has without its place."""
    if max_steps is None:
        return rules
    protocol, notes = rules.protocol, rules.notes
    max_frames = min(protocol.max_frames, max_steps * protocol.frame_skip)
    if inner_frame_skip != protocol.frame_skip:
        notes += (
            f"the limit of {max_steps} steps may be one of {max_steps * inner_frame_skip} frames",
        )
    return replace(rules, protocol=replace(protocol, max_frames=max_frames), notes=notes)


def _skipping(protocol: AtariProtocol, frames: int) -> AtariProtocol:
    """Return the protocol with an action repeated, and the maximum taken of the last two frames."""
    if frames == 1:
        return protocol
    return replace(protocol, frame_skip=protocol.frame_skip * frames, max_pool=True)


@dataclass(frozen=True, slots=True)
class Observations:
    """What the observations of a recording look like."""

    shape: tuple[int, ...]
    """Of one, in a notation: `[stack,] height, width[, channels]`."""
    stacked: bool
    """Whether frames are stacked, the newest last."""
    channels: int
    """3 for RGB; 1 for gray; 0 for gray without an axis for it."""
    side: int
    """Height and width of the frames to make."""

    @classmethod
    def of(cls, space: Space[Any], side: int) -> "Observations":
        """Return the layout of a data set's observations.

        Raises:
            ReplayError: if no frame can be made of them.
        """
        if isinstance(space, Box) and space.dtype == np.uint8:
            for stacked in (False, True):
                picture = space.shape[stacked:]
                if len(picture) not in (2, 3):
                    continue
                is_screen = picture[0] in SCREEN_HEIGHTS and picture[1] == SCREEN_WIDTH
                channels = picture[2] if len(picture) == 3 else 0
                if (is_screen or picture[:2] == (side, side)) and channels in (0, 1, 3):
                    return cls(space.shape, stacked, channels, side)
        raise ReplayError(
            f"Expected uint8 observations of the console's {SCREEN_HEIGHTS[0]}x{SCREEN_WIDTH} (in "
            f"some games up to {SCREEN_HEIGHTS[-1]}) or of {side}x{side}, RGB or gray, of shape "
            "(height, width), (height, width, channels) or either after a stack of frames, found "
            f"{space if not isinstance(space, Box) else f'{space.dtype} of shape {space.shape}'}."
        )

    @property
    def conversion(self) -> str:
        """What is done to the newest frame, in words."""
        steps = []
        if self.channels == 3:
            steps.append("gray as 0.299 R + 0.587 G + 0.114 B, which is ale-py's luminance")
        if self._size != (self.side, self.side):
            steps.append(f"resized to {self.side}x{self.side} by area")
        return "; ".join(steps) or "none"

    @property
    def _size(self) -> tuple[int, ...]:
        return self.shape[self.stacked : self.stacked + 2]

    def frames(self, observations: np.ndarray) -> np.ndarray:
        """Return the newest frame of each observation, `(T, side, side)` uint8.

        Args:
            observations: `(T, *shape)` uint8.
        """
        pictures = observations[:, -1] if self.stacked else observations
        if self.channels == 1:
            pictures = pictures[..., 0]
        if self.channels != 3 and self._size == (self.side, self.side):
            return pictures
        frames = np.empty((len(pictures), self.side, self.side), np.uint8)
        for picture, frame in zip(pictures, frames, strict=True):
            # For all colors of the console, the same as what the emulator calls gray.
            gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if self.channels == 3 else picture
            cv2.resize(gray, (self.side, self.side), dst=frame, interpolation=cv2.INTER_AREA)
        return frames

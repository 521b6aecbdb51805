"""The games of the suite: reference scores, action sets, and the named lists of games.

Sources of the columns of `GAMES`:

- `random`, `human`: dqn_zoo, `dqn_zoo/atari_data.py` (starts with 1 to 30 no-ops, 108,000 frames).
  Five games have no published human score; theirs (`human_source` "self-played") are Atari-PB's
  (`src/envs/atari.py`), played by its authors, and no human-normalized score is computed from them.
- `dqn`: the final score of the DQN agents that recorded DQN Replay, from the same table of Atari-PB.
- `minimal_actions`: ale-py 0.12.1, `ALEInterface.getMinimalActionSet()`, in its order.
- `mgdt_role`: Lee et al. 2022, section 3.3: trained on, held out for fine-tuning, or not used.
- `rom_match`: atari-py 0.2.5 (the ROMs that DQN Replay was recorded with) against ale-py 0.12.1:
  "same_hash"; "identical_in_test" (other hash, the same pixels and rewards over 400 steps);
  "small_shift" and "large_shift" (differing pixels or dynamics); "not_recorded". See docs/roms.md.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mgdt_envs.atari_subsets import SUBSETS
from mgdt_envs.errors import InvalidArgument

ALL_ACTIONS = tuple(range(18))


@dataclass(frozen=True, slots=True)
class Game:
    """One Atari 2600 game and what is known about it."""

    name: str
    """Name as in DQN Replay and in `ALE/<name>-v5`."""
    rom: str
    """Name of the ROM in ale-py."""
    random: float
    """Score of the uniformly random policy."""
    human: float
    """Score of a human player; see `has_human_reference`."""
    human_source: Literal["dqn_zoo", "self-played"]
    dqn: float | None
    """Final score of DQN, `None` where DQN Replay does not hold the game."""
    minimal_actions: tuple[int, ...]
    """Full-set ids of the actions that differ in this game, in the emulator's order."""
    mgdt_role: Literal["train", "heldout", "excluded"]
    rom_match: Literal[
        "same_hash", "identical_in_test", "small_shift", "large_shift", "not_recorded"
    ]
    """How ale-py's ROM compares with the one that DQN Replay was recorded with."""

    @property
    def has_human_reference(self) -> bool:
        """Whether `human` is a published score, fit for normalizing."""
        return self.human_source == "dqn_zoo"

    @property
    def has_faithful_rom(self) -> bool:
        """Whether ale-py's ROM is DQN Replay's, or one that played alike wherever it was tested."""
        return self.rom_match in ("same_hash", "identical_in_test")


# fmt: off
GAMES = (
    Game("AirRaid", "air_raid", 579.25, 3325.0, "self-played", 7479.4968, (0, 1, 3, 4, 11, 12), "excluded", "same_hash"),
    Game("Alien", "alien", 227.8, 7127.7, "dqn_zoo", 2484.4933, ALL_ACTIONS, "heldout", "same_hash"),
    Game("Amidar", "amidar", 5.8, 1719.5, "dqn_zoo", 1207.7383, (0, 1, 2, 3, 4, 5, 10, 11, 12, 13), "train", "large_shift"),
    Game("Assault", "assault", 222.4, 742.0, "dqn_zoo", 1525.2382, (0, 1, 2, 3, 4, 11, 12), "train", "large_shift"),
    Game("Asterix", "asterix", 210.0, 8503.3, "dqn_zoo", 2711.415, (0, 2, 3, 4, 5, 6, 7, 8, 9), "train", "same_hash"),
    Game("Asteroids", "asteroids", 719.1, 47388.7, "dqn_zoo", 698.3677, (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15), "excluded", "same_hash"),
    Game("Atlantis", "atlantis", 12850.0, 29028.1, "dqn_zoo", 853640.0, (0, 1, 11, 12), "train", "identical_in_test"),
    Game("BankHeist", "bank_heist", 14.2, 753.1, "dqn_zoo", 601.7903, ALL_ACTIONS, "train", "large_shift"),
    Game("BattleZone", "battle_zone", 2360.0, 37187.5, "dqn_zoo", 17784.8445, ALL_ACTIONS, "train", "small_shift"),
    Game("BeamRider", "beam_rider", 363.9, 16926.5, "dqn_zoo", 5852.4157, (0, 1, 2, 3, 4, 6, 7, 11, 12), "train", "same_hash"),
    Game("Berzerk", "berzerk", 123.7, 2630.4, "dqn_zoo", 487.4845, ALL_ACTIONS, "excluded", "small_shift"),
    Game("Bowling", "bowling", 23.1, 160.7, "dqn_zoo", 30.1167, (0, 1, 2, 5, 10, 13), "excluded", "same_hash"),
    Game("Boxing", "boxing", 0.1, 12.1, "dqn_zoo", 77.9938, ALL_ACTIONS, "train", "same_hash"),
    Game("Breakout", "breakout", 1.7, 30.5, "dqn_zoo", 96.2347, (0, 1, 3, 4), "train", "same_hash"),
    Game("Carnival", "carnival", 700.8, 22870.0, "self-played", 4784.8411, (0, 1, 3, 4, 11, 12), "train", "large_shift"),
    Game("Centipede", "centipede", 2090.9, 12017.0, "dqn_zoo", 2583.0329, ALL_ACTIONS, "train", "large_shift"),
    Game("ChopperCommand", "chopper_command", 811.0, 7387.8, "dqn_zoo", 2690.6075, ALL_ACTIONS, "train", "same_hash"),
    Game("CrazyClimber", "crazy_climber", 10780.5, 35829.4, "dqn_zoo", 104568.7578, (0, 2, 3, 4, 5, 6, 7, 8, 9), "train", "same_hash"),
    Game("Defender", "defender", 2874.5, 18688.9, "dqn_zoo", None, ALL_ACTIONS, "excluded", "not_recorded"),
    Game("DemonAttack", "demon_attack", 152.1, 1971.0, "dqn_zoo", 6361.5801, (0, 1, 3, 4, 11, 12), "train", "identical_in_test"),
    Game("DoubleDunk", "double_dunk", -18.6, -16.4, "dqn_zoo", -6.537, ALL_ACTIONS, "train", "large_shift"),
    Game("ElevatorAction", "elevator_action", 4387.0, 6750.5, "self-played", 439.7697, ALL_ACTIONS, "excluded", "same_hash"),
    Game("Enduro", "enduro", 0.0, 860.5, "dqn_zoo", 628.9111, (0, 1, 3, 4, 5, 8, 9, 11, 12), "train", "same_hash"),
    Game("FishingDerby", "fishing_derby", -91.7, -38.7, "dqn_zoo", 0.5791, ALL_ACTIONS, "train", "same_hash"),
    Game("Freeway", "freeway", 0.0, 29.6, "dqn_zoo", 26.2699, (0, 2, 5), "train", "same_hash"),
    Game("Frostbite", "frostbite", 65.2, 4334.7, "dqn_zoo", 367.071, ALL_ACTIONS, "train", "same_hash"),
    Game("Gopher", "gopher", 257.6, 2412.5, "dqn_zoo", 5479.8986, (0, 1, 2, 3, 4, 10, 11, 12), "train", "large_shift"),
    Game("Gravitar", "gravitar", 173.0, 3351.4, "dqn_zoo", 330.0687, ALL_ACTIONS, "train", "identical_in_test"),
    Game("Hero", "hero", 1027.0, 30826.4, "dqn_zoo", 17325.44, ALL_ACTIONS, "train", "same_hash"),
    Game("IceHockey", "ice_hockey", -11.2, 0.9, "dqn_zoo", -5.8373, ALL_ACTIONS, "train", "small_shift"),
    Game("Jamesbond", "jamesbond", 29.0, 302.8, "dqn_zoo", 573.3116, ALL_ACTIONS, "train", "same_hash"),
    Game("JourneyEscape", "journey_escape", -19977.0, 1129.3, "self-played", -3671.0914, (0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17), "excluded", "same_hash"),
    Game("Kangaroo", "kangaroo", 52.0, 3035.0, "dqn_zoo", 11485.982, ALL_ACTIONS, "train", "same_hash"),
    Game("Krull", "krull", 1598.0, 2665.5, "dqn_zoo", 6097.6306, ALL_ACTIONS, "train", "small_shift"),
    Game("KungFuMaster", "kung_fu_master", 258.5, 22736.3, "dqn_zoo", 23435.3765, (0, 2, 3, 4, 5, 8, 9, 11, 12, 13, 14, 15, 16, 17), "train", "identical_in_test"),
    Game("MontezumaRevenge", "montezuma_revenge", 0.0, 4753.3, "dqn_zoo", 0.0, ALL_ACTIONS, "excluded", "same_hash"),
    Game("MsPacman", "ms_pacman", 307.3, 6951.6, "dqn_zoo", 3402.3953, (0, 2, 3, 4, 5, 6, 7, 8, 9), "heldout", "identical_in_test"),
    Game("NameThisGame", "name_this_game", 2292.3, 8049.0, "dqn_zoo", 7278.6523, (0, 1, 3, 4, 11, 12), "train", "small_shift"),
    Game("Phoenix", "phoenix", 761.4, 7242.6, "dqn_zoo", 4996.5835, (0, 1, 3, 4, 5, 11, 12, 13), "train", "same_hash"),
    Game("Pitfall", "pitfall", -229.4, 6463.7, "dqn_zoo", -73.8106, ALL_ACTIONS, "excluded", "small_shift"),
    Game("Pong", "pong", -20.7, 14.6, "dqn_zoo", 16.6097, (0, 1, 3, 4, 11, 12), "heldout", "same_hash"),
    Game("Pooyan", "pooyan", 371.2, 3004.3, "self-played", 3211.9629, (0, 1, 2, 5, 10, 13), "train", "large_shift"),
    Game("PrivateEye", "private_eye", 24.9, 69571.3, "dqn_zoo", -16.043, ALL_ACTIONS, "excluded", "same_hash"),
    Game("Qbert", "qbert", 163.9, 13455.0, "dqn_zoo", 10117.504, (0, 1, 2, 3, 4, 5), "train", "same_hash"),
    Game("Riverraid", "riverraid", 1338.5, 17118.0, "dqn_zoo", 11638.9277, ALL_ACTIONS, "train", "small_shift"),
    Game("RoadRunner", "road_runner", 11.5, 7845.0, "dqn_zoo", 36925.4685, ALL_ACTIONS, "train", "large_shift"),
    Game("Robotank", "robotank", 2.2, 11.9, "dqn_zoo", 59.7741, ALL_ACTIONS, "train", "same_hash"),
    Game("Seaquest", "seaquest", 68.4, 42054.7, "dqn_zoo", 1600.6574, ALL_ACTIONS, "train", "same_hash"),
    Game("Skiing", "skiing", -17098.1, -4336.9, "dqn_zoo", -15824.6083, (0, 3, 4), "excluded", "large_shift"),
    Game("Solaris", "solaris", 1236.3, 12326.7, "dqn_zoo", 1436.402, ALL_ACTIONS, "excluded", "same_hash"),
    Game("SpaceInvaders", "space_invaders", 148.0, 1668.7, "dqn_zoo", 1794.2367, (0, 1, 3, 4, 11, 12), "heldout", "identical_in_test"),
    Game("StarGunner", "star_gunner", 664.0, 10250.0, "dqn_zoo", 42165.2227, ALL_ACTIONS, "heldout", "same_hash"),
    Game("Surround", "surround", -10.0, 6.5, "dqn_zoo", None, (0, 2, 3, 4, 5), "excluded", "not_recorded"),
    Game("Tennis", "tennis", -23.8, -8.3, "dqn_zoo", -1.5, ALL_ACTIONS, "excluded", "large_shift"),
    Game("TimePilot", "time_pilot", 3568.0, 5229.2, "dqn_zoo", 3654.3691, (0, 1, 2, 3, 4, 5, 10, 11, 12, 13), "train", "same_hash"),
    Game("Tutankham", "tutankham", 11.4, 167.6, "dqn_zoo", 103.8379, (0, 2, 3, 4, 5, 10, 11, 12), "excluded", "large_shift"),
    Game("UpNDown", "up_n_down", 533.4, 11693.2, "dqn_zoo", 8488.3147, (0, 1, 2, 5, 10, 13), "train", "same_hash"),
    Game("Venture", "venture", 0.0, 1187.5, "dqn_zoo", 39.1278, ALL_ACTIONS, "excluded", "identical_in_test"),
    Game("VideoPinball", "video_pinball", 16256.9, 17667.9, "dqn_zoo", 63406.1103, (0, 1, 2, 3, 4, 5, 10, 11, 12), "train", "large_shift"),
    Game("WizardOfWor", "wizard_of_wor", 563.5, 4756.5, "dqn_zoo", 2065.7993, (0, 1, 2, 3, 4, 5, 10, 11, 12, 13), "train", "large_shift"),
    Game("YarsRevenge", "yars_revenge", 3092.9, 54576.9, "dqn_zoo", 23909.3827, ALL_ACTIONS, "train", "identical_in_test"),
    Game("Zaxxon", "zaxxon", 32.5, 9173.3, "dqn_zoo", 4538.5723, ALL_ACTIONS, "train", "same_hash"),
)
"""All games, by name."""
# fmt: on

_BY_NAME = {game.name: game for game in GAMES}
_BY_LOOSE_NAME = {game.name.lower(): game for game in GAMES} | {game.rom: game for game in GAMES}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the members of `known` nearest to `name`, or all of them."""
    known = list(known)
    lower = {entry.lower(): entry for entry in known}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"Known names: {', '.join(known)}."


def game(name: str) -> Game:
    """Return the game called `name`; a ROM's name or another case is understood too.

    Raises:
        ValueError: if there is no such game. The message suggests the nearest names.
    """
    found = _BY_LOOSE_NAME.get(name.lower())
    if found is None:
        raise InvalidArgument(f"Unknown game {name!r}. {did_you_mean(name, _BY_NAME)}")
    return found


def add(new: Game) -> None:
    """Make `new` known by name; `mgdt_envs.register_game` makes its environment, too.

    Raises:
        ValueError: if there is another game of this name or ROM.
    """
    if new.name.lower() in SUITES:
        raise InvalidArgument(f"There is a suite of the name {new.name!r} already.")
    for name in (new.name, new.rom):
        if (known := _BY_LOOSE_NAME.get(name.lower(), new)) != new:
            raise InvalidArgument(f"There is a game of name or ROM {name!r} already: {known}.")
    _BY_NAME[new.name] = new
    _BY_LOOSE_NAME.update({new.name.lower(): new, new.rom: new})


class Suite(tuple[str, ...]):
    """Names of games: a tuple that can select among its own.

    Example:
        >>> from mgdt_envs import suite
        >>> len(suite("mgdt41")), len(suite("mgdt41").rom_faithful())
        (41, 25)
    """

    __slots__ = ()

    def rom_faithful(self) -> "Suite":
        """Return the games whose ROM in ale-py is the one that DQN Replay was recorded with.

        They are those of equal hash, and those whose ROM differs but gave the same pixels and
        rewards in a test of 400 steps of random play; `Game.rom_match` tells the two apart.
        """
        return Suite(name for name in self if game(name).has_faithful_rom)


SUITES = {
    "all": Suite(_BY_NAME),
    # The 57 games with a published human score.
    "atari57": Suite(game.name for game in GAMES if game.has_human_reference),
    # The 60 games of DQN Replay (Agarwal et al. 2020).
    "dqn_replay60": Suite(game.name for game in GAMES if game.dqn is not None),
    # Lee et al. 2022: the games trained on, those held out, and both.
    "mgdt41": Suite(game.name for game in GAMES if game.mgdt_role == "train"),
    "mgdt5": Suite(game.name for game in GAMES if game.mgdt_role == "heldout"),
    "mgdt46": Suite(game.name for game in GAMES if game.mgdt_role != "excluded"),
    # Few games that tell the Atari-57 median; "atari3_val", to choose settings on, has none of them.
    **{name: Suite(sorted(subset.coefficients)) for name, subset in SUBSETS.items()},
    # The games of the agents that come with the package.
    "bundled": Suite(
        (
            *("Assault", "Boxing", "Breakout", "CrazyClimber", "Enduro", "Freeway", "Krull"),
            *("KungFuMaster", "Pong", "Qbert", "RoadRunner", "SpaceInvaders"),
        )
    ),
}
"""The named suites, by name."""
_SUITE_BY_NAME = SUITES | {
    f"{name}:rom_faithful": games.rom_faithful() for name, games in SUITES.items()
}


def suite(name: str) -> Suite:
    """Return the names of the games of the suite called `name`, in alphabetical order.

    Args:
        name: a key of `SUITES`; "mgdt41:rom_faithful" is `suite("mgdt41").rom_faithful()`.

    Raises:
        ValueError: if there is no such suite. The message suggests the nearest names.
    """
    if name not in _SUITE_BY_NAME:
        raise InvalidArgument(f"Unknown suite {name!r}. {did_you_mean(name, _SUITE_BY_NAME)}")
    return _SUITE_BY_NAME[name]


def resolve_games(games: str | Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names of `games`: a suite, a game, or several of either.

    Args:
        games: a name such as "mgdt41", "mgdt41:rom_faithful" or "Pong", or several. Each game
            counts once.

    Raises:
        ValueError: for an unknown name or what is no name, or if there is no game at all.
    """
    names: dict[str, None] = {}
    if not isinstance(games, Iterable):
        raise InvalidArgument(f"Expected the name of a game or suite, or several, got {games!r}.")
    for entry in [games] if isinstance(games, str) else games:
        if not isinstance(entry, str):
            raise InvalidArgument(f"Expected the name of a game or suite, got {entry!r}.")
        if entry in _SUITE_BY_NAME:
            names.update(dict.fromkeys(_SUITE_BY_NAME[entry]))
        elif known := _BY_LOOSE_NAME.get(entry.lower()):
            names[known.name] = None
        else:
            near = did_you_mean(entry, [*_BY_NAME, *_SUITE_BY_NAME])
            raise InvalidArgument(f"Unknown game or suite {entry!r}. {near}")
    if not names:
        raise InvalidArgument(
            "Expected at least one game, got none; a suite is among " + ", ".join(SUITES)
        )
    return tuple(names)

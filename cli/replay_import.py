"""Bring recorded play of others into replay stores: `mgdt-replay import dqn-replay|rlu|minari`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.formats.dqn_replay import DQNReplayRun
from mgdt_agents.replay.formats.importing import Recording, import_recording
from mgdt_agents.replay.formats.minari import MinariRecording
from mgdt_agents.replay.formats.rlu import RLURun
from mgdt_cli.arguments import Games, Names, Steps
from mgdt_cli.console import ProgressBar, say
from mgdt_envs import AtariProtocol, game, resolve_games
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsArguments:
    """Which runs of a game to import, in whichever form."""

    source: tyro.conf.Positional[str]
    games: Annotated[Games, tyro.conf.arg(aliases=["--game"])]
    """Games or suites."""
    runs: Names = ("1",)
    """Runs of each game, 1 to 5; each gets a store."""
    output: Path = Path("replay")
    """Folder of the stores, which are called <game>-<run>."""
    max_episode_steps: Steps = 27_000
    """Steps after which a time limit ended episodes. The files do not tell: an episode of that
    length is taken for truncated, and a longer one is an error."""
    limit_steps: Steps | None = None
    """Import the first episodes of each run that have no more steps than that together."""
    threads: int = 0
    """Threads that decode; 0 takes one a core. The stores do not depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNReplayArguments(RunsArguments):
    """Import DQN Replay's logged buffers; a killed import resumes when it is run again."""

    source: tyro.conf.Positional[str]
    """Folder of all games, a game, a run or its files; gs://atari-replay-datasets/dqn reads the
    public bucket (pip install 'mgdt[gcs]')."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RLUArguments(RunsArguments):
    """Import runs of RLU Atari that TensorFlow Datasets prepared (pip install 'mgdt[tfds]').

    A killed import resumes when it is run again.
    """

    source: tyro.conf.Positional[str]
    """Folder of TFDS's data, or of rlu_atari_checkpoints_ordered, rlu_atari_checkpoints or
    rlu_atari in it, or of a run; or an address such as gs://..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MinariArguments:
    """Import a Minari data set of Atari play (pip install 'mgdt[minari]').

    A killed import resumes when it is run again.
    """

    dataset: tyro.conf.Positional[str]
    """Id of the data set, such as atari/pong/expert-v0."""
    games: Annotated[Games, tyro.conf.arg(aliases=["--game"])] = ()
    """Refuse a data set that is of none of these games."""
    download: bool = False
    """Fetch the data set from Minari's server if it is not on this machine."""
    output: Path = Path("replay")
    """Folder of the store, which is called as the data set, with - for /."""
    limit_steps: Steps | None = None
    """Import the first episodes that have no more steps than that together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportArguments:
    """Import recorded play of others."""

    recording: Annotated[
        Annotated[DQNReplayArguments, tyro.conf.subcommand("dqn-replay")]
        | Annotated[RLUArguments, tyro.conf.subcommand("rlu")]
        | Annotated[MinariArguments, tyro.conf.subcommand("minari")],
        tyro.conf.arg(name=""),
    ]


def import_all(arguments: ImportArguments) -> None:
    """Import every recording that the arguments name to a store in the output folder.

    Raises:
        ValueError: for an unknown game, a run that is not a number, or an id of another form.
        ReplayError: if files are missing or do not fit one another, before anything is imported;
            if files are damaged; if a store is not of this import.
    """
    recordings: Mapping[Path, Recording]
    if isinstance(arguments.recording, MinariArguments):
        recordings = _open_minari(arguments.recording)
    else:
        recordings = _open_runs(arguments.recording)
    limit_steps = arguments.recording.limit_steps
    with ProgressBar() as progress:
        for output, recording in recordings.items():
            steps = [it for it in (recording.max_steps, limit_steps) if it is not None]
            total = min(steps, default=None)
            task = progress.add_task(output.name, total=total)

            def show(steps: int, task: Any = task) -> None:
                progress.update(task, completed=steps)

            import_recording(recording, output, limit_steps=limit_steps, on_steps=show)
            progress.update(task, completed=total)
            if isinstance(recording, RLURun) and (unfinished := recording.num_unfinished):
                say(f"{output.name}: left out {unfinished} episodes that are not played to an end.")
            say(str(ReplayStore(output)))


def _open_runs(arguments: RunsArguments) -> dict[Path, DQNReplayRun | RLURun]:
    """Return the runs by their stores, after saying how they differ from ale-py's play."""
    if not arguments.runs or not all(run.isdecimal() for run in arguments.runs):
        raise InvalidArgument(f"Expected numbers after --runs, such as 1,2, got {arguments.runs}.")
    run_class = DQNReplayRun if isinstance(arguments, DQNReplayArguments) else RLURun
    games = resolve_games(arguments.games)
    recordings = {
        (output := arguments.output / f"{name}-{run}"): run_class(
            arguments.source,
            name,
            int(run),
            protocol=AtariProtocol(max_frames=4 * arguments.max_episode_steps),
            downloads=output.with_name(output.name + ".downloads"),
            num_threads=arguments.threads,
        )
        for name in games
        for run in arguments.runs
    }
    for played in map(game, games):
        faithful = "plays like" if played.has_faithful_rom else "differs from"
        say(
            f"{played.name}: ale-py's ROM {faithful} the one of DQN Replay ({played.rom_match}; "
            "see docs/roms.md). Rewards are clipped to [-1, 1], so true scores are unknown."
        )
    for output, recording in recordings.items():
        if isinstance(recording, DQNReplayRun) and (missing := recording.missing_passes):
            numbers = ", ".join(map(str, missing))
            say(
                f"{output.name}: no file holds pass {numbers} over the replay buffer; episodes "
                "that reach into it are left out."
            )
    return recordings


def _open_minari(arguments: MinariArguments) -> dict[Path, MinariRecording]:
    """Return the data set by its store, after saying what its observations and rules are."""
    games = resolve_games(arguments.games) if arguments.games else ()
    recording = MinariRecording(arguments.dataset, games=games, download=arguments.download)
    source = recording.source
    say(
        f"{recording.game.name}: {recording.protocol.sheet()}. Observations of shape "
        f"{tuple(source['observation_shape'])}, converted: {source['conversion']}."
    )
    if source["jpeg_observations"]:
        say("The data set keeps its observations as JPEG, so the frames are not exact.")
    if source["rewards_clipped"]:
        say("Rewards are clipped, so true scores are unknown.")
    for note in source["notes"]:
        say(f"What the protocol cannot say: {note}.")
    return {arguments.output / arguments.dataset.replace("/", "-"): recording}

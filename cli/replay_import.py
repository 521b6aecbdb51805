"""Bring recorded play of others into replay stores: `mgdt-replay import dqn-replay|rlu|minari`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import Progress, TaskID

from mgdt_agents.replay import ReplayStore
from mgdt_agents.replay.importers.dqn_replay import DQNReplayRun, import_dqn_replay
from mgdt_agents.replay.importers.minari import MinariRecording, import_minari
from mgdt_agents.replay.importers.rlu import RLURun, import_rlu
from mgdt_cli.common import Names, Steps, progress_bar, say
from mgdt_envs import AtariProtocol, game
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsArguments:
    """Which runs of a game to import, in whichever form."""

    game: str
    """Name of the game."""
    runs: Names = ("1",)
    """Runs of the game, 1 to 5; each gets a store."""
    output: Path = Path("replay")
    """Folder of the stores, which are called <game>-<run>."""
    limit_steps: Steps | None = None
    """Import the first episodes of each run that have no more steps than that together."""
    threads: int = 0
    """Threads that decode; 0 takes one a core. The stores do not depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNReplayArguments(RunsArguments):
    """Import DQN Replay's logged buffers; a killed import goes on when it is run again."""

    source: tyro.conf.Positional[str]
    """Folder of all games, a game, a run or its files; gs://atari-replay-datasets/dqn reads the
    public bucket (pip install 'mgdt[gcs]')."""


def import_dqn_replay_runs(arguments: DQNReplayArguments) -> None:
    """Import every run to a store in the output folder.

    Raises:
        ValueError: for an unknown game, or a run that is none.
        ReplayError: if files are missing or do not fit one another, before anything is imported;
            if files are damaged; if a store is not of this import.
    """
    outputs = _outputs(arguments)
    runs = {run: DQNReplayRun(**_opening(arguments, run, outputs[run])) for run in outputs}
    _say_what_differs(arguments)
    with progress_bar() as progress:
        for run, output in outputs.items():
            rows = runs[run].num_rows
            total = min(rows, arguments.limit_steps or rows)
            task = progress.add_task(output.name, total=total, note="")
            if missing := runs[run].missing_passes:
                numbers = ", ".join(map(str, missing))
                say(
                    f"{output.name}: no file holds pass {numbers} over the replay buffer; episodes "
                    "that reach into it are left out."
                )
            import_dqn_replay(
                runs[run],
                output,
                limit_steps=arguments.limit_steps,
                num_threads=arguments.threads,
                on_steps=partial(_show, progress, task),
            )
            progress.update(task, completed=total)
            say(str(ReplayStore(output)))


@dataclass(frozen=True, kw_only=True, slots=True)
class RLUArguments(RunsArguments):
    """Import runs of RLU Atari that TensorFlow Datasets prepared (pip install 'mgdt[tfds]').

    A killed import goes on when it is run again.
    """

    source: tyro.conf.Positional[str]
    """Folder of TFDS's data, or of rlu_atari_checkpoints_ordered, rlu_atari_checkpoints or
    rlu_atari in it, or of a run; or an address such as gs://..."""


def import_rlu_runs(arguments: RLUArguments) -> None:
    """Import every run to a store in the output folder.

    Raises:
        ValueError: for an unknown game, or a run that is none.
        ReplayError: if a run or a shard is missing, before anything is imported; if files are
            damaged; if a store is not of this import.
    """
    outputs = _outputs(arguments)
    runs = {run: RLURun(**_opening(arguments, run, outputs[run])) for run in outputs}
    _say_what_differs(arguments)
    with progress_bar() as progress:
        for run, output in outputs.items():
            # How many steps there are is not known before they are read.
            note = f"{runs[run].num_episodes:,} episodes"
            task = progress.add_task(output.name, total=arguments.limit_steps, note=note)
            import_rlu(
                runs[run],
                output,
                limit_steps=arguments.limit_steps,
                num_threads=arguments.threads,
                on_steps=partial(_show, progress, task),
            )
            if unfinished := runs[run].num_unfinished:
                say(f"{output.name}: left out {unfinished} episodes that are not played to an end.")
            say(str(ReplayStore(output)))


def _outputs(arguments: RunsArguments) -> dict[str, Path]:
    """Return the store of each run."""
    if not arguments.runs or not all(run.isdecimal() for run in arguments.runs):
        raise InvalidArgument(f"Expected numbers after --runs, such as 1,2, got {arguments.runs}.")
    name = game(arguments.game).name
    return {run: arguments.output / f"{name}-{run}" for run in arguments.runs}


def _opening(
    arguments: DQNReplayArguments | RLUArguments, run: str, output: Path
) -> dict[str, Any]:
    """Return the arguments that open a run."""
    return {
        "source": arguments.source,
        "game": arguments.game,
        "run": int(run),
        "protocol": AtariProtocol(),
        "downloads": output.with_name(output.name + ".downloads"),
    }


def _say_what_differs(arguments: RunsArguments) -> None:
    played = game(arguments.game)
    faithful = "plays like" if played.has_faithful_rom else "differs from"
    say(
        f"{played.name}: ale-py's ROM {faithful} the one of DQN Replay ({played.rom_match}; see "
        "docs/roms.md). Rewards are clipped to [-1, 1], so true scores are unknown."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MinariArguments:
    """Import a Minari data set of Atari play (pip install 'mgdt[minari]').

    A killed import goes on when it is run again.
    """

    dataset: tyro.conf.Positional[str]
    """Id of the data set, such as atari/pong/expert-v0."""
    game: str | None = None
    """Refuse a data set that is not of this game."""
    download: bool = False
    """Fetch the data set from Minari's server if it is not on this machine."""
    output: Path = Path("replay")
    """Folder of the store, which is called as the data set, with - for /."""
    limit_steps: Steps | None = None
    """Import the first episodes that have no more steps than that together."""


def import_minari_dataset(arguments: MinariArguments) -> None:
    """Import a data set to a store in the output folder.

    Raises:
        ValueError: if the data set's id or the game's name is none.
        ReplayError: if there is no such data set, it is not of Atari play, or it is damaged; if
            the store is not of this import.
    """
    recording = MinariRecording(arguments.dataset, game=arguments.game, download=arguments.download)
    output = arguments.output / arguments.dataset.replace("/", "-")
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
    steps = recording.num_steps
    total = min(steps, arguments.limit_steps or steps)
    with progress_bar() as progress:
        task = progress.add_task(output.name, total=total, note="")
        import_minari(
            recording,
            output,
            limit_steps=arguments.limit_steps,
            on_steps=partial(_show, progress, task),
        )
        progress.update(task, completed=total)
    say(str(ReplayStore(output)))


def _show(progress: Progress, task: TaskID, steps: int) -> None:
    progress.update(task, completed=steps)


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
    """Import what the arguments of the format say."""
    imports: dict[type, Callable[[Any], None]] = {
        DQNReplayArguments: import_dqn_replay_runs,
        RLUArguments: import_rlu_runs,
        MinariArguments: import_minari_dataset,
    }
    imports[type(arguments.recording)](arguments.recording)

"""Collect replay: learn games online and keep every step of each as a trace.

A collection is a folder:

- `collection.json`: games, steps, learner and its configuration;
- `<Game>.npz`: the trace of a game's play so far, renewed at each checkpoint;
- the agent as of the last checkpoint, which `load_agent` takes by the folder's name;
- `metrics.jsonl`: the learning curve, and TensorBoard's files beside it;
- `checkpoint.pt`: the learner, as of the trace's last step or of an earlier one.

A collection that was stopped resumes from its checkpoint, if its learner can. Emulators cannot be
saved, so the traces are played again up to there, which also checks them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.online.impala import Impala
from mgdt_agents.online.learner import Learner, Play, mean_returns, updates
from mgdt_agents.online.online_run import OnlineRun, card, load_checkpoint, unusable_checkpoint
from mgdt_agents.online.pqn import PQN
from mgdt_agents.online.sb3_learner import DQNLearner, PPOLearner, SB3Learner
from mgdt_agents.replay import files
from mgdt_agents.replay.trace import Trace
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_envs import MultiGameAtariVectorEnv, resolve_games
from mgdt_envs.errors import OutputExists

LEARNERS: dict[str, type[Learner]] = {
    learner.name: learner for learner in (Impala, PQN, DQNLearner, PPOLearner)
}


def collect(
    algo: str,
    games: Sequence[str],
    steps: int,
    config: Any,
    output: Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    num_threads: int = 0,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Let a learner learn games under the default protocol and record what it plays.

    Args:
        algo: the learner: a name in `LEARNERS`.
        games: names of the games that one learner plays; PQN plays one.
        steps: agent steps of all games together, rounded up to what the learner plays between
            two updates.
        config: how it learns, of its `config_class`; its environments are rounded up to equally
            many of each game.
        output: folder of the collection. One of the same configuration resumes.
        overwrite: remove what the folder holds, once nothing stands in the way of playing.
        device: where to compute.
        num_threads: emulator threads; 0 takes one a core.
        on_log: called with the figures of about every 10,000 steps.
        should_stop: asked between updates; where true, what was played is saved.

    Returns:
        Whether all steps are played.

    Raises:
        FileExistsError: if the folder holds something else, or what cannot resume.
        ReplayError: if the trace to resume from is damaged, a file of a finished collection is
            missing, or another process collects there.
        TrainingError: if the checkpoint is, or what is learned is no number any more.
    """
    games = resolve_games(games)
    description = describe(games, steps, algo, config)
    state = None if overwrite else check_folder(output, description)
    if state is not None and state["steps_played"] >= steps:
        check_whole(output, algo, games)
        if any(map(files.is_left_over, output.iterdir())):
            with files.exclusive(output, inside=True):
                files.remove_left_overs(output)
        return True
    num_envs = math.ceil(config.num_envs / len(games)) * len(games)
    envs = MultiGameAtariVectorEnv(num_envs, games, num_threads=num_threads)
    try:
        learner = LEARNERS[algo](config, envs.games_of_envs, steps, device=device)
        recorder = TraceRecorder(envs, description)
        play = Play(recorder, envs.games_of_envs, config.seed)
        collection = _Collection(learner, recorder, play, output)
        # Only now, so that what is wrong with the arguments leaves no folder.
        with files.exclusive(output, inside=True):
            if overwrite:
                files.clear(output)
            state = check_folder(output, description)  # which nobody else changes now
            files.remove_left_overs(output)
            files.replace(output / "collection.json", files.json_bytes(description))
            if state is not None and not collection.resume(state, should_stop):
                return False
            return collection.run(on_log, should_stop)
    finally:
        envs.close()


def describe(games: Sequence[str], steps: int, algo: str, config: Any) -> dict[str, Any]:
    """Return what `collection.json` and the traces' source say of a collection: JSON types."""
    return {
        "games": list(games),
        "steps": steps,
        "learner": algo,
        "config": files.check_json(dataclasses.asdict(config), "config"),
    }


def check_folder(output: Path, description: dict[str, Any]) -> dict[str, Any] | None:
    """Check that the collection of `description` can begin or resume in the folder `output`.

    Returns:
        Its checkpoint, if there is one.

    Raises:
        FileExistsError: if the folder holds something else, or what cannot resume.
        TrainingError: if the checkpoint is damaged.
    """
    path = output / "collection.json"
    if all(map(files.is_left_over, output.glob("*"))):
        return None
    if not path.exists():
        raise OutputExists(
            f"{output} exists and holds no collection to resume; choose another --output."
        )
    if found := files.differences(files.read_object(path), description):
        raise OutputExists(
            f"{output} holds another collection: {'; '.join(found)}. Choose another "
            "--output, or give the same arguments to resume it."
        )
    state, learner = load_checkpoint(output), description["learner"]
    if state is None:
        return None
    if not LEARNERS[learner].can_resume and state["steps_played"] < description["steps"]:
        raise OutputExists(
            f"{output} holds an unfinished collection of {learner}, which cannot resume; "
            "choose another --output or remove it first."
        )
    return state


def check_whole(output: Path, algo: str, games: Sequence[str]) -> None:
    """Check that a finished collection has its traces and its agent.

    Raises:
        ReplayError: naming the first that is missing.
    """
    agent = "model.zip" if issubclass(LEARNERS[algo], SB3Learner) else "model.safetensors"
    for name in (*(f"{game}.npz" for game in games), agent):
        if not (output / name).exists():
            raise ReplayError(
                f"{output} holds a finished collection whose {name} is missing. Put it back, or "
                "collect into another folder."
            )


class _Collection(OnlineRun):
    """A learner, its play, and the folder in which both are kept."""

    def __init__(self, learner: Learner, recorder: TraceRecorder, play: Play, output: Path) -> None:
        super().__init__(output, learner.steps)
        self.learner, self.recorder, self.play = learner, recorder, play
        self._learning = updates(learner, play)

    def resume(self, state: dict[str, Any], should_stop: Callable[[], bool]) -> bool:
        """Bring the environments and the learner to the checkpoint's `state`.

        Returns:
            False if told to stop on the way.
        """
        rows = state["steps_played"] // self.recorder.num_envs
        recorded = {name: Trace.load(self._path(name)) for name in self.recorder.games}
        actions = np.empty((rows, self.recorder.num_envs), np.uint8)
        for name, old in recorded.items():
            columns = np.array(self.play.games_of_envs) == name
            if len(old.seeds) != columns.sum():
                raise ReplayError(
                    f"Expected {columns.sum()} environments in {self._path(name)}, equally many of "
                    f"each game, found {len(old.seeds)}. Collect into another folder."
                )
            if len(old.actions) < rows:
                raise ReplayError(
                    f"Expected {rows} steps in {self._path(name)}, as its checkpoint says, "
                    f"found {len(old.actions)}."
                )
            if old.protocol != self.recorder.protocol:
                raise ReplayError(
                    f"{self._path(name)} was recorded under another protocol than the collection: "
                    f"{old.protocol.sheet()}; expected {self.recorder.protocol.sheet()}. Collect "
                    "into another folder."
                )
            actions[:, columns] = old.actions[:rows]
        for row in actions:
            if should_stop():
                return False
            self.play.step(row)
        source = self.recorder.source
        for name, old in recorded.items():
            players = dict.fromkeys((*old.source.get("mgdt", "").split(", "), source["mgdt"]))
            source["mgdt"] = ", ".join(filter(None, players))
            new = self.recorder.trace(name)
            whole = len(new.checksums) - 1  # the last is of where the trace ends
            if not np.array_equal(new.checksums[:whole], old.checksums[:whole]):
                raise TraceDivergedError(
                    f"{self._path(name)} does not play as it was recorded: it was recorded "
                    f"with ale-py {old.ale_py}, this is ale-py {new.ale_py}; if they are the same, "
                    "the file is damaged. Collect into another folder."
                )
        try:
            self.learner.load_state_dict(state["learner"])
            self.resume_log(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise unusable_checkpoint(self.output, error) from error
        return True

    @property
    def steps_played(self) -> int:
        """Agent steps so far."""
        return self.learner.steps_played

    def advance(self) -> dict[str, float]:
        """Play up to the next update, and return its figures."""
        return next(self._learning)

    def play_figures(self) -> dict[str, float | None]:
        """Return the number of episodes that have ended and the mean of the last returns."""
        return {"episodes": self.play.episodes, **mean_returns(self.play.returns)}

    def save(self) -> None:
        """Write the traces and the agent, and then a checkpoint that needs the traces."""
        agent = self.learner.agent
        network = agent.model if isinstance(agent, NetworkAgent) else agent.model.policy
        self.check_finite(network.state_dict())
        for name in self.recorder.games:
            self.recorder.trace(name).save(self._path(name), overwrite=True)
        self._save_agent()
        self.save_checkpoint(self.learner.state_dict())

    def _save_agent(self) -> None:
        agent, has_card = self.learner.agent, (self.output / "card.md").exists()
        if isinstance(agent, NetworkAgent):
            agent.save(self.output, None if has_card else self._card())
        else:
            agent.save(self.output)

    def _card(self) -> str:
        it = self.learner
        return card(it.name, it.games, it.steps, it.config, it.protocol, it.card_note)

    def _path(self, name: str) -> Path:
        """Return the file of a game's trace."""
        return self.output / f"{name}.npz"

"""IMPALA over many machines: RLlib's algorithms with the suite's environments and our network.

RLlib's env runners play, each all games at once, and send what they played to its learners, which
send weights back. A run is a folder as `mgdt-train` has it:

- `training.json`: what is trained;
- the agent as of the last checkpoint, which `load_agent` takes by the folder's name;
- `metrics.jsonl`: the learning curve;
- `checkpoint.pt`: the learners' weights and optimizer, from which a run that was stopped resumes.
"""

import logging
import math
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID

from mgdt_agents.actor_critic import ImpalaAgent
from mgdt_agents.devices import resolve_device
from mgdt_agents.online.collection import describe
from mgdt_agents.online.impala import Impala
from mgdt_agents.online.learner import RECENT_EPISODES, mean_returns
from mgdt_agents.online.online_run import (
    OnlineRun,
    card,
    load_checkpoint,
    unusable_checkpoint,
)
from mgdt_agents.online.rllib_config import RETURNS, RLlibConfig, algorithm_config
from mgdt_agents.replay import files
from mgdt_envs import resolve_games
from mgdt_envs.errors import InvalidArgument, OutputExists

DESCRIPTION = "training.json"
FREE_FIELDS = ("env_runners", "learners")
"""Of the config: where a run is computed, which may change when it resumes."""


def train_rllib(
    games: Sequence[str],
    steps: int,
    config: RLlibConfig,
    output: Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    num_threads: int = 0,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Learn games under the default protocol on the Ray cluster this process is connected to.

    Args:
        games: names of the games, which one network learns.
        steps: agent steps of all games together; a few more may be played.
        config: how.
        output: folder of the run. One of the same configuration resumes.
        overwrite: remove what the folder holds, once nothing stands in the way of playing.
        device: where to learn: "cpu", "cuda" for a GPU each learner, or "auto".
        num_threads: emulator threads of each env runner; 0 takes one.
        on_log: called with the figures of about every 10,000 steps.
        should_stop: asked about once a second; where true, what was learned is saved.

    Returns:
        Whether all steps are played.

    Raises:
        ValueError: for fewer environments than games, a cluster that is too small, or a folder in
            which another process learns.
        FileExistsError: if the folder holds another training.
        TrainingError: if its checkpoint is damaged or of another network.
    """
    games = resolve_games(games)
    if config.envs_per_runner < len(games):
        raise InvalidArgument(
            f"envs_per_runner must be at least {len(games)}, one environment a game, got "
            f"{config.envs_per_runner}"
        )
    network = ImpalaAgent.presets[config.size]
    agent = ImpalaAgent(network, games=games, device="cpu")
    description = describe(games, steps, "rllib", config)
    state = None if overwrite else check_folder(output, description)
    if state is not None:
        load_weights(agent, state, output)
        if state["steps_played"] >= steps:
            return True
    played = state["steps_played"] if state else 0
    gpus = gpus_per_learner(device, config.learners)
    check_cluster(config, gpus)
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)  # warns of its own defaults
    made = algorithm_config(config, agent, steps, played, gpus, num_threads).build_algo()
    try:
        # RLlib leaves an empty folder in the user's home.
        shutil.rmtree(made.logdir, ignore_errors=True)
        run = _Run(made, agent, config, steps, output)
        # Only now, so that what is wrong with the arguments leaves no folder.
        with files.exclusive(output, inside=True):
            if overwrite:
                files.clear(output)
            now = check_folder(output, description)
            if (now["steps_played"] if now else 0) != played:
                raise OutputExists(f"Another process has trained in {output}; try again.")
            files.replace(output / DESCRIPTION, files.json_bytes(description))
            if state is not None:
                run.resume(state)
            return run.run(on_log, should_stop)
    finally:
        made.stop()


def check_folder(output: Path, description: dict[str, Any]) -> dict[str, Any] | None:
    """Check that the training of `description` can begin or resume in the folder `output`.

    Returns:
        Its checkpoint, if there is one.

    Raises:
        FileExistsError: if the folder holds another training, saying what differs.
        TrainingError: if the checkpoint is damaged.
    """
    state = load_checkpoint(output)
    if state is None:
        return None
    before = files.read_object(output / DESCRIPTION)
    if found := files.differences(before, description, FREE_FIELDS):
        raise OutputExists(
            f"{output} holds another training: {'; '.join(found)}. Choose another --output, or "
            "give the same arguments to resume it."
        )
    return state


def load_weights(agent: ImpalaAgent, state: dict[str, Any], output: Path) -> None:
    """Give an agent the weights of a checkpoint.

    Raises:
        TrainingError: if they are another network's.
    """
    try:
        agent.model.load_state_dict(_weights(state["learner"]))
    except (KeyError, RuntimeError) as error:
        raise unusable_checkpoint(output, error) from error


def gpus_per_learner(device: str, learners: int) -> int:
    """Return how many GPUs each learner gets: 0 or 1.

    Raises:
        ValueError: for a device that is not there.
    """
    if learners and device == "auto":
        return int(ray.cluster_resources().get("GPU", 0) >= learners)
    if learners and device in ("cpu", "cuda"):
        return int(device == "cuda")
    return int(resolve_device(device).type == "cuda")


def check_cluster(config: RLlibConfig, gpus: int) -> None:
    """Raise `InvalidArgument` if the cluster has not what the processes ask for.

    RLlib would wait for it without a word.
    """
    found = ray.cluster_resources()
    needed = {
        "CPU": config.env_runners + (0 if gpus else config.learners),
        "GPU": config.learners * gpus,
    }
    for kind, number in needed.items():
        if number > found.get(kind, 0):
            raise InvalidArgument(
                f"The Ray cluster has {found.get(kind, 0):g} {kind}s, and {number} are needed for "
                f"{config.env_runners} env runners and {config.learners} learners. Add machines "
                "to it, or ask for fewer."
            )


class _Run(OnlineRun):
    """An algorithm of RLlib, and the folder in which its agent is kept."""

    def __init__(
        self,
        algorithm: Algorithm,
        agent: ImpalaAgent,
        config: RLlibConfig,
        steps: int,
        output: Path,
    ) -> None:
        super().__init__(output, steps)
        self.algorithm, self.agent, self.config = algorithm, agent, config
        self._before = self._played = self.episodes = 0
        self.returns: dict[str, deque[float]] = {
            name: deque(maxlen=RECENT_EPISODES) for name in agent.games
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Give learners and env runners what a checkpoint holds."""
        self._before = self._played = state["steps_played"]
        self.resume_log(state)
        group = self.algorithm.learner_group
        group.set_state({"learner": state["learner"]})
        self.algorithm.env_runner_group.sync_weights(
            from_worker_or_learner_group=group, inference_only=True
        )

    @property
    def steps_played(self) -> int:
        """Agent steps so far."""
        return self._played

    def save(self) -> None:
        """Write the agent, and then a checkpoint."""
        learner = self.algorithm.learner_group.get_state(
            components=["learner/rl_module", "learner/optimizer"]
        )["learner"]
        plain = _plain(learner)
        self.check_finite(_weights(plain))
        self.agent.model.load_state_dict(_weights(plain))
        has_card = (self.output / "card.md").exists()
        self.agent.save(self.output, None if has_card else self._card())
        self.save_checkpoint(plain)

    def advance(self) -> dict[str, float]:
        """Play and learn for about a second; return the figures of the last gradient step."""
        result = self.algorithm.train()
        found = result.get("env_runners", {})
        played = self._before + int(found.get("num_env_steps_sampled_lifetime", 0))
        self._played = max(self._played, played)
        for name, returns in found.get(RETURNS, {}).items():
            if isinstance(returns, list):  # else no episode has ended, and it is NaN
                self.returns[name].extend(returns)
                self.episodes += len(returns)
        learned = result.get("learners", {}).get(DEFAULT_MODULE_ID, {})
        names = {"total_loss": "loss", "entropy": "entropy"}
        figures = {new: float(learned.get(name, math.nan)) for name, new in names.items()}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def play_figures(self) -> dict[str, float | None]:
        """Return how many episodes have ended, the mean of the last returns, and restarts."""
        restarts = self.algorithm.env_runner_group.num_remote_worker_restarts()
        return {
            "episodes": self.episodes,
            "runner_restarts": restarts,
            **mean_returns(self.returns),
        }

    def _card(self) -> str:
        note = f"RLlib's {self.config.algorithm.upper()} ({ray.__version__}). {Impala.card_note}"
        agent = self.agent
        return card(agent.kind, agent.games, self.steps, self.config, agent.protocol, note)


def _weights(learner: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights of the network in a learner's state."""
    prefix = "network."
    weights = learner["rl_module"][DEFAULT_MODULE_ID].items()
    return {
        name.removeprefix(prefix): torch.as_tensor(value)
        for name, value in weights
        if name.startswith(prefix)
    }


def _plain(value: Any) -> Any:
    """Return a learner's state as tensors and plain types, which PyTorch loads without a pickle."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

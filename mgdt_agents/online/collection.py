"""Collect replay: learn a game online and keep every step of it as a trace.

A collection is a folder (of DQN or PPO, see `sb3_collection`, without the checkpoint):

- `collection.json`: game, steps, protocol, learner and its configuration;
- `<Game>.npz`: the trace of the play so far, renewed at each checkpoint;
- `metrics.jsonl`: the learning curve;
- `checkpoint.pt`: the learner, as of the trace's last step or of an earlier one.

A collection that was stopped goes on from its checkpoint. Emulators cannot be saved, so the trace
is played again up to there, which also checks it.
"""

import dataclasses
import json
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from mgdt_agents.errors import ReplayError, TraceDivergedError
from mgdt_agents.online.pqn import PQN, PQNConfig, Rollout
from mgdt_agents.replay.trace import Trace
from mgdt_agents.replay.trace_recorder import TraceRecorder, replace_trace
from mgdt_agents.training.metrics import open_log
from mgdt_envs import MultiGameAtariVectorEnv, game
from mgdt_envs.errors import OutputExists

CHECKPOINT_INTERVAL = 120.0  # seconds
LOG_INTERVAL = 10_000  # agent steps
RECENT_EPISODES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class SB3Config:
    """How stable-baselines3's DQN or PPO plays; else they have rl-baselines3-zoo's settings."""

    num_envs: int = 8
    """Environments played together."""
    buffer_size: int = 100_000
    """Agent steps that DQN's replay buffer holds, 28 kB each."""
    seed: int = 0
    """Of the network, the exploration and the environments."""


def collect(
    name: str,
    steps: int,
    config: PQNConfig,
    output: Path,
    *,
    device: str = "auto",
    num_threads: int = 0,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Let PQN learn a game under the default protocol and record it.

    The learner sees rewards clipped to their sign and a lost life as an end; the trace and the
    metrics keep the game's own.

    Args:
        name: of the game.
        steps: agent steps, rounded up to whole rollouts of all environments.
        config: how PQN learns.
        output: folder of the collection. One of the same configuration goes on.
        device: where to compute.
        num_threads: emulator threads; 0 takes one a core.
        on_log: called with the figures of about every 10,000 steps.
        should_stop: asked between rollouts; where true, what was played is saved.

    Returns:
        Whether all steps are played.

    Raises:
        FileExistsError: if the folder holds something else.
        ReplayError: if the trace to go on from is damaged.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = game(name).name
    description = describe(name, steps, "pqn", config)
    begin_folder(output, description)
    checkpoint = output / "checkpoint.pt"
    state = None
    if checkpoint.exists():
        state = torch.load(checkpoint, device, weights_only=True)
        if state["steps_played"] >= steps:
            return True
    envs = MultiGameAtariVectorEnv(config.num_envs, name, num_threads=num_threads)
    collection = _Collection(TraceRecorder(envs, source_of(description)), config, steps, device)
    try:
        if not collection.start(output, state, should_stop):
            return False
        with open_log(output / "metrics.jsonl", collection.steps_played) as log:
            return collection.run(output, log, on_log, should_stop)
    finally:
        envs.close()


def describe(name: str, steps: int, learner: str, config: Any) -> dict[str, Any]:
    """Return what `collection.json` says of a collection: JSON types."""
    return {
        "game": name,
        "steps": steps,
        "learner": learner,
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
    }


def source_of(description: dict[str, Any]) -> dict[str, Any]:
    """Return the source that the trace of a collection names."""
    return {key: value for key, value in description.items() if key != "game"}


def check_folder(output: Path, description: dict[str, Any]) -> None:
    """Check that the collection of `description` can begin or go on in the folder `output`.

    Raises:
        FileExistsError: if the folder holds something else, or what cannot go on.
    """
    if not output.exists():
        return
    path = output / "collection.json"
    if not path.exists():
        raise OutputExists(
            f"{output} exists and holds no collection to go on with; choose another --output."
        )
    before = json.loads(path.read_text())
    if differing := sorted(key for key in description if description[key] != before.get(key)):
        raise OutputExists(
            f"{output} holds a collection with another {', '.join(differing)}: "
            f"{[before.get(key) for key in differing]}, this one has "
            f"{[description[key] for key in differing]}. Choose another --output."
        )
    if description["learner"] != "pqn":
        raise OutputExists(
            f"{output} holds a collection of {description['learner']}, which cannot go on; "
            "choose another --output or remove it first."
        )


def begin_folder(output: Path, description: dict[str, Any]) -> None:
    """Make the folder of a collection, if it is a new one; see `check_folder`."""
    check_folder(output, description)
    if not output.exists():
        output.mkdir(parents=True)
        (output / "collection.json").write_text(json.dumps(description, indent=2) + "\n")


class _Collection:
    """The play, the learner, and the figures of one collection."""

    def __init__(self, envs: TraceRecorder, config: PQNConfig, steps: int, device: str) -> None:
        self.envs, self.config, self.steps = envs, config, steps
        # Of the full set: those that do something in this game.
        self.actions = np.array(game(envs.game).minimal_actions)
        self.learner = PQN(
            config,
            len(self.actions),
            steps,
            stack=envs.protocol.stack,
            size=envs.protocol.screen_size,
            device=device,
        )
        self.steps_played = 0
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)

    def start(
        self, output: Path, state: dict[str, Any] | None, should_stop: Callable[[], bool]
    ) -> bool:
        """Reset the environments, and bring them and the learner to the checkpoint's `state`.

        Returns:
            False if told to stop on the way.
        """
        self.observations, infos = self.envs.reset(seed=self.config.seed)
        self.lives, self.begins = infos["lives"], np.zeros(self.envs.num_envs, bool)
        if state is None:
            return True
        old = Trace.load(output / f"{self.envs.game}.npz")
        rows = state["steps_played"] // self.envs.num_envs
        if len(old.actions) < rows:
            raise ReplayError(
                f"Expected {rows} steps in the trace of {output}, as its checkpoint says, "
                f"found {len(old.actions)}."
            )
        for actions in old.actions[:rows]:
            if should_stop():
                return False
            self.step(actions)
        new = self.envs.trace()
        whole = len(new.checksums) - 1  # the last is of where the trace ends
        if not np.array_equal(new.checksums[:whole], old.checksums[:whole]):
            raise TraceDivergedError(
                f"The trace of {output} does not play as it was recorded: it was recorded with "
                f"ale-py {old.ale_py}, this is ale-py {new.ale_py}; if they are the same, the file "
                "is damaged. Collect into another folder."
            )
        self.learner.load_state_dict(state["learner"])
        self.steps_played = state["steps_played"]
        return True

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play full-set `actions`; return clipped rewards, ends and time limits."""
        self.observations, rewards, terminated, truncated, infos = self.envs.step(actions)
        lost = (infos["lives"] < self.lives) & ~self.begins
        self.lives, self.begins = infos["lives"], terminated | truncated
        if "episode" in infos:
            self.returns.extend(infos["episode"]["r"][infos["_episode"]])
        return np.sign(rewards), terminated | lost, truncated

    def play_rollout(self) -> Rollout:
        """Play as many steps as an update takes."""
        shape = self.config.rollout_steps, self.envs.num_envs
        stack, height, width = self.observations.shape[1:]
        rollout = Rollout(
            observations=np.empty((*shape, height, width, stack), np.uint8),
            actions=np.empty(shape, np.int64),
            rewards=np.empty(shape, np.float32),
            ends=np.empty(shape, bool),
            cuts=np.empty(shape, bool),
            is_transition=np.empty(shape, bool),
            values=np.empty((shape[0] + 1, shape[1]), np.float32),
        )
        for step in range(shape[0]):
            observations = rollout.observations[step]
            for place in range(stack):  # three times faster than all at once
                observations[..., place] = self.observations[:, place]
            rollout.is_transition[step] = ~self.begins
            actions, rollout.values[step] = self.learner.act(observations, self.steps_played)
            rollout.actions[step] = actions
            (
                rollout.rewards[step],
                rollout.ends[step],
                rollout.cuts[step],
            ) = self.step(self.actions[actions])
            self.steps_played += self.envs.num_envs
        rollout.values[-1] = self.learner.values(np.moveaxis(self.observations, 1, -1))
        return rollout

    def run(
        self,
        output: Path,
        log: TextIO,
        on_log: Callable[[dict[str, Any]], object],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Play and learn to the end, or until told to stop."""
        saved = logged = time.monotonic()
        steps_logged, figures = self.steps_played, []
        while self.steps_played < self.steps and not should_stop():
            figures.append(self.learner.learn(self.play_rollout()))
            now = time.monotonic()
            if self.steps_played - steps_logged >= LOG_INTERVAL or self.steps_played >= self.steps:
                line = {
                    "step": self.steps_played,
                    "episodes": len(self.envs.episodes),
                    "mean_return": float(np.mean(self.returns)) if self.returns else None,
                    "epsilon": round(self.learner.epsilon(self.steps_played), 4),
                    **{key: float(np.mean([f[key] for f in figures])) for key in figures[0]},
                    "steps_per_second": round((self.steps_played - steps_logged) / (now - logged)),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                on_log(line)
                logged, steps_logged, figures = now, self.steps_played, []
            if now - saved >= CHECKPOINT_INTERVAL:
                self.save(output)
                saved = now
        self.save(output)
        return self.steps_played >= self.steps

    def save(self, output: Path) -> None:
        """Write the trace, and then a checkpoint that needs it."""
        replace_trace(self.envs.trace(), output / f"{self.envs.game}.npz")
        state = {"steps_played": self.steps_played, "learner": self.learner.state_dict()}
        torch.save(state, output / "checkpoint.pt.partial")
        os.replace(output / "checkpoint.pt.partial", output / "checkpoint.pt")

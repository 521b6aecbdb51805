"""The play of an agent as a trace."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mgdt_agents.agent import Agent
from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation.benchmark import versions
from mgdt_agents.registry import path_of_agent
from mgdt_agents.replay.files import file_checksum
from mgdt_agents.replay.trace import Trace
from mgdt_agents.replay.trace_recorder import TraceRecorder, software
from mgdt_envs import MultiGameAtariVectorEnv


def record_agent(
    agent: Agent,
    name: str,
    game: str,
    steps: int,
    *,
    num_envs: int = 8,
    seed: int = 0,
    deterministic: bool = False,
    num_threads: int = 0,
    on_step: Callable[[TraceRecorder], object] = lambda envs: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trace:
    """Let an agent play a game under the rules it was trained under, and return the play.

    The play is a function of the agent, the seed and the number of environments.

    Args:
        agent: who plays.
        name: what the trace's source calls the agent.
        game: name of the game.
        steps: agent steps, rounded up to whole steps of all environments.
        num_envs: environments played together.
        seed: of the first environment, the next has `seed + 1`, and of the agent's draws.
        deterministic: handed to `predict`.
        num_threads: emulator threads; 0 takes one a core. The play does not depend on it.
        on_step: called with the environments after each step, for a progress bar.
        should_stop: asked before each step; where true, the trace is what was played.

    Raises:
        ValueError: if the agent's protocol has JPEG, which no trace can hold.

    Example:
        >>> from mgdt_agents import load_agent
        >>> trace = record_agent(load_agent("random"), "random", "Pong", 20, num_envs=2)
        >>> trace.actions.shape
        (10, 2)
    """
    source = _source(name, seed, deterministic)
    played = MultiGameAtariVectorEnv(num_envs, game, agent.known_protocol(), num_threads)
    envs = TraceRecorder(played, source)
    try:
        agent.set_random_seed(seed)
        observations, _ = envs.reset(seed=seed)
        state, rewards = None, np.zeros(num_envs)
        begins, ended = np.ones(num_envs, bool), np.zeros(num_envs, bool)
        while len(envs.actions) * num_envs < steps and not should_stop():
            actions, state = agent.predict(
                observations, state, begins, deterministic, reward=rewards, game=game
            )
            # After an end, the next step only begins an episode, which is seen the step after.
            begins = ended
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            ended = terminated | truncated
            on_step(envs)
        return envs.trace()
    finally:
        envs.close()


def is_recorded(
    path: Path, name: str, game: str, steps: int, *, num_envs: int, seed: int, deterministic: bool
) -> bool:
    """Return whether a file is the trace that `record_agent` makes of these arguments."""
    try:
        trace = Trace.load(path)
    except ReplayError:
        return False
    shape = (-(-steps // num_envs), num_envs)
    source = {**_source(name, seed, deterministic), "mgdt": software()}
    return (trace.game, trace.actions.shape, trace.source) == (game, shape, source)


def _source(name: str, seed: int, deterministic: bool) -> dict[str, Any]:
    """Return what a trace says of who played, JSON types."""
    names = ("", "config.json", "model.safetensors", "model.zip")
    folder = path_of_agent(name)
    files = [path for path in map(folder.joinpath, names) if path.is_file()] if folder else []
    source = {
        "agent": name,
        "seed": seed,
        "deterministic": deterministic,
        "versions": versions(),
    }
    if files:
        source["agent_checksums"] = {path.name: file_checksum(path) for path in files}
    return source

"""Recorded play that several tests share: a trace, its store, and stores of made-up play."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import numpy as np
import pytest
from ale_py import AtariVectorEnv

from mgdt_agents.online.collection import collect
from mgdt_agents.online.sb3_learner import DQNLearnerConfig
from mgdt_agents.replay import ReplayWriter, Trace, expand
from mgdt_envs import AtariProtocol

# What Breakout's emulator takes for full-set ids; 17 is outside its actions and means NOOP.
BREAKOUT_INDEX = {0: 0, 1: 1, 3: 2, 4: 3, 17: 0}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for runs that have every package that tests need."""
    parser.addoption(
        "--packages-required",
        action="store_true",
        help="fail where a test would be skipped for a missing package",
    )


def _require_package(config: pytest.Config, report: Any) -> Any:
    # The words of pytest.importorskip, and of tests of pages.
    if report.skipped and config.getoption("--packages-required"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "could not import" in reason or "no Chromium" in reason:
            report.outcome = "failed"
            report.longrepr = f"A package is missing: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Fail modules that a missing package would skip, if packages are required."""
    return _require_package(collector.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Fail tests that a missing package would skip, if packages are required."""
    return _require_package(item.config, (yield))


class Episode(NamedTuple):
    """The truth about T steps."""

    frames: np.ndarray
    """`(T, height, width)` uint8, before each action."""
    actions: np.ndarray
    """`(T,)` full-set ids."""
    rewards: np.ndarray
    """`(T,)`."""
    truncated: bool


class Recording(NamedTuple):
    """A trace, and what the loop that recorded it saw."""

    trace: Trace
    episodes: list[Episode]
    """The finished ones, in the order in which they ended."""


def record_breakout(num_steps: int, max_frames: int = 108_000) -> Recording:
    """Play two environments of Breakout at random, by ale-py alone."""
    seeds = np.array([7, 3])
    envs = AtariVectorEnv(
        "breakout",
        len(seeds),
        repeat_action_probability=0.25,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
        max_num_frames_per_episode=max_frames,
    )
    random = np.random.default_rng(0)
    actions = random.choice(list(BREAKOUT_INDEX), size=(num_steps, len(seeds))).astype(np.uint8)
    observations, _ = envs.reset(seed=seeds)
    checksums, ends, episodes = [], [], []

    def checksum(number: int) -> int:
        since = max(number - 1, 0) // 20 * 20
        newest = zlib.crc32(observations[:, -1].tobytes())
        return zlib.crc32(actions[since:number].tobytes(), newest)

    steps: list[list[tuple]] = [[] for _ in seeds]
    begins = np.zeros(len(seeds), bool)
    for number, row in enumerate(actions):
        frames = observations[:, -1].copy()
        if number % 20 == 0:
            checksums.append(checksum(number))
        observations, rewards, terminated, truncated, _ = envs.step(
            np.array([BREAKOUT_INDEX[action] for action in row])
        )
        for env in range(len(seeds)):
            if not begins[env]:  # else the action was ignored, the step only began an episode
                steps[env].append((frames[env], row[env], rewards[env]))
            if terminated[env] or truncated[env]:
                shown, done, brought = map(np.array, zip(*steps[env], strict=True))
                episodes.append(Episode(shown, done, brought, bool(truncated[env])))
                ends.append((number, env, episodes[-1].rewards.sum()))
                steps[env] = []
        begins = terminated | truncated
    checksums.append(checksum(num_steps))
    end_step, end_env, end_return = zip(*ends, strict=True)
    trace = Trace(
        game="Breakout",
        protocol=AtariProtocol(max_frames=max_frames),
        seeds=seeds,
        actions=actions,
        checksums=np.array(checksums, np.uint32),
        episode_end_step=np.array(end_step, np.int32),
        episode_env=np.array(end_env, np.int16),
        episode_return=np.array(end_return, np.float32),
        ale_py=ale_py.__version__,
        source={"policy": "random"},
    )
    return Recording(trace, episodes)


@pytest.fixture(scope="session")
def recording() -> Recording:
    """Whole games of Breakout; the last of each environment is not finished."""
    return record_breakout(1100)


@pytest.fixture(scope="session")
def truncated_recording() -> Recording:
    """Games of Breakout of which a time limit ends some after 50 steps."""
    return record_breakout(270, max_frames=200)


@pytest.fixture(scope="session")
def breakout_store(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the store expanded from `recording`."""
    path = tmp_path_factory.mktemp("replay") / "Breakout"
    expand(recording.trace, path, num_threads=1)
    return path


def random_episodes(lengths: Sequence[int], side: int = 84, seed: int = 0) -> list[Episode]:
    """Return episodes of noise whose pixels [0, :4] are the number of the row, as bytes.

    Every second one is truncated. Rewards are whole numbers in -3..4.
    """
    random = np.random.default_rng(seed)
    episodes = []
    first = 0
    for number, length in enumerate(lengths):
        frames = random.integers(256, size=(length, side, side)).astype(np.uint8)
        rows = np.arange(first, first + length, dtype="<u4")
        frames[:, 0, :4] = rows.view(np.uint8).reshape(-1, 4)
        rewards = random.integers(-3, 5, size=length).astype(np.float64)
        actions = random.integers(18, size=length)
        episodes.append(Episode(frames, actions, rewards, number % 2 == 1))
        first += length
    return episodes


def readable_episodes(num_episodes: int, length: int, seed: int = 0) -> list[Episode]:
    """Return episodes whose action is the place of a white bar in the frame, of four places."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        actions = random.integers(4, size=length)
        frames = np.zeros((length, 84, 84), np.uint8)
        for frame, action in zip(frames, actions, strict=True):
            frame[20 * action : 20 * action + 20] = 255
        rewards = (random.random(length) < 0.1).astype(np.float64)
        episodes.append(Episode(frames, actions, rewards, False))
    return episodes


def write_episodes(path: Path, game: str, episodes: Sequence[Episode], **protocol: Any) -> Path:
    """Write a store of `episodes` whose protocol differs from the default in `protocol`."""
    with ReplayWriter(path, game, AtariProtocol(**protocol), {"kind": "test"}) as writer:
        for episode in episodes:
            writer.add_episode(
                episode.frames, episode.actions, episode.rewards, truncated=episode.truncated
            )
    return path


# Tests cannot import this file (pytest's importlib mode), so its functions are fixtures too.


@pytest.fixture(scope="session")
def make_random_episodes() -> Callable[..., list[Episode]]:
    """`random_episodes`."""
    return random_episodes


@pytest.fixture(scope="session")
def write_store() -> Callable[..., Path]:
    """`write_episodes`."""
    return write_episodes


@pytest.fixture(scope="session")
def readable_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store called Pong in which each frame shows its action."""
    path = tmp_path_factory.mktemp("replay") / "Pong"
    return write_episodes(path, "Pong", readable_episodes(4, 60))


@pytest.fixture(scope="session")
def dqn_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a DQN that was trained on Breakout for a moment."""
    output = tmp_path_factory.mktemp("dqn") / "run"
    config = DQNLearnerConfig(num_envs=2, buffer_size=200, learning_starts=60)
    collect("dqn", ["Breakout"], 120, config, output, device="cpu", num_threads=1)
    return output / "model.zip"


@pytest.fixture
def edit_meta() -> Callable[..., None]:
    """A function that changes fields of a store's `meta.json`; None removes one."""

    def edit(store: Path, **fields: object) -> None:
        meta = json.loads((store / "meta.json").read_text()) | fields
        meta = {name: value for name, value in meta.items() if value is not None}
        (store / "meta.json").write_text(json.dumps(meta))

    return edit

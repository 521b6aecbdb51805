"""A writer of DQN Replay's files that knows what really happened, and what reads them."""

import gzip
import io
import itertools
from pathlib import Path

import numpy as np

from mgdt_agents.replay.formats.dqn_replay import DQNReplayRun
from mgdt_envs import AtariProtocol, game

DATA = Path(__file__).parents[3] / "data" / "dqn_replay"
DATA_PROTOCOL = AtariProtocol(max_frames=4 * 60)
PONG_ACTIONS = np.array(game("Pong").minimal_actions)
CAPACITY = 50
SIDE = 8
PROTOCOL = AtariProtocol(screen_size=SIDE, max_frames=4 * 40)


class RingWriter:
    """Dopamine's ring of rows, logged to files as batch_rl does; what really happened beside it."""

    def __init__(self, source, capacity=CAPACITY, game="Pong", run=1):
        self.folder = source / game / str(run) / "replay_logs"
        self.folder.mkdir(parents=True)
        self.capacity, self.add_count, self.log_count = capacity, 0, 0
        self.random = np.random.default_rng(0)
        # The first file's last row is memory that was never written to.
        self.columns = {
            "observation": np.full((capacity, SIDE, SIDE), 7, np.uint8),
            "action": np.full(capacity, 1948279909, np.int32),
            "reward": np.full(capacity, np.nan, np.float32),
            "terminal": np.full(capacity, 32, np.uint8),
        }
        self.episodes = []

    def play(self, length, *, ends=True, num_black=0):
        """Play an episode that begins with black frames, to which action 0 brings no reward."""
        frames = self.random.integers(256, size=(length, SIDE, SIDE)).astype(np.uint8)
        actions = self.random.integers(6, size=length).astype(np.int32)
        rewards = self.random.integers(-1, 2, size=length).astype(np.float32)
        frames[:num_black], actions[:num_black], rewards[:num_black] = 0, 0, 0
        for _ in range(3):
            self._add(0, 0, 0, 0)
        rows = range(self.add_count, self.add_count + length)
        for step in range(length):
            self._add(frames[step], actions[step], rewards[step], ends and step == length - 1)
            if self.add_count % self.capacity == self.capacity - 1:
                self.log()
        if ends:
            self.episodes.append((rows, frames, PONG_ACTIONS[actions], rewards))

    def play_to(self, row, length=10):
        """Play short episodes of which the last ends in a row of the run, and may lose a pass."""
        while self.add_count + 2 * length + 10 <= row:
            end = (self.add_count + 3 + length - 1) % self.capacity
            loses_pass = self.capacity - 5 <= end <= self.capacity - 3
            self.play(length + 3 * loses_pass)
        self.play(row + 1 - self.add_count - 3)

    def log(self, add_count=None):
        contents = {f"$store$_{name}": column for name, column in self.columns.items()}
        contents["add_count"] = np.array(self.add_count if add_count is None else add_count)
        for name, content in contents.items():
            save(self.folder / f"{name}_ckpt.{self.log_count}.gz", content)
        self.log_count += 1

    def log_final(self):
        self.log(self.add_count % self.capacity)

    def restart(self):
        self.log_count = self.add_count // self.capacity

    def _add(self, *row):
        for column, value in zip(self.columns.values(), row, strict=True):
            column[self.add_count % self.capacity] = value
        self.add_count += 1

    def without_rows(self, *lost):
        """Return the episodes that have none of the rows, given as ranges."""
        lost = set(itertools.chain(*lost))
        return [episode for episode in self.episodes if lost.isdisjoint(episode[0])]


def save(path, array):
    with gzip.open(path, "wb") as file:
        np.save(file, array)


def load(path):
    with gzip.open(path) as file:
        return np.load(io.BytesIO(file.read()))


def of_pass(number):
    """Rows that are not in the files if none was logged in this pass."""
    return range(number * CAPACITY, (number + 1) * CAPACITY - 1)


def open_run(source, tmp_path, **arguments):
    arguments = {"game": "Pong", "run": 1, "protocol": PROTOCOL} | arguments
    return DQNReplayRun(str(source), downloads=tmp_path / "downloads", **arguments)


def read(source, tmp_path, start=None, **arguments):
    """Return copies of the episodes, and the positions behind them."""
    episodes = open_run(source, tmp_path, **arguments).episodes(start)
    found = [
        (tuple(map(np.copy, episode[:3])), episode.truncated, behind)
        for episode, behind in episodes
    ]
    return [entry[0] for entry in found], [entry[2] for entry in found]


def assert_equal_episodes(found, expected):
    assert [len(actions) for _, actions, _ in found] == [len(episode[0]) for episode in expected]
    for episode, (_, *truth) in zip(found, expected, strict=True):
        for column, true_column in zip(episode, truth, strict=True):
            assert np.array_equal(column, true_column)


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

"""Videos."""

import itertools
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mgdt_agents import load_agent
from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation import videos
from mgdt_agents.evaluation.rollout import rollout
from mgdt_agents.evaluation.videos import record_episode, write_video
from mgdt_envs import AtariProtocol, MultiGameAtariEnv


def test_pictures_come_back(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    shades = [20, 90, 160, 230] * 5
    pictures = [np.full((65, 48, 3), shade, np.uint8) for shade in shades]
    path = tmp_path / "play.mp4"
    assert write_video(path, iter(pictures), 15) == 20
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == 15
    found = []
    while (read := video.read())[0]:
        found.append(read[1])
    assert [picture.shape for picture in found] == [(64, 48, 3)] * 20
    assert np.abs([p.mean() - shade for p, shade in zip(found, shades, strict=True)]).max() < 8
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing(tmp_path):
    pytest.importorskip("imageio_ffmpeg")

    def pictures():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("the emulator failed")

    path = tmp_path / "play.mp4"
    path.write_bytes(b"the user's")
    with pytest.raises(RuntimeError, match="the emulator failed"):
        write_video(path, pictures(), 15)
    with pytest.raises(ValueError, match="at least one picture"):
        write_video(path, iter(()), 15)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"the user's"]


def written_until(number, seen, cut):
    """Return a stand-in for imageio-ffmpeg whose disk is full after so many pictures."""

    def write_frames(path, *_arguments, **_options):
        path.write_bytes(b"moov")
        for count in itertools.count():
            try:
                yield
            except GeneratorExit:
                return
            if count == number:
                raise OSError("[Errno 32] Broken pipe\n\nFFMPEG COMMAND: ffmpeg -y")

    def count_frames_and_secs(path):
        seen.append(path.read_bytes())
        if cut is None:
            raise RuntimeError("FFMPEG call failed with 1: moov atom not found")
        return cut, cut / 15

    return SimpleNamespace(write_frames=write_frames, count_frames_and_secs=count_frames_and_secs)


@pytest.mark.parametrize(
    ("number", "cut", "reason"),
    [(2, None, "ended after 2 pictures"), (9, None, "does not play"), (9, 3, "wrote 3 of 4 pic")],
)
def test_a_disk_that_fills_loses_no_recording(tmp_path, monkeypatch, number, cut, reason):
    seen = []
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", written_until(number, seen, cut))
    path = tmp_path / "play.mp4"
    path.write_bytes(b"the user's")
    with pytest.raises(ReplayError, match=rf"play\.mp4, perhaps for want of space.*{reason}") as it:
        write_video(path, [np.zeros((64, 64, 3), np.uint8)] * 4, 15)
    assert "COMMAND" not in str(it.value)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"the user's"]
    assert seen == [b"moov"] * (number == 9)


def test_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"end in \.mp4, got .*play\.gif"):
        write_video(tmp_path / "play.gif", iter(()), 15)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"pip install 'mgdt\[video\]'"):
        write_video(tmp_path / "videos" / "play.mp4", iter(()), 15)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["random", "bc"])
def test_the_episode_is_the_benchmark_s(name, tmp_path, monkeypatch):
    agent = load_agent(name, device="cpu")
    rules = AtariProtocol(max_frames=160)
    expected = [
        int(step.actions[row])
        for step in rollout(agent, ["Pong", "Breakout"], episodes=2, seed=5, protocol=rules)
        for row in range(len(step.actions))
        if (step.games[row], step.seeds[row]) == ("Breakout", 6)
    ]
    pictures, actions = [], []
    taken = MultiGameAtariEnv.step

    def step(env, action):
        actions.append(action)
        return taken(env, action)

    monkeypatch.setattr(MultiGameAtariEnv, "step", step)
    monkeypatch.setattr(videos, "write_video", lambda path, screens, pace: pictures.extend(screens))
    record_episode(tmp_path, agent, "Breakout", protocol=rules, seed=6, seconds=60)
    assert actions == expected
    assert [picture.shape for picture in pictures] == [(210, 160, 3)] * len(expected)

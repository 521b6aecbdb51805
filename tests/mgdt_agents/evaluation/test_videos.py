"""Videos."""

import sys

import cv2
import numpy as np
import pytest

from mgdt_agents.evaluation.videos import write_video


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


def test_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"end in \.mp4, got .*play\.gif"):
        write_video(tmp_path / "play.gif", iter(()), 15)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"pip install 'mgdt\[video\]'"):
        write_video(tmp_path / "play.mp4", iter(()), 15)

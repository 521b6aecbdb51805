"""mgdt-play: what it records, opens and refuses."""

import sys

import cv2
import pytest

from mgdt_cli import play


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mgdt-play", *map(str, arguments)])
        play.main()

    return run


def test_record(run, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "wall.mp4"
    run("--agent", "dt", "--games", "Pong,Breakout", "--record", path, "--seconds", 1, "--scale", 1)
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == video.get(cv2.CAP_PROP_FPS) == 15
    pictures = []
    while (read := video.read())[0]:
        pictures.append(read[1])
    assert pictures[0].shape[0] > 210
    assert pictures[0].shape[1] > 320
    # Something moves.
    assert (pictures[0].astype(int) - pictures[-1]).any()
    assert [entry.name for entry in tmp_path.iterdir()] == ["wall.mp4"]


def test_a_recording_is_not_overwritten(refused, tmp_path):
    path = tmp_path / "wall.mp4"
    path.write_bytes(b"mine")
    message = refused("--record", path)
    assert "wall.mp4 exists; choose another --record or add --overwrite." in message
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record", "a.mp4", "--web"], "Expected --record or --web, got both."),
        (["--record", "a.gif", "--games", "Pong"], "end in .mp4, got a.gif"),
        (["--record", "pyproject.toml/a.mp4"], "Cannot write pyproject.toml/a.mp4"),
        (["--games", "Pang"], "Unknown game or suite 'Pang'"),
        (["--agent", "nobody"], "Unknown agent 'nobody'"),
        (["--port", "-1", "--web"], "--port must be at least 0, got -1"),
        (["--port", "65536", "--web"], "--port must be at most 65535, got 65536"),
        (["--seconds", "0"], "--seconds must be at least 0.1, got 0.0"),
        (["--seconds", "nan"], "--seconds must be at least 0.1, got nan"),
        (["--seconds", "inf"], "--seconds must be finite, got inf"),
    ],
)
def test_bad_arguments(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize("driver", ["x11", None])
def test_no_display(refused, monkeypatch, driver):
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if driver:
        # A driver that needs a display, whatever the machine has.
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    message = refused("--games", "Pong", "--agent", "random")
    assert "No window can be opened here" in message
    assert "--record" in message

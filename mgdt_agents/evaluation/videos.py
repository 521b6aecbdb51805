"""Videos that browsers play."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from mgdt_agents.agent import Agent
from mgdt_agents.errors import ReplayError
from mgdt_agents.evaluation.rollout import play
from mgdt_agents.replay.files import naming
from mgdt_envs import AtariProtocol, MultiGameAtariEnv
from mgdt_envs.errors import InvalidArgument, importing


def record_episode(
    path: Path,
    agent: Agent,
    game: str,
    *,
    protocol: AtariProtocol,
    seed: int,
    seconds: float,
    deterministic: bool = False,
    on_step: Callable[[], object] = lambda: None,
) -> None:
    """Write the beginning of an episode as a video, in color and at the console's pace.

    It is the very episode that the benchmark plays: it plays this one, and the screens are of an
    environment beside it.

    Args:
        path: of the .mp4 file.
        agent: who plays.
        game: name of a game.
        protocol: the rules.
        seed: of the episode.
        seconds: length of the video, if the episode does not end before.
        deterministic: handed to `predict`.
        on_step: called after each step, for a progress bar.

    Raises:
        ValueError: as `write_video`.
        MissingExtra: if imageio-ffmpeg is not installed.
    """
    env = MultiGameAtariEnv(game, protocol, render_mode="rgb_array")

    def screens() -> Iterator[np.ndarray]:
        env.reset(seed=seed)
        steps = play(agent, [(game, seed)], protocol=protocol, deterministic=deterministic)
        for step in itertools.islice(steps, round(seconds * protocol.steps_per_second)):
            screen = env.render()
            assert screen is not None, "render_mode is rgb_array"
            yield screen
            env.step(int(step.actions[0]))
            on_step()

    try:
        write_video(path, screens(), protocol.steps_per_second)
    finally:
        env.close()


def check_video(path: Path) -> None:
    """Make the folder of a video, if it can be written there.

    Raises:
        ValueError: for another ending than .mp4, a folder of that name, or a place where nothing
            can be written.
        MissingExtra: if imageio-ffmpeg is not installed.
    """
    if path.suffix != ".mp4" or path.is_dir():
        raise InvalidArgument(f"Expected the name of a video to end in .mp4, got {path}.")
    with importing("Videos need imageio-ffmpeg", "video"):
        import imageio_ffmpeg  # noqa: F401
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_video(path: Path, pictures: Iterable[np.ndarray], pictures_per_second: float) -> int:
    """Write `pictures` as H.264 in an MP4 file, which appears when it is whole.

    Args:
        path: must end in .mp4; an existing file is replaced.
        pictures: `(height, width, 3)` uint8, all of one size; an odd side loses a line.
        pictures_per_second: at which it is to be shown.

    Returns:
        The number of pictures.

    Raises:
        ValueError: for another ending, a place where nothing can be written, a disk that fills, or
            no pictures.
        MissingExtra: if imageio-ffmpeg is not installed.
    """
    check_video(path)
    import imageio_ffmpeg

    partial = path.with_suffix(".partial.mp4")
    writer = None
    count = 0
    try:
        for picture in pictures:
            picture = picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]
            if writer is None:
                height, width, _ = picture.shape
                writer = imageio_ffmpeg.write_frames(
                    partial,
                    (width, height),
                    fps=pictures_per_second,
                    macro_block_size=2,
                    quality=6,  # of 0 to 10; more makes larger files
                    ffmpeg_log_level="error",
                )
                writer.send(None)
            try:
                writer.send(np.ascontiguousarray(picture))
            except OSError as error:  # whose message is the command of ffmpeg
                raise _failure(path, f"it ended after {count} pictures") from error
            count += 1
        if writer is None:
            raise InvalidArgument(f"Expected at least one picture for {path}, got none.")
        writer.close()
        # The writer does not say whether ffmpeg could write the end, without which nothing plays.
        try:
            written, _ = imageio_ffmpeg.count_frames_and_secs(partial)
        except RuntimeError as error:
            raise _failure(path, "what it wrote does not play") from error
        if written != count:
            raise _failure(path, f"it wrote {written} of {count} pictures")
        partial.replace(path)
    finally:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)
    return count


def _failure(path: Path, what: str) -> ReplayError:
    """Return the error of a video that ffmpeg, which tells the reason on stderr, did not write."""
    return ReplayError(
        f"Cannot write {path}, perhaps for want of space: ffmpeg says why above; {what}."
    )

"""Pictures as a video that browsers play."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mgdt_envs.errors import InvalidArgument, MissingExtra


def write_video(path: Path, pictures: Iterable[np.ndarray], pictures_per_second: float) -> int:
    """Write `pictures` as H.264 in an MP4 file, which appears when it is whole.

    Args:
        path: must end in .mp4; an existing file is replaced.
        pictures: `(height, width, 3)` uint8, all of one size; an odd side loses a line.
        pictures_per_second: at which it is to be shown.

    Returns:
        The number of pictures.

    Raises:
        ValueError: for another ending, or no pictures.
        MissingExtra: if imageio-ffmpeg is not installed.
    """
    if path.suffix != ".mp4":
        raise InvalidArgument(f"Expected the name of a video to end in .mp4, got {path}.")
    try:
        import imageio_ffmpeg
    except ImportError:
        raise MissingExtra("Videos need imageio-ffmpeg: pip install 'mgdt[video]'.") from None
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
                    quality=7,  # of 10
                    ffmpeg_log_level="error",
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(picture))
            count += 1
        if writer is None:
            raise InvalidArgument(f"Expected at least one picture for {path}, got none.")
        writer.close()
        partial.replace(path)
    finally:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)
    return count

"""Minari, which is an extra: whether it is there, and the ids of its data sets."""

import re
from pathlib import Path
from typing import Any

from mgdt_envs.errors import InvalidArgument, MissingExtra


def minari_library() -> Any:
    """Return the module `minari`, with what it needs to read and write files.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import h5py  # noqa: F401
        import minari
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"Minari data sets need Python 3.11 or newer and pip install 'mgdt[minari]': {error}."
        ) from error
    return minari


def dataset_path(dataset_id: str) -> Path:
    """Return the folder that Minari has or would have for a data set on this machine.

    Raises:
        ValueError: if the id is not as Minari's are.
        ReplayError: if Minari is not installed.
    """
    # Minari's own check fails without words where the version is missing.
    if not re.fullmatch(r"(?:\w[-\w]*/)*\w[-\w]*-v\d+", dataset_id):
        raise InvalidArgument(
            "Expected the id of a Minari data set, with a version at its end, such as "
            f"atari/pong/expert-v0, got {dataset_id!r}."
        )
    minari_library()
    from minari.storage import get_dataset_path

    return Path(get_dataset_path(dataset_id))

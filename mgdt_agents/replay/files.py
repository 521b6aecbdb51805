"""Files that survive what may happen while they are written."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mgdt_agents.errors import ReplayError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a failure to write, such as a full disk, into a `ReplayError` that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter by blosc2, which does not say why
        raise ReplayError(f"Cannot write {path}, perhaps for want of space: {error}") from error


def sync(file: BinaryIO, path: Path) -> None:
    """Write what Python and the system still buffer of a file."""
    with naming(path):
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: whatever happens, it is the old one or the new one."""
    new = path.with_name(path.name + ".new")
    with naming(path), new.open("wb") as file:
        file.write(content)
        sync(file, path)
    new.replace(path)


def open_after(path: Path, size: int) -> BinaryIO:
    """Open a file to write on after its first `size` bytes; what it has beyond them is cut off.

    Raises:
        ReplayError: if it has fewer.
    """
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise ReplayError(
            f"Expected at least {size} bytes in {path}, found {found}: it is damaged."
        )
    with naming(path):
        file = path.open("r+b" if size else "wb")
        file.truncate(size)
        file.seek(size)
    return file


def close(file: BinaryIO) -> None:
    """Close a file, however full the disk: what was not synced does not count."""
    with suppress(OSError):
        file.close()


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read a megabyte at a time."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum

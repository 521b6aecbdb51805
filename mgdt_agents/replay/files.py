"""Files that survive what may happen while they are written."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from mgdt_agents.errors import ReplayError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a failure to write, such as a full disk, into a `ReplayError` that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter by blosc2, which does not say why
        raise ReplayError(f"Cannot write {path}, perhaps for want of space: {error}") from error


@contextmanager
def reading(what: str, num_bytes: int) -> Iterator[None]:
    """Turn a want of memory into a `ReplayError` that says what wanted how much."""
    try:
        yield
    except MemoryError as error:
        raise ReplayError(
            f"There is no memory for {what}, which asks for {num_bytes:,} bytes. It is damaged, "
            "or made for a larger machine."
        ) from error


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other writers away from `path`, by a file `<path>.lock` beside it.

    Raises:
        ReplayError: if another writer is at it.
    """
    lock_path = path.with_name(path.name + ".lock")
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ReplayError(f"{path} is being written by another writer.") from None
        if not lock_path.exists():  # a writer that ended removed what was just locked
            lock.release()
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows, where the release does it
            lock_path.unlink()
        lock.release()


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

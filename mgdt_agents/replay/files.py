"""Files: written in one step, read with checks, and named in errors."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from mgdt_agents.errors import ReplayError
from mgdt_envs.errors import InvalidArgument


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a failure to write, such as a full disk, into a `ReplayError` that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # A RuntimeError, of blosc2 or torch, does not say why.
        full = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
        reason = ", perhaps for want of space" if full else ""
        raise ReplayError(f"Cannot write {path}{reason}: {error}") from error


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in; one that is there stays as it is.

    Raises:
        ReplayError: if it cannot be made, as where a file has its name.
    """
    try:
        with naming(path):
            path.mkdir(parents=True, exist_ok=True)
    except ReplayError as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise ReplayError(
                f"Expected a folder at {path}, or nothing, and it or one above it is a file; "
                "choose another name."
            ) from None
        raise


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


def real(path: Path) -> Path:
    """Return where a folder is under its own name: not a link to it, nor `.` or `..`."""
    return path.resolve() if path.is_symlink() or path.name in ("", "..") else path


def beside(path: Path, ending: str) -> Path:
    """Return the path beside `path`, wherever that really is, whose name has an ending more."""
    path = real(path)
    return path.parent / (path.name + ending)  # with_name refuses a path without a name, /


LOCK = ".lock"
"""Name of the file in a folder, or the end of its name beside a file, that keeps others away."""


@contextmanager
def exclusive(path: Path, *, inside: bool = False) -> Iterator[None]:
    """Keep other writers away from `path`, by a file `<path>.lock` beside it.

    Args:
        path: a file or a folder, which need not be there.
        inside: `path` is a folder to which the file belongs: `<path>/.lock`.

    Raises:
        ReplayError: if another writer is at it, or nothing can be written there.
    """
    lock_path = path / LOCK if inside else beside(path, LOCK)
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock_path.touch()
    except OSError as error:
        raise ReplayError(
            f"Cannot write to {path}: {error.strerror}. Choose another place."
        ) from error
    lock = FileLock(lock_path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ReplayError(
                f"{path} is being written by another writer; wait for it, or choose another place."
            ) from None
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


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield where to write what replaces a file: whatever happens, it is the old or the new one.

    Raises:
        ReplayError: naming the file, if it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        with naming(path):
            yield new
            with new.open("r+b") as file:
                os.fsync(file.fileno())
            new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    with written(path) as new:
        new.write_bytes(content)


def is_left_over(path: Path) -> bool:
    """Return whether a file is what a killed process has not finished, or its lock."""
    return path.is_file() and (path.name == LOCK or path.suffix in (".new", ".partial"))


def remove_left_overs(folder: Path) -> None:
    """Remove what killed processes left in a folder that this one holds."""
    for path in folder.iterdir():
        if is_left_over(path) and path.name != LOCK:
            path.unlink()


def clear(folder: Path) -> None:
    """Remove all that is in a folder but its lock."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def json_bytes(content: Any, indent: int = 2) -> bytes:
    """Return JSON types as the content of a file."""
    return (json.dumps(content, indent=indent) + "\n").encode()


def check_json(content: Any, what: str) -> Any:
    """Return JSON types as a file gives them back, before work that would be lost with them.

    Keys of an object are texts there, and what was a tuple is a list.

    Raises:
        ValueError: if `content` is anything else.
    """
    try:
        return json.loads(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"Expected JSON types as {what}, got {content!r:.200}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError: if there is no such file.
        ReplayError: if it holds anything else.
    """
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise ReplayError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ReplayError(f"Expected an object in {path}, found {content!r:.100}.")
    return content


def differences(
    before: dict[str, Any], now: dict[str, Any], free: Collection[str] = ()
) -> list[str]:
    """Return which fields of a description are not what they were, with both values.

    Those that are `free` may be otherwise.
    """
    flat = []
    for description in (before, now):
        fields = dict(description)
        if isinstance(fields.get("config"), dict):
            fields |= fields.pop("config")
        flat.append(fields)
    return [
        f"{name} was {flat[0].get(name)}, is {flat[1].get(name)}"
        for name in dict.fromkeys((*flat[1], *flat[0]))
        if flat[0].get(name) != flat[1].get(name) and name not in free
    ]


def read_json(path: Path, file_format: str, version: int) -> dict[str, Any] | None:
    """Return the content of a JSON file that says its `format` and `version`.

    Returns:
        None if there is no such file.

    Raises:
        ReplayError: if it is not JSON, or of another format or version.
    """
    try:
        fields = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = fields.get("format"), fields.get("version")
    if found != (file_format, version):
        newer = found[0] == file_format and isinstance(found[1], int) and found[1] > version
        raise ReplayError(
            f"Expected {file_format} version {version} in {path}, found {found[0]} version "
            f"{found[1]}.{' Update mgdt to read it.' if newer else ''}"
        )
    return fields


def check_fields(fields: Mapping[str, Any], kinds: Mapping[str, type], path: Path) -> None:
    """Check that fields of JSON are there, and of the right types.

    Raises:
        ReplayError: naming `path` and those that are not.
    """
    if missing := set(kinds) - set(fields):
        raise ReplayError(f"{path} lacks {sorted(missing)}.")
    for name, kind in kinds.items():
        # JSON's true and false are no numbers.
        if type(fields[name]) is not kind or (kind is int and fields[name] < 0):
            raise ReplayError(
                f"Expected {name} in {path} to be {_JSON_NAMES[kind]}, found {fields[name]!r}."
            )


_JSON_NAMES = {str: "a text", int: "a number of at least 0", dict: "an object", list: "a list"}


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

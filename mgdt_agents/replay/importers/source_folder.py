"""Folders that are imported from, here or in a bucket."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mgdt_agents.errors import ReplayError
from mgdt_envs.errors import InvalidArgument, MissingExtra

COPY_BYTES = 1 << 24  # at a time


def find_source(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that a path or an address is on, and its path there.

    Raises:
        MissingExtra: if the library for such addresses is not installed.
    """
    # Else gcsfs asks again and again whether the bucket is of an experimental kind, and warns.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        filesystem, root = fsspec.core.url_to_fs(source)
    except ImportError as error:
        raise MissingExtra(
            f"Cannot read {source}: {error}. For gs:// addresses, pip install 'mgdt[gcs]'."
        ) from error
    except ValueError as error:
        raise InvalidArgument(f"Cannot read {source}: {error}.") from error
    return filesystem, root.rstrip("/")


class SourceFolder:
    """A folder of files that are only read; those of another machine are copied here one by one.

    A copy can be read twice, which may cost less than keeping what it holds in memory.

    Args:
        filesystem: where the folder is.
        path: its path there.
        downloads: folder for the copies; made when it is needed.

    Attributes:
        address: the path, with the protocol where it is on another machine.
        stopped: set to end copying.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, downloads: Path) -> None:
        """Look at the folder `path` of `filesystem`."""
        self.filesystem, self.path, self.downloads = filesystem, path, downloads
        self.is_local = isinstance(filesystem, LocalFileSystem)
        self.address = path if self.is_local else filesystem.unstrip_protocol(path)
        self.stopped = threading.Event()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def names(self) -> list[str]:
        """Return the names of the files; none if there is no such folder."""
        with _naming(self.address):
            try:
                entries = self.filesystem.ls(self.path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [entry.rstrip("/").rpartition("/")[2] for entry in entries]

    def heads(self, names: Iterable[str], size: int) -> list[bytes]:
        """Return the first bytes of the files `names`, `size` at most."""
        paths = [f"{self.path}/{name}" for name in names]
        with _naming(self.address):
            return self.filesystem.cat_ranges(paths, 0, size, on_error="raise")

    def open(self, name: str) -> BinaryIO:
        """Open the file `name` for reading, after copying it if it is on another machine."""
        path = f"{self.path}/{name}"
        if self.is_local:
            return open(path, "rb")
        copy = self.downloads / name
        with self._locks[name], _naming(f"{self.address}/{name}"):
            if not copy.exists():
                self.downloads.mkdir(parents=True, exist_ok=True)
                part = copy.with_name(f"{name}.part")
                self._copy(path, part)
                part.replace(copy)
        return copy.open("rb")

    def _copy(self, path: str, part: Path) -> None:
        with (
            self.filesystem.open(path, "rb", block_size=COPY_BYTES) as source,
            part.open("wb") as file,
        ):
            while content := source.read(COPY_BYTES):
                if self.stopped.is_set():
                    raise InterruptedError("stopped")
                file.write(content)
        if (found := part.stat().st_size) != (expected := self.filesystem.size(path)):
            raise EOFError(f"expected {expected} bytes, received {found}")

    def discard(self, *names: str) -> None:
        """Remove the copies of the files `names`, and the folder of copies if it is empty then."""
        if self.is_local:
            return
        for name in names:
            (self.downloads / name).unlink(missing_ok=True)
            (self.downloads / f"{name}.part").unlink(missing_ok=True)
        with suppress(OSError):
            self.downloads.rmdir()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Make a failure to read an error that names the path; each library has its own kinds."""
    try:
        yield
    except Exception as error:
        raise ReplayError(f"Cannot read {path}: {error}") from error

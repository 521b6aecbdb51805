"""What all imports share: folders that are read, here or in a bucket, and episodes to a store."""

import os
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.store import partial_folder, read_meta
from mgdt_agents.replay.writer import ReplayWriter, settle
from mgdt_envs import AtariProtocol, Game
from mgdt_envs.errors import InvalidArgument, MissingExtra

FLUSH_STEPS = 50_000  # that a killed import writes again at most
MAX_DIFFERENCES = 3  # that a message names; play of another kind differs in all


class Episode(NamedTuple):
    """A whole episode of T steps. The next one may overwrite the arrays."""

    frames: np.ndarray
    """`(T, height, width)` uint8, before each action."""
    actions: np.ndarray
    """`(T,)` full-set ids."""
    rewards: np.ndarray
    """`(T,)`, as the source has them."""
    truncated: bool
    """Whether a time limit ended it, as far as the source tells."""


class Recording(ABC):
    """Play that can be imported. It is only read.

    Attributes:
        game: the `Game`.
        protocol: the rules it was recorded under.
        source: JSON types that say what is imported, the same whenever it is.
        free_fields: of the source, those that may be otherwise the next time.
        max_steps: steps that it has at most; None if that is not known before it is read.
    """

    game: Game
    protocol: AtariProtocol
    source: dict[str, Any]
    max_steps: int | None
    free_fields: tuple[str, ...] = ()

    @abstractmethod
    def episodes(self, start: Any = None) -> Generator[tuple[Episode, Any], None, None]:
        """Yield the episodes after a position, or all, each with the position behind it.

        Positions are of JSON types.

        Raises:
            ReplayError: if a file is damaged or holds what it cannot, naming the place.
        """

    def discard(self) -> None:  # noqa: B027
        """Remove copies of files of another machine."""


def import_recording(
    recording: Recording,
    output: str | Path,
    *,
    limit_steps: int | None = None,
    on_steps: Callable[[int], object] = lambda steps: None,
) -> None:
    """Write the whole episodes of a recording to a store, or go on where an import was cut off.

    Args:
        recording: what to import.
        output: the store's folder. A store there of the same import with a lower limit is
            extended; one without is left as it is.
        limit_steps: import the first episodes that have no more steps than that together.
        on_steps: called with the number of steps in the store, for a progress bar.

    Raises:
        ReplayError: if a file is damaged or cannot be written, or `output` is not of this import.
    """
    if not _is_done(Path(output), recording, limit_steps):
        _import(recording, output, limit_steps, on_steps)
    recording.discard()


def _import(
    recording: Recording,
    output: str | Path,
    limit_steps: int | None,
    on_steps: Callable[[int], object],
) -> None:
    with ReplayWriter(
        output, recording.game.name, recording.protocol, recording.source, resume=True
    ) as writer:
        position = writer.progress["position"] if writer.progress else None
        flushed = writer.num_steps
        stopped_at = None
        with closing(recording.episodes(position)) as rest:
            for episode, behind in rest:
                steps = writer.num_steps + len(episode.actions)
                if limit_steps is not None and steps > limit_steps:
                    if not writer.num_steps:
                        raise InvalidArgument(
                            f"Expected a limit of {steps:,} steps or more, which the first episode "
                            f"has, got {limit_steps:,}."
                        )
                    stopped_at = limit_steps
                    break
                writer.add_episode(*episode[:3], truncated=episode.truncated)
                position = behind
                if writer.num_steps - flushed >= FLUSH_STEPS:
                    writer.flush({"position": position})
                    flushed = writer.num_steps
                on_steps(writer.num_steps)
        writer.flush({"position": position, "stopped_at": stopped_at})


def _is_done(output: Path, recording: Recording, limit_steps: int | None) -> bool:
    """Return whether `output` is a store to which this import would add nothing.

    Raises:
        ReplayError: if it holds anything that is not the beginning of this import.
    """
    settle(output)
    partial = read_meta(partial_folder(output))
    meta = partial or read_meta(output)
    if meta is None:
        return False
    if found := files.differences(meta["source"], recording.source, recording.free_fields):
        raise ReplayError(
            f"Expected nothing at {output}, or a part of this import; found other play: "
            f"{'; '.join(found[:MAX_DIFFERENCES])}. Choose another --output or remove it first."
        )
    if limit_steps is not None and meta["steps"] > limit_steps:
        raise ReplayError(
            f"Expected at most {limit_steps:,} steps at {output}, found {meta['steps']:,}. "
            "Raise --limit-steps, choose another --output or remove it first."
        )
    if partial or "stopped_at" not in (meta.get("progress") or {}):
        return False
    stopped_at = meta["progress"]["stopped_at"]
    return stopped_at is None or (limit_steps is not None and limit_steps <= stopped_at)


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

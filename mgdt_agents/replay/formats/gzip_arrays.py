"""Arrays in gzip-compressed `.npy` files, read from front to back."""

import gzip
import io
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Full, Queue
from typing import BinaryIO, TypeVar

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.formats.importing import SourceFolder

HEAD_BYTES = 4096  # of a compressed file; the header of its array is in them
MAX_ITEMS = 32  # of a job of `read_ahead` that wait
Item = TypeVar("Item")
_DONE = object()


class GzipArray:
    """An array in a gzip-compressed `.npy` file.

    Args:
        folder: the file's folder.
        name: the file's name.
        head: the file's first bytes, from `SourceFolder.heads`.

    Attributes:
        path: the file, for messages.
        shape, dtype: of the array.

    Raises:
        ReplayError: if the file is not one.
    """

    def __init__(self, folder: SourceFolder, name: str, head: bytes) -> None:
        self.folder, self.name, self._head = folder, name, head
        self.path = f"{folder.address}/{name}"
        start = gzip.GzipFile(fileobj=io.BytesIO(head))
        try:
            version = np.lib.format.read_magic(start)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, column_major, self.dtype = read_header(start)
        except (EOFError, OSError, ValueError, KeyError, zlib.error) as error:
            raise ReplayError(
                f"Expected a gzip-compressed .npy file at {self.path}: {error}"
            ) from error
        if column_major or self.dtype.hasobject:
            raise ReplayError(
                f"Expected an array of numbers in row-major order in {self.path}, "
                f"found {self.dtype}, column-major: {column_major}."
            )
        self._header_bytes = start.tell()

    def _open(self) -> BinaryIO:
        if len(self._head) < HEAD_BYTES:  # then it is the whole file
            return io.BytesIO(self._head)
        return self.folder.open(self.name)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield the array from front to back, `rows` rows at a time; the last block has the rest.

        The file's checksum is compared after the last block.

        Raises:
            ReplayError: if the file is damaged or not as long as its header says, naming the row.
        """
        row, total = 0, self.shape[0] if self.shape else 1
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        try:
            with self._open() as file, gzip.GzipFile(fileobj=file) as stream:
                stream.read(self._header_bytes)
                while row < total:
                    count = min(rows, total - row)
                    content = stream.read(count * row_bytes)
                    if len(content) < count * row_bytes:
                        raise EOFError(f"{total:,} rows are announced, and there are no more")
                    row += count
                    yield np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])
                if stream.read(1):
                    raise EOFError(f"it goes on after the {total:,} rows that are announced")
        except (EOFError, OSError, zlib.error) as error:
            raise ReplayError(
                f"Cannot read {self.path} beyond row {row:,} of {total:,}: {error}"
            ) from error

    def read(self) -> np.ndarray:
        """Return the whole array.

        Raises:
            ReplayError: if the file is damaged.
        """
        num_bytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=object))
        with files.reading(self.path, num_bytes):
            blocks = list(self.blocks(self.shape[0] if self.shape else 1))
            return np.concatenate(blocks).reshape(self.shape)


def read_ahead(
    jobs: Iterable[Callable[[], Iterator[Item | None]]], num_threads: int
) -> Iterator[Item]:
    """Yield what the jobs yield, in the order of the jobs, while threads run several ahead.

    Args:
        jobs: generators; each runs in a thread of its own. They yield `None` now and then where
            they have nothing to give, so that they can be stopped.
        num_threads: jobs that run or wait with their items at a time. They end with this generator.

    Raises:
        BaseException: what a job raises, in its place.
    """
    stop = threading.Event()

    def work(job: Callable[[], Iterator[Item | None]], messages: Queue) -> None:
        def put(message: object) -> None:
            while not stop.is_set():
                try:
                    return messages.put(message, timeout=0.1)
                except Full:
                    pass

        try:
            for item in job():
                if stop.is_set():
                    return
                if item is not None:
                    put(item)
            put(_DONE)
        except BaseException as error:
            put(error)

    remaining = iter(jobs)
    running: deque[tuple[threading.Thread, Queue]] = deque()
    try:
        while True:
            for job in islice(remaining, num_threads - len(running)):
                messages: Queue = Queue(MAX_ITEMS)
                thread = threading.Thread(target=work, args=(job, messages), daemon=True)
                running.append((thread, messages))
                thread.start()
            if not running:
                return
            while (message := running[0][1].get()) is not _DONE:
                if isinstance(message, BaseException):
                    raise message
                yield message
            running.popleft()
    finally:
        stop.set()
        for thread, _ in running:
            thread.join()

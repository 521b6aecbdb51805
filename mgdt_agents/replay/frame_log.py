"""Frames on their way into a store: a file that only grows, until it becomes a blosc2 array.

A blosc2 array on disk cannot be read while a chunk is added to it, so a store's frames wait in
`frames.log`: compressed chunks, one after another, as they will stand in `frames.b2nd`. The frames
after the last whole chunk are in memory, and after a flush in `rest-<frames>.b2` too.
"""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import blosc2
import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files

# 16 frames a block: the best of the measured trade-offs between size and speed of random access.
FRAMES_PER_BLOCK = 16
# blosc2 writes the index of all chunks anew with each chunk: smaller ones make large stores slow.
FRAMES_PER_CHUNK = 1024
# Several chunks are in memory at once, and one is of larger pictures sooner full.
BYTES_PER_CHUNK = FRAMES_PER_CHUNK * 84 * 84
_COMPRESSION = blosc2.CParams(
    codec=blosc2.Codec.ZSTD,
    clevel=5,
    # Consecutive frames are alike byte for byte, so no filter helps zstd.
    filters=[blosc2.Filter.NOFILTER],
    nthreads=1,
    typesize=1,
)


class FrameLog:
    """Append frames, which another thread compresses.

    Args:
        folder: where the files are.
        shape: of a frame, of bytes.
        num_frames: frames at the flush to go on from; 0 begins anew.
        num_bytes: what that flush returned.

    Raises:
        ReplayError: if the files do not hold that many.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, ...], *, num_frames: int = 0, num_bytes: int = 0
    ) -> None:
        self.folder, self.shape, self.num_frames = folder, shape, num_frames
        blocks = BYTES_PER_CHUNK // (int(np.prod(shape)) * FRAMES_PER_BLOCK)
        self._per_chunk = min(FRAMES_PER_CHUNK, max(1, blocks) * FRAMES_PER_BLOCK)
        self._path = folder / "frames.log"
        self._file = files.open_after(self._path, num_bytes)
        self._pending = np.empty((self._per_chunk, *shape), np.uint8)
        if num_pending := self._num_pending:
            rest = self._rest_path()
            try:
                blosc2.decompress2(rest.read_bytes(), dst=self._pending[:num_pending])
            except (OSError, RuntimeError, ValueError) as error:
                files.close(self._file)
                raise ReplayError(f"Cannot read {rest}: {error}") from error
        self._compressor = ThreadPoolExecutor(1)
        self._compressing: deque[Future[bytes]] = deque()

    @property
    def _num_pending(self) -> int:
        return self.num_frames % self._per_chunk

    def _rest_path(self) -> Path:
        return self.folder / f"rest-{self.num_frames}.b2"

    def append(self, frames: np.ndarray) -> None:
        """Append frames, `(T, *shape)` uint8."""
        while len(frames):
            begin = self._num_pending
            taken = min(len(frames), self._per_chunk - begin)
            self._pending[begin : begin + taken] = frames[:taken]
            self.num_frames += taken
            frames = frames[taken:]
            if not self._num_pending:
                self._compressing.append(self._compressor.submit(_compress, self._pending))
                self._pending = np.empty_like(self._pending)
                self._write_compressed(leave=1)

    def append_array(self, frames: blosc2.NDArray) -> None:
        """Append the frames of a store to the empty log."""
        size = self._per_chunk
        whole = len(frames) - len(frames) % size
        for start in range(0, whole, size):
            if frames.chunks[0] == size:
                with files.naming(self._path):
                    self._file.write(frames.schunk.get_chunk(start // size))
                self.num_frames += size
            else:
                self.append(frames[start : start + size])
        self.append(frames[whole:])

    def flush(self) -> int:
        """Make all frames so far safe, and return the log's size in bytes."""
        self._write_compressed(leave=0)
        if self._num_pending:
            content = _compress(self._pending[: self._num_pending])
            files.replace(self._rest_path(), content)
        files.sync(self._file, self._path)
        return self._file.tell()

    def remove_older_rests(self) -> None:
        """Remove the rests of flushes before the last one."""
        for path in self.folder.glob("rest-*"):
            if path != self._rest_path():
                path.unlink()

    def finish(self, path: Path) -> None:
        """Write all frames to a blosc2 array at `path`."""
        self._write_compressed(leave=0)
        files.sync(self._file, self._path)
        self._pending[self._num_pending :] = 0
        with files.naming(path), self._path.open("rb") as log:
            array = blosc2.zeros(
                # Before blosc2 4.1 an array cannot begin with less than a block.
                (max(self.num_frames, self._per_chunk), *self.shape),
                dtype=np.uint8,
                chunks=(self._per_chunk, *self.shape),
                blocks=(FRAMES_PER_BLOCK, *self.shape),
                cparams=_COMPRESSION,
                urlpath=str(path),
                contiguous=True,
                mode="w",
            )
            array.resize((self.num_frames, *self.shape))
            for number in range(array.schunk.nchunks):
                array.schunk.update_chunk(number, _read_chunk(log) or _compress(self._pending))
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let go of the file and the thread."""
        self._compressor.shutdown()
        files.close(self._file)

    def _write_compressed(self, leave: int) -> None:
        """Write the chunks that the compressor was given, except for the last `leave`."""
        while len(self._compressing) > leave:
            chunk = self._compressing.popleft().result()
            with files.naming(self._path):
                self._file.write(chunk)


def remove_log(folder: Path) -> None:
    """Remove the files of a log."""
    for path in (folder / "frames.log", *folder.glob("rest-*")):
        path.unlink(missing_ok=True)


def _compress(frames: np.ndarray) -> bytes:
    block = FRAMES_PER_BLOCK * frames[0].size
    return blosc2.compress2(frames, cparams=replace(_COMPRESSION, blocksize=block))


def _read_chunk(log: BinaryIO) -> bytes:
    """Return the next chunk of a log, or nothing at its end."""
    header = log.read(blosc2.MAX_OVERHEAD)
    return header and header + log.read(blosc2.get_cbuffer_sizes(header)[1] - len(header))

"""Replay stores against other ways to keep frames, and their making against bare emulators.

Stores of the first steps of the bundled traces are made for it. Everything computes on one core.
"""

import importlib.util
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ale_py import AtariVectorEnv

from mgdt_agents.replay import Part, ReplayStore, Trace, WindowSampler, expand
from mgdt_agents.replay.trace import BUNDLED
from mgdt_envs import game
from mgdt_envs.emulator import emulator_arguments, minimal_action_index
from tests.perf.timing import Figure, ratio, take_turns

LIMIT_STEPS = 60_000  # of each trace
WINDOW_STEPS = 4
BATCH_SIZE = 256  # as the trainer's default
BATCHES = 4  # of a round
WINDOWS = BATCH_SIZE * BATCHES

Reader = Callable[[int, int, np.ndarray], object]
"""Puts the frames from a row to another into an array."""

SAMPLE = f"""
import sys, torch
from mgdt_agents.replay import WindowSampler
sampler = WindowSampler(sys.argv[1:])
for step in range(30):
    [torch.from_numpy(array) for array in sampler.sample({BATCH_SIZE}, step)]
"""
# getrusage would tell the parent's peak where that is higher.
TELL_PEAK = """
from pathlib import Path
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def _play_bare(trace: Trace, steps: int) -> None:
    """Step emulators with the first actions of a trace, and keep nothing."""
    envs = AtariVectorEnv(
        game(trace.game).rom,
        len(trace.seeds),
        num_threads=1,
        **{**emulator_arguments(trace.protocol), "stack_num": 1},
    )
    envs.reset(seed=trace.seeds)
    index = minimal_action_index(game(trace.game), trace.protocol)
    for actions in trace.actions[:steps]:
        envs.step(index[actions])


def _expand_all(folder: Path) -> tuple[list[ReplayStore], Figure]:
    """Make the stores, and say how fast that was."""
    stores, seconds = [], np.zeros(2)
    for number, path in enumerate(sorted(BUNDLED.glob("*.npz"))):
        trace, store = Trace.load(path), folder / path.stem
        steps = Part(limit_steps=LIMIT_STEPS).count_rows(trace)
        sides: list[Callable[[], object]] = [
            partial(expand, trace, store, Part(limit_steps=LIMIT_STEPS), num_threads=1),
            partial(_play_bare, trace, steps),
        ]
        taken = np.zeros(2)
        for side in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            sides[side]()
            taken[side] = time.perf_counter() - start
        stores.append(ReplayStore(store))
        seconds += taken
        print(
            f"replay.expand: {trace.game} {taken[1] / taken[0]:.2f}, "
            f"{len(stores[-1]):,} of {steps * len(trace.seeds):,} steps in whole episodes",
            flush=True,
        )
    peer = "bare AtariVectorEnv, the same seeds and actions, one thread, all bundled games"
    return stores, Figure(seconds[1] / seconds[0], "x", peer)


def _bytes_per_frame(stores: Sequence[ReplayStore]) -> Figure:
    sizes = {
        store.game: sum(file.stat().st_size for file in store.path.iterdir()) / len(store)
        for store in stores
    }
    print("replay.bytes_per_frame:", ", ".join(f"{name} {b:.0f}" for name, b in sizes.items()))
    raw = stores[0].frames[:1].nbytes
    return Figure(float(np.mean(list(sizes.values()))), "bytes", f"{raw} raw; mean of the games")


def _zarr_reader(frames: np.ndarray, path: Path) -> Reader:
    """Return a reader of zarr's chunks of 16 frames, compressed by its default, zstd."""
    import zarr

    array = zarr.create_array(
        str(path), shape=frames.shape, chunks=(16, *frames.shape[1:]), dtype=frames.dtype
    )
    array[:] = frames

    def read(start: int, stop: int, out: np.ndarray) -> None:
        out[:] = array[start:stop]

    return read


def _zlib_reader(frames: np.ndarray) -> Reader:
    packed = [zlib.compress(frame) for frame in frames]

    def read(start: int, stop: int, out: np.ndarray) -> None:
        for frame, pack in zip(out, packed[start:stop], strict=True):
            frame.ravel()[:] = np.frombuffer(zlib.decompress(pack), np.uint8)

    return read


def _mapped_reader(frames: np.ndarray, path: Path) -> Reader:
    np.save(path, frames)
    mapped = np.load(path, mmap_mode="r")

    def read(start: int, stop: int, out: np.ndarray) -> None:
        out[:] = mapped[start:stop]

    return read


def _readers(stores: Sequence[ReplayStore], folder: Path) -> Iterator[tuple[str, list[Reader]]]:
    """Yield each way to keep frames, and its readers of the games."""
    yield "store", [store.read_frames for store in stores]
    makers: dict[str, Callable[[np.ndarray, Path], Reader]] = {
        "raw memory map": _mapped_reader,
        "zlib by frame": lambda frames, path: _zlib_reader(frames),
    }
    if importlib.util.find_spec("zarr"):
        makers["zarr"] = _zarr_reader
    for name, maker in makers.items():
        yield (
            name,
            [maker(store.frames[:], folder / f"{name} {store.game}.npy") for store in stores],
        )


def _decode(readers: Sequence[Reader], windows: np.ndarray, shape: tuple[int, ...]) -> None:
    """Read windows that begin at given rows, `(games, windows of a game)`, into new batches."""
    for reader, rows in zip(readers, windows, strict=True):
        for first in range(0, len(rows), BATCH_SIZE):
            frames = np.empty((BATCH_SIZE, WINDOW_STEPS, *shape), np.uint8)
            for window, row in zip(frames, rows[first : first + BATCH_SIZE].tolist(), strict=False):
                reader(row, row + WINDOW_STEPS, window)


def _sample(sampler: WindowSampler) -> None:
    for step in range(BATCHES):
        batch: Any = sampler.sample(BATCH_SIZE, step)
        [torch.from_numpy(array) for array in batch]


def _peak_memory(code: str, *arguments: str) -> float:
    """Return the megabytes that a new interpreter takes at most."""
    command = [sys.executable, "-c", code + TELL_PEAK, *arguments]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    return int(run.stdout) / 1024


def measure() -> dict[str, Figure]:
    """Return the figures `replay.*`."""
    random = np.random.default_rng(0)
    with TemporaryDirectory(prefix="mgdt-perf-") as name:
        folder = Path(name)
        stores, expand_vs_bare = _expand_all(folder)
        windows = np.stack(
            [random.integers(len(store) - WINDOW_STEPS, size=WINDOWS) for store in stores]
        )
        shape = stores[0].frames.shape[1:]
        sides = {
            way: partial(_decode, readers, windows, shape)
            for way, readers in _readers(stores, folder)
        }
        seconds = take_turns(sides)
        rates = {way: windows.size / float(np.median(taken)) for way, taken in seconds.items()}
        peers = ", ".join(f"{way} {rate:,.0f}" for way, rate in rates.items() if way != "store")
        as_many = windows[:, : WINDOWS // len(stores)]
        sampler_vs_decode = ratio(
            partial(_sample, WindowSampler(stores)),
            partial(_decode, [store.read_frames for store in stores], as_many, shape),
        )
        memory = _peak_memory(SAMPLE, *(str(store.path) for store in stores))
        return {
            "replay.bytes_per_frame": _bytes_per_frame(stores),
            "replay.windows_per_second": Figure(
                rates["store"], "1/s", f"random windows of {WINDOW_STEPS} steps; {peers}"
            ),
            "replay.sampler_vs_decode": Figure(
                sampler_vs_decode, "x", "decoding as many random windows"
            ),
            "replay.sampler_memory": Figure(
                memory - _peak_memory(""), "MB", "an interpreter that does nothing"
            ),
            "replay.expand_vs_bare": expand_vs_bare,
        }

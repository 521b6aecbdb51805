"""Batches of windows, decoded ahead of the training by other processes."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_convert

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.sampler import WindowBatch


class DrawsBatches(Protocol):
    """A `WindowSampler`, or what draws like one."""

    def sample(self, batch_size: int, step: int, /) -> WindowBatch:
        """Draw batch number `step`."""


BATCHES_AHEAD = 2  # of each worker


def batches(
    sampler: DrawsBatches, batch_size: int, steps: range, *, workers: int = 0
) -> Iterator[WindowBatch]:
    """Yield the batches of `steps`, in order; they do not depend on the number of workers.

    Processes, because blosc2 decodes one window at a time however many threads ask. Batches come
    through shared memory.

    Args:
        sampler: what to draw from.
        batch_size: number of windows.
        steps: numbers of the batches.
        workers: processes that decode ahead; 0 decodes when a batch is asked for.
    """
    if not workers:
        yield from (sampler.sample(batch_size, step) for step in steps)
        return
    loader = DataLoader(
        _Batches(sampler, batch_size),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD,
        collate_fn=default_convert,
        generator=torch.Generator(),  # or it would draw from the training's
    )
    try:
        for batch in loader:
            yield WindowBatch(*(tensor.numpy() for tensor in batch))
    except ReplayError as error:  # with the traceback of the worker in its message
        raise ReplayError(str(error).strip().rpartition("ReplayError: ")[2]) from error


class _Batches(Dataset[WindowBatch]):
    """A sampler as torch's `DataLoader` wants it: its items are whole batches."""

    def __init__(self, sampler: DrawsBatches, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __getitem__(self, step: int) -> WindowBatch:
        return self.sampler.sample(self.batch_size, step)

"""Batches of windows, decoded ahead of the training by other processes."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_convert

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay.sampler import WindowBatch

BATCHES_AHEAD = 2  # of each worker


def batches(
    draw: Callable[[int], WindowBatch], numbers: range, *, workers: int = 0
) -> Iterator[WindowBatch]:
    """Yield the batches of `numbers`, in order; they do not depend on the number of workers.

    Processes, because blosc2 decodes one window at a time however many threads ask. Batches come
    through shared memory.

    Args:
        draw: what returns a batch for its number; it is sent to the workers.
        numbers: of the batches.
        workers: processes that decode ahead; 0 decodes when a batch is asked for.
    """
    if not workers:
        yield from map(draw, numbers)
        return
    loader = DataLoader(
        _Batches(draw),
        batch_size=None,
        sampler=numbers,
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
    """What torch's `DataLoader` wants, whose items are whole batches."""

    def __init__(self, draw: Callable[[int], WindowBatch]) -> None:
        self.draw = draw

    def __getitem__(self, number: int) -> WindowBatch:
        return self.draw(number)

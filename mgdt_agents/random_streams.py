"""Random numbers that are a function of a name: one stream for each row of a batch."""

import numpy as np
import torch
from torch import Tensor

from mgdt_envs.errors import InvalidArgument

# Philox4x32-10's multipliers and key increments (Salmon et al. 2011, table 2 and section 4.3).
MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
INCREMENTS = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
ROUNDS = 10
LOW_WORD = np.uint64(0xFFFFFFFF)
WORD_BITS = np.uint64(32)


def philox(counters: np.ndarray, key: int) -> np.ndarray:
    """Return Philox4x32-10 of each counter, four random words each.

    Args:
        counters: `(n, 4)` uint64 below 2^32.
        key: below 2^64.

    Returns:
        `(n, 4)` uint64 below 2^32.
    """
    even, odd = counters.T[[0, 2]], counters.T[[1, 3]]
    keys = np.array([key, key >> 32], np.uint64) & LOW_WORD
    for _ in range(ROUNDS):
        products = even * MULTIPLIERS
        even = (products >> WORD_BITS)[::-1] ^ odd ^ keys[:, None]
        odd = (products & LOW_WORD)[::-1]
        keys = (keys + INCREMENTS) & LOW_WORD
    return np.stack([even[0], odd[0], even[1], odd[1]], 1)


class RowStreams:
    """The random streams of a batch's rows, at one step of each.

    A number depends on the seed, the row's stream, the step and how many were drawn in this step
    before; so a row draws the same whatever other rows there are.

    Args:
        seed: of all streams; it counts modulo 2^64.
        streams: `(n,)` int64, the number of each row's stream.
        steps: `(n,)` int64, each row's step, not negative, below 2^32.

    Example:
        >>> rows = RowStreams(0, np.array([7, 8]), np.array([0, 0]))
        >>> alone = RowStreams(0, np.array([8]), np.array([0]))
        >>> bool(rows.uniform()[1] == alone.uniform()[0])
        True
    """

    def __init__(self, seed: int, streams: np.ndarray, steps: np.ndarray) -> None:
        names = np.asarray(streams).astype(np.uint64)
        drawn = np.zeros(len(names), np.uint64)
        self._seed = seed % 2**64
        self._counters = np.stack(
            [names & LOW_WORD, names >> WORD_BITS, np.asarray(steps).astype(np.uint64), drawn], 1
        )

    def uniform(self) -> np.ndarray:
        """Return `(n,)` float64 in [0, 1), the next number of each row."""
        words = philox(self._counters, self._seed)
        self._counters[:, 3] += np.uint64(1)
        # 53 random bits, as many as a float64 holds.
        return ((words[:, 0] >> np.uint64(5)) * 2.0**26 + (words[:, 1] >> np.uint64(6))) / 2.0**53


def sample(logits_BV: Tensor, streams: RowStreams | None) -> Tensor:
    """Return `(B,)` ids drawn from the softmax of the logits, or the likeliest.

    Args:
        logits_BV: on the CPU; minus infinity excludes an id.
        streams: of the rows, each of which gives a number; None takes the likeliest ids.

    Raises:
        ValueError: for a row with NaN or infinity in it, or that excludes all ids.
    """
    if not (largest_B := logits_BV.amax(-1)).isfinite().all():
        row = int((~largest_B.isfinite()).nonzero()[0])
        raise InvalidArgument(
            f"Expected finite logits to act by, got {logits_BV[row].tolist()} in row {row}. The "
            "network's weights may not be finite, or a setting of how it acts is too large."
        )
    if streams is None:
        return logits_BV.argmax(-1)
    up_to_BV = logits_BV.double().softmax(-1).cumsum(-1)
    drawn_B1 = torch.from_numpy(1 - streams.uniform())[:, None] * up_to_BV[:, -1:]
    return (up_to_BV < drawn_B1).sum(-1)


def explored(
    actions: np.ndarray, allowed: np.ndarray, share: float, streams: RowStreams
) -> np.ndarray:
    """Return `(B,)` actions of which a share is drawn anew, uniformly of the allowed ones.

    Args:
        actions: `(B,)` int64.
        allowed: `(B, A)` bool, at least one action of each row.
        share: of the rows whose action is drawn.
        streams: of the rows, each of which gives two numbers.
    """
    explores = streams.uniform() < share
    numbers = (streams.uniform() * allowed.sum(1)).astype(np.int64)
    allowed_first = np.argsort(~allowed, axis=1, kind="stable")
    return np.where(explores, allowed_first[np.arange(len(actions)), numbers], actions)

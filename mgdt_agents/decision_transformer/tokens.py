"""How rewards and returns become token ids.

Reward tokens are those of the released model: 0 no reward, 1 positive, 2 unused (it was meant for
an episode's end), 3 negative.
"""

import numpy as np

NO_REWARD, POSITIVE, NEGATIVE = 0, 1, 3


def encode_rewards(rewards: np.ndarray) -> np.ndarray:
    """Return the tokens of rewards: their signs, whatever their size. Shapes equal, int64."""
    return np.where(rewards > 0, POSITIVE, np.where(rewards < 0, NEGATIVE, NO_REWARD))


def encode_returns(
    returns: np.ndarray, min_return: float, max_return: float, width: float = 1
) -> np.ndarray:
    """Return the bins of returns, `min_return` being the center of bin 0. Shapes equal, int64."""
    bins = np.rint((np.asarray(returns, np.float64) - min_return) / width)
    return bins.clip(0, round((max_return - min_return) / width)).astype(np.int64)


def encode_ranks(ranks: np.ndarray, bins: int) -> np.ndarray:
    """Return which of equally wide bins ranks in [0, 1) are in. Shapes equal, int64."""
    return (ranks * bins).astype(np.int64).clip(0, bins - 1)

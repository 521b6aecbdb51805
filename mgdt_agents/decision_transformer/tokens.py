"""How rewards and returns become token ids.

Reward tokens are those of the released model: 0 no reward, 1 positive, 2 unused (it was meant for
an episode's end), 3 negative.
"""

import numpy as np

NO_REWARD, POSITIVE, NEGATIVE = 0, 1, 3


def encode_rewards(rewards: np.ndarray) -> np.ndarray:
    """Return the tokens of rewards: their signs, whatever their size. Shapes equal, int64."""
    return np.where(rewards > 0, POSITIVE, np.where(rewards < 0, NEGATIVE, NO_REWARD))


def encode_returns(returns: np.ndarray, min_return: int, max_return: int) -> np.ndarray:
    """Return the bins of returns, `min_return` being bin 0. Shapes equal, int64."""
    return np.clip(np.rint(returns), min_return, max_return).astype(np.int64) - min_return

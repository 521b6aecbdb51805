"""Training by d3rlpy's DiscreteCQL: what `train.py` measures `cql` against, where d3rlpy is there.

The network is that of `cql`, its convolutions included, with as many outputs: d3rlpy has no C51,
and as many quantiles in its place. Batches are drawn from frames in memory, undecoded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mgdt_agents.q_learning.cql import CQLConfig
from mgdt_agents.q_learning.networks import ImpalaBody
from mgdt_agents.replay import ReplayStore

HOW_TO_INSTALL = "pip install --no-deps d3rlpy gym structlog dataclasses-json scikit-learn " + (
    "marshmallow typing-inspect joblib"
)
"""Without what d3rlpy 2.8.1 asks for: gymnasium 1.0.0 exactly, which it does not need."""


def make_training(
    config: CQLConfig, replay: Sequence[Path], batch_size: int, learning_rate: float
) -> Callable[[int], None]:
    """Return a function that trains on stores for so many gradient steps, and goes on later."""
    # Imported only when needed: it need not be there.
    import d3rlpy
    from d3rlpy.models.encoders import EncoderFactory

    class Encoder(d3rlpy.models.torch.Encoder):
        """The network up to the output, of the floats that d3rlpy has made of the frames."""

        def __init__(self) -> None:
            super().__init__()
            self.body = ImpalaBody(config)

        def forward(self, x: Tensor) -> Tensor:
            return self.body.features(self.body.pixels(x))

    @dataclasses.dataclass
    class Factory(EncoderFactory):
        def create(self, observation_shape: Any) -> Encoder:
            return Encoder()

        @staticmethod
        def get_type() -> str:
            return "mgdt_impala"

    algorithm = d3rlpy.algos.DiscreteCQLConfig(
        batch_size=batch_size,
        learning_rate=learning_rate,
        gamma=config.discount,
        alpha=config.conservative_weight,
        target_update_interval=config.target_period,
        encoder_factory=Factory(),
        q_func_factory=d3rlpy.models.QRQFunctionFactory(n_quantiles=config.atoms),
        optim_factory=d3rlpy.optimizers.AdamFactory(clip_grad_norm=1.0),
    ).create(device="cpu:0")
    algorithm.create_impl(
        (config.frame_stack, config.frame_size, config.frame_size), config.actions
    )
    buffer = d3rlpy.dataset.ReplayBuffer(
        d3rlpy.dataset.InfiniteBuffer(),
        episodes=[episode for path in replay for episode in _episodes(d3rlpy, ReplayStore(path))],
        transition_picker=d3rlpy.dataset.FrameStackTransitionPicker(config.frame_stack),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=config.actions,
    )

    def train(steps: int) -> None:
        for _ in range(steps):
            algorithm.update(buffer.sample_transition_batch(batch_size))

    return train


def _episodes(d3rlpy: Any, store: ReplayStore) -> list[Any]:
    """Return the episodes of a store as d3rlpy has them, with the rewards that `cql` sees."""
    return [
        d3rlpy.dataset.Episode(
            observations=store.frames[start : start + length][:, None],
            actions=store.actions[start : start + length, None].astype(np.int64),
            rewards=store.rewards[start : start + length, None].clip(-1, 1).astype(np.float32),
            terminated=bool(store.terminated[start + length - 1]),
        )
        for start, length in zip(
            store.episode_starts.tolist(), store.episode_lengths.tolist(), strict=True
        )
    ]

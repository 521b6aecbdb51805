"""The windows that are learned from, and those that the loss is measured on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.replay import ReplayStore, WindowBatch, WindowSampler
from mgdt_agents.replay.prefetch import batches
from mgdt_agents.replay.store import PROTOCOL
from mgdt_agents.training import parallel
from mgdt_agents.training.config import TrainingConfig
from mgdt_envs.errors import InvalidArgument

BATCH_SIZE = 64
"""Of held-out windows, which need not fill a GPU."""


def open_replay(agent: NetworkAgent, config: TrainingConfig) -> WindowSampler:
    """Return what draws the windows that `agent` learns from.

    Raises:
        ValueError: if a store is named twice, was recorded under another protocol than the
            agent's, or does not hold its screens.
    """
    stores = [ReplayStore(path) for path in config.replay]
    seen: dict[tuple[Path, str | None], Path] = {}
    for store in stores:
        same = seen.setdefault((store.folder.resolve(), store.split), store.path)
        if same is not store.path:
            raise InvalidArgument(
                f"{store.path} is the same replay as {same}; name it once. How often a game is "
                "drawn is set by weights."
            )
        if store.obs_type != PROTOCOL:
            raise InvalidArgument(
                f"{store.path} holds frames as {store.obs_type}, and agents see the screens of "
                "their protocol; expand the trace without --as."
            )
        if store.protocol != agent.protocol and not config.mix_protocols:
            raise InvalidArgument(
                f"{store.path} was recorded under another protocol than the agent's: "
                f"{store.protocol.sheet()}; expected {agent.protocol.sheet()}. Give the agent the "
                "stores' protocol (mgdt-train --protocol replay), or set mix_protocols to train "
                "on it nevertheless."
            )
    return _sampler(agent, config, stores, weights=config.game_weights, seed=config.seed)


def _sampler(
    agent: NetworkAgent, config: TrainingConfig, stores: list[ReplayStore], **options: Any
) -> WindowSampler:
    return WindowSampler(
        stores,
        **agent.windows,
        top_fraction=config.top_fraction,
        return_weighting=config.return_weighting,
        heldout_fraction=config.heldout_fraction,
        **options,
    )


class Parts:
    """Parts of a sampler's batches, so that no result depends on how many they are.

    Args:
        sampler: what draws the whole batches.
        batch_size: windows of a whole batch.
        parts: number of parts that each process computes its share of a batch in.

    Attributes:
        size: windows of a part.

    Raises:
        ValueError: if the batch cannot be divided.
    """

    def __init__(self, sampler: WindowSampler, batch_size: int, parts: int) -> None:
        self.sampler, self.batch_size, self.parts = sampler, batch_size, parts
        self.rank = parallel.rank()
        processes = parallel.world_size()
        shares = processes * parts
        if batch_size % shares:
            raise InvalidArgument(
                f"Expected a batch_size that {processes} processes of {parts} parts each can "
                f"share, a multiple of {shares}, got {batch_size}."
            )
        self.size = batch_size // shares

    def first(self, part: int) -> int:
        """Return the number of the first window of a part of this process in the batch."""
        return (self.rank * self.parts + part) * self.size

    def draw(self, number: int) -> WindowBatch:
        """Draw part `number % parts` of batch `number // parts`."""
        step, part = divmod(number, self.parts)
        first = self.first(part)
        return self.sampler.sample(self.batch_size, step, slice(first, first + self.size))


def parts_of(parts: Parts, steps: range, workers: int) -> Iterator[WindowBatch]:
    """Yield this process's parts of the batches of `steps`, in order."""
    numbers = range(steps.start * parts.parts, steps.stop * parts.parts)
    return batches(parts.draw, numbers, workers=workers)


class HeldOut:
    """Windows of the episodes that are not learned from, the same ones at each measurement.

    Args:
        agent: what is measured.
        config: says which episodes, and how many windows of each game.
        stores: the replay.

    Raises:
        ValueError: if a store is too small to hold an episode out.
    """

    def __init__(
        self, agent: NetworkAgent, config: TrainingConfig, stores: list[ReplayStore]
    ) -> None:
        self.samplers = {
            game: _sampler(
                agent, config, [s for s in stores if s.game == game], split="heldout", seed=0
            )
            for game in dict.fromkeys(store.game for store in stores)
        }
        self.windows = config.heldout_windows

    @torch.no_grad()
    def measure(self, agent: NetworkAgent) -> dict[str, float]:
        """Return loss and accuracy of each game, and their means over games."""
        # The processes share each game's batches. All compute equally many, for the weights may be
        # shared out, too.
        size = min(self.windows, BATCH_SIZE)
        number = -(-self.windows // size)
        processes = parallel.world_size()
        rounds = -(-number // processes)
        figures: dict[str, float] = {}
        for number_of_game, (game, sampler) in enumerate(self.samplers.items()):
            sums = []
            for step in range(parallel.rank(), rounds * processes, processes):
                # The last batch may be smaller. What is beyond it does not count.
                rest = self.windows - step * size if step < number else size
                batch = sampler.sample(min(size, rest), step)
                # Numbered as the games of the replay are, of which this sampler has one.
                batch = batch._replace(games=batch.games + number_of_game)
                loss, terms = agent.loss(batch)
                if step < number:
                    share = len(batch.games) / size
                    sums.append([share, share * float(loss), share * float(terms["accuracy"])])
            rows = [row for rows in parallel.gather(sums) for row in rows]
            shares, losses, accuracies = map(sum, zip(*rows, strict=True))
            figures[f"heldout_loss/{game}"] = losses / shares
            figures[f"heldout_accuracy/{game}"] = accuracies / shares
        for name in ("loss", "accuracy"):
            values = [figures[f"heldout_{name}/{game}"] for game in self.samplers]
            figures[f"heldout_{name}"] = sum(values) / len(values)
        return figures

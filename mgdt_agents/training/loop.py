"""The training loop: windows in, a trained agent out, resumable from its last checkpoint."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.replay import ReplayStore, WindowBatch, WindowSampler
from mgdt_agents.replay.prefetch import batches
from mgdt_agents.training import checkpoint
from mgdt_agents.training.config import TrainingConfig
from mgdt_agents.training.metrics import Figures, open_log
from mgdt_agents.training.optimizers import make_optimizer
from mgdt_agents.training.run_folder import describe, enter
from mgdt_envs.errors import InvalidArgument


def train(
    agent: NetworkAgent,
    config: TrainingConfig,
    *,
    output: Path | None = None,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train `agent` in place.

    Args:
        agent: what to train; its games become those of the replay.
        config: how.
        output: folder for `metrics.jsonl`, checkpoints and the trained agent; None writes nothing.
            Where it holds a checkpoint, training resumes from there.
        on_log: called with the figures of every `log_interval` steps.
        should_stop: asked after each step; where it says so, a checkpoint is made and training
            stops.

    Returns:
        Gradient steps done: `config.steps`, or fewer if it was stopped.

    Raises:
        ValueError: if the replay was recorded under other rules than the agent's, or the
            checkpoint is of another training or of other data.
    """
    sampler = open_replay(agent, config)
    agent.games = sampler.games
    optimizer = make_optimizer(agent.model, config)
    done, figures = 0, Figures()
    if output:
        done = checkpoint.newest(output)
        enter(output, describe(agent, config, sampler.stores), done)
        log = open_log(output / "metrics.jsonl", done)
        if done:
            figures = Figures(checkpoint.load(output, done, agent, optimizer))
    if not done:
        agent.after_step(0)
    agent.model.train()
    first, started = done, time.monotonic()
    for step, batch in windows(agent, config, sampler, range(first, config.steps)):
        learning_rate = config.learning_rate_at(step)
        figures.add(gradient_step(agent, optimizer, learning_rate, batch, config, step))
        done = step + 1
        agent.after_step(done)
        stopping = should_stop()
        if done % config.log_interval == 0 or done == config.steps:
            speed = (done - first) * config.batch_size / (time.monotonic() - started)
            line = {
                "step": done,
                **figures.take_means(),
                "learning_rate": learning_rate,
                "windows_per_second": round(speed, 1),
            }
            if output:
                log.write(json.dumps(line) + "\n")
                log.flush()
            on_log(line)
        due = done % config.checkpoint_interval == 0 or done == config.steps or stopping
        if output and due:
            agent.save(output)
            checkpoint.save(output, done, agent, optimizer, figures.values())
        if stopping:
            break
    agent.model.eval()
    return done


def open_replay(agent: NetworkAgent, config: TrainingConfig) -> WindowSampler:
    """Return what draws the windows that `agent` learns from.

    Raises:
        ValueError: if a store was recorded under another protocol than the agent's.
    """
    sampler = WindowSampler(
        [ReplayStore(path) for path in config.replay],
        steps=agent.protocol.stack,
        future=agent.future,
        top_fraction=config.top_fraction,
        seed=config.seed,
    )
    for store in sampler.stores:
        if store.protocol != agent.protocol and not config.mix_protocols:
            raise InvalidArgument(
                f"{store.path} was recorded under another protocol than the agent's: "
                f"{store.protocol.sheet()}; expected {agent.protocol.sheet()}. Give the agent the "
                "stores' protocol (mgdt-train --protocol replay), or set mix_protocols to train "
                "on it nevertheless."
            )
    return sampler


def windows(
    agent: NetworkAgent, config: TrainingConfig, sampler: WindowSampler, steps: range
) -> Iterator[tuple[int, WindowBatch]]:
    """Yield the number and the batch of each of `steps`."""
    workers = config.workers
    if workers is None:
        workers = 2 if agent.device.type == "cuda" else 0
    return zip(steps, batches(sampler, config.batch_size, steps, workers=workers), strict=True)


def gradient_step(
    agent: NetworkAgent,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    batch: WindowBatch,
    config: TrainingConfig,
    step: int,
) -> dict[str, Tensor]:
    """Change the agent's weights by one batch, and return the loss and its figures."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # Dropout and augmentation, like the windows, depend on the step alone, so that a resumed run
    # repeats them.
    batch = config.augmentation(batch, np.random.default_rng([config.seed, step]))
    torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and agent.device.type == "cuda"
    )
    with torch.autocast(agent.device.type, torch.bfloat16, bf16):
        loss, figures = agent.loss(batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(agent.model.parameters(), config.max_gradient_norm)
    optimizer.step()
    return {"loss": loss, **figures}

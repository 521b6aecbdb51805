"""The training loop: windows in, a trained agent out, resumable from its last checkpoint."""

import dataclasses
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.replay import WindowSampler
from mgdt_agents.replay.prefetch import batches
from mgdt_agents.training.augmentation import Augmentation
from mgdt_agents.training.metrics import open_log
from mgdt_agents.training.optimizers import LAMB
from mgdt_envs.errors import InvalidArgument

OPTIMIZERS = {"lamb": LAMB, "adamw": torch.optim.AdamW}
# A run may go on with other values of these: they change no result.
FREE_FIELDS = ("workers",)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How to train; the defaults are those of Lee et al. 2022, section 4.1, but for the batch."""

    steps: int
    """Gradient steps."""
    replay: tuple[str, ...] = ()
    """Folders of replay stores; each game is drawn equally often."""
    batch_size: int = 256
    """Windows of a gradient step (the paper: 2048)."""
    top_fraction: float = 1.0
    """Train on this share of each store's episodes, those of highest return."""
    optimizer: Literal["lamb", "adamw"] = "lamb"
    """The paper's LAMB, or AdamW."""
    learning_rate: float = 3e-4
    """After the warm-up."""
    warmup_steps: int = 4000
    """Gradient steps over which the learning rate rises from zero."""
    decay: Literal["none", "linear"] = "none"
    """Keep the learning rate, or let it fall to zero at the last step."""
    weight_decay: float = 0.0
    """Of the optimizer."""
    max_gradient_norm: float = 1.0
    """Larger gradients are scaled to this norm."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How windows are displaced at random (Lee et al. 2022, section 4.1); by default not at all."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the forward and backward pass; weights are fp32. "auto" is bf16 on a GPU, and fp32 on a
    CPU, so that all CPUs train alike. With AVX512-BF16, bf16 is 1.5 to 3 times as fast; without
    it or AMX, it is slower."""
    seed: int = 0
    """Of the windows drawn and of dropout; with `mgdt-train`, of the first weights too."""
    workers: int | None = None
    """Processes that decode windows ahead; by default two for a GPU, and none on a CPU, where
    decoding takes a fiftieth of a gradient step."""
    log_interval: int = 100
    """Gradient steps between two lines of the log."""
    checkpoint_interval: int = 5000
    """Gradient steps between two checkpoints."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: naming the one that cannot be.
        """
        for name in ("steps", "batch_size", "log_interval", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {getattr(self, name)}")
        choices = {
            "optimizer": tuple(OPTIMIZERS),
            "decay": ("none", "linear"),
            "precision": ("auto", "bf16", "fp32"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidArgument(
                    f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) >= 0:
                raise InvalidArgument(f"{name} must not be negative, got {getattr(self, name)}")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of gradient step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = 1 - step / self.steps if self.decay == "linear" else 1.0
        return self.learning_rate * warm * left


def train(
    agent: NetworkAgent,
    config: TrainingConfig,
    *,
    output: Path | None = None,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
) -> None:
    """Train `agent` in place.

    Args:
        agent: what to train; its games become those of the replay.
        config: how.
        output: folder for `metrics.jsonl`, checkpoints and the trained agent; None writes nothing.
            Where it holds a checkpoint, training goes on from there.
        on_log: called with the figures of every `log_interval` steps.

    Raises:
        ValueError: if the replay was recorded under other rules than the agent's, or the
            checkpoint is of another configuration.
    """
    sampler = WindowSampler(
        config.replay,
        steps=agent.protocol.stack,
        future=agent.future,
        top_fraction=config.top_fraction,
        seed=config.seed,
    )
    for store in sampler.stores:
        if store.protocol != agent.protocol:
            raise InvalidArgument(
                f"{store.path} was recorded under another protocol than the agent's: "
                f"{store.protocol.sheet()}; expected {agent.protocol.sheet()}."
            )
    agent.games = sampler.games
    optimizer = OPTIMIZERS[config.optimizer](
        agent.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    first_step = _restore(agent, optimizer, config, output) if output else 0
    log = open_log(output / "metrics.jsonl", first_step) if output else None
    started, figures = time.monotonic(), []
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and agent.device.type == "cuda"
    )
    workers = config.workers
    if workers is None:
        workers = 2 if agent.device.type == "cuda" else 0
    steps = range(first_step, config.steps)
    windows = batches(sampler, config.batch_size, steps, workers=workers)
    agent.model.train()
    if first_step == 0:
        agent.after_step(0)
    for step, batch in zip(steps, windows, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        # Dropout and augmentation, like the windows, depend on the step alone, so that a resumed
        # run repeats them.
        batch = config.augmentation(batch, np.random.default_rng([config.seed, step]))
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))
        with torch.autocast(agent.device.type, torch.bfloat16, bf16):
            loss, terms = agent.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.model.parameters(), config.max_gradient_norm)
        optimizer.step()
        done = step + 1
        agent.after_step(done)
        figures.append({"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}})
        if done % config.log_interval == 0 or done == config.steps:
            elapsed = time.monotonic() - started
            line = {
                "step": done,
                **{
                    name: float(sum(f[name] for f in figures)) / len(figures) for name in figures[0]
                },
                "learning_rate": config.learning_rate_at(step),
                "windows_per_second": round((done - first_step) * config.batch_size / elapsed, 1),
            }
            if log:
                log.write(json.dumps(line) + "\n")
                log.flush()
            on_log(line)
            figures = []
        if output and (done % config.checkpoint_interval == 0 or done == config.steps):
            _checkpoint(agent, optimizer, output, done)
    agent.model.eval()


def _checkpoint(
    agent: NetworkAgent, optimizer: torch.optim.Optimizer, output: Path, step: int
) -> None:
    """Save the agent and what training needs to go on; the checkpoint before it is removed."""
    agent.save(output)
    partial = output / "checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with _single_process():
        dcp.save(_training_state(agent, optimizer), checkpoint_id=partial, no_dist=True)
    partial.rename(output / f"checkpoint-{step}")
    for older in output.glob("checkpoint-*"):
        if _step_of(older) < step:
            shutil.rmtree(older)


def _restore(
    agent: NetworkAgent,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    output: Path,
) -> int:
    """Load the last checkpoint of `output`, if any, and return its step."""
    output.mkdir(parents=True, exist_ok=True)
    checkpoints = sorted(output.glob("checkpoint-*"), key=_step_of)
    learner = {
        "agent": agent.kind,
        "network": dataclasses.asdict(agent.config),
        "games": agent.games,
    }
    description = json.dumps(learner | dataclasses.asdict(config), indent=2)
    if not checkpoints:
        (output / "training.json").write_text(description + "\n")
        return 0
    before = json.loads((output / "training.json").read_text())
    now = json.loads(description)
    compared = [name for name in now if name not in FREE_FIELDS]
    if differing := [name for name in compared if now[name] != before.get(name)]:
        raise InvalidArgument(
            f"{output} holds a checkpoint of another training: {', '.join(differing)} "
            f"was {[before.get(name) for name in differing]}, "
            f"is {[now[name] for name in differing]}. Choose another folder."
        )
    state = _training_state(agent, optimizer)
    with _single_process():
        dcp.load(state, checkpoint_id=checkpoints[-1], no_dist=True)
    for name, module in agent.training_modules().items():
        module.load_state_dict(state[name])
    set_optimizer_state_dict(agent.model, optimizer, state["optimizer"])
    return _step_of(checkpoints[-1])


@contextmanager
def _single_process() -> Iterator[None]:
    """Keep torch from warning that it saves and loads without other processes: so it shall."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _training_state(agent: NetworkAgent, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    modules = {name: module.state_dict() for name, module in agent.training_modules().items()}
    return {**modules, "optimizer": get_optimizer_state_dict(agent.model, optimizer)}


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))

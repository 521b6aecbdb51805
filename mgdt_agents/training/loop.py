"""The training loop: windows in, a trained agent out, resumable from its last checkpoint."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.errors import TrainingError
from mgdt_agents.replay import WindowBatch, WindowSampler, files
from mgdt_agents.training import parallel
from mgdt_agents.training.checkpoint import TrainingState
from mgdt_agents.training.config import TrainingConfig
from mgdt_agents.training.memory import keep_freed_memory
from mgdt_agents.training.metrics import Log, Stopwatch, has_scores
from mgdt_agents.training.optimizers import make_optimizer
from mgdt_agents.training.run_folder import Run
from mgdt_agents.training.windows import HeldOut, Parts, open_replay, parts_of
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.seeds import EVALUATION_SEED


def train(
    agent: NetworkAgent,
    config: TrainingConfig,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    on_step: Callable[[int], object] = lambda done: None,
    on_log: Callable[[dict[str, Any]], object] = lambda figures: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train `agent` in place.

    Under `torchrun`, each process calls it, and each computes its share of every batch.

    Args:
        agent: what to train; its games become those of the replay.
        config: how.
        output: folder for the log, checkpoints and the trained agent; None writes nothing. Where
            it holds a checkpoint, training resumes from there.
        overwrite: remove what `output` holds, once nothing stands in the way of training.
        on_step: called with the gradient steps done, at first and after each.
        on_log: called with each line of the log.
        should_stop: asked after each step, and while games are played; where it says so, a
            checkpoint is made and training stops.

    Returns:
        Gradient steps done: `config.steps`, or fewer if it was stopped.

    Raises:
        ValueError: if the replay was recorded under other rules than the agent's, the checkpoint
            is of another training or of other data, or a part of the network would not be trained.
        FileExistsError: if `output` holds an agent, and no checkpoint to go on from.
        TrainingError: if a loss is not finite, or a checkpoint cannot be written or read.
    """
    sampler = open_replay(agent, config)
    heldout = HeldOut(agent, config, sampler.stores) if config.heldout_fraction else None
    parts = Parts(sampler, config.batch_size, config.accumulate)
    agent.begin_training(sampler)
    keep_freed_memory()
    agent.model.train()  # before the optimizer's state, which is laid out like the weights
    run = Run(output, agent, config, sampler.stores)
    state = prepare(agent, config)

    def tell(done: int) -> None:
        if state.seen is not None:
            agent.trained_windows = state.seen + done * config.batch_size
        agent.after_step(done)
        on_step(done)

    with ExitStack() as exits:
        exits.callback(run.close)
        done = run.enter(state, overwrite)
        tell(done)
        log = Log(output if parallel.rank() == 0 else None, done)
        exits.callback(log.close)
        watch, question = Stopwatch(config.batch_size, agent.device), parallel.StopQuestion()

        def write(line: dict[str, Any]) -> None:
            log.write({"step": done, **line})
            on_log({"step": done, **line})

        def was_stopped_at_play() -> bool:
            with watch.paused():
                scores = play(state, config, should_stop)
            if scores is not None:
                write(scores)
            return scores is None

        steps = range(done, config.steps)
        if not steps:
            # A kill may have come between the last checkpoint and the agent.
            run.save_agent(state)
        if config.is_play_due(done):
            # What stopped the run may have come while the games were played.
            is_played = parallel.rank() == 0 and has_scores(output, done)
            if not parallel.gather(is_played)[0] and was_stopped_at_play():
                steps = range(0)
        batches = watch.waiting(parts_of(parts, steps, workers_of(agent, config)))
        for step in steps:
            state.figures.add(gradient_step(state, config, step, parts, batches))
            done = step + 1
            tell(done)
            watch.count_step()
            stopping = question.any_says(should_stop())
            saving = stopping or config.is_due(config.checkpoint_interval, done)
            logging = config.is_due(config.log_interval, done)
            if logging or (output and saving) or agent.device.type == "cpu":
                check_finite(state, sampler, config, done, output, run.has_checkpoint)
            for line in lines_after(done, state, config, heldout, run, watch):
                write(line)
            if saving:
                with watch.paused():
                    run.save(state, done)
            # Games are played when all is saved: it takes long.
            if not stopping and config.is_play_due(done) and was_stopped_at_play():
                stopping = True
                if not saving:
                    run.save(state, done)
            if stopping:
                break
    if state.average is not None:
        agent.model.load_state_dict(state.average.state_dict())
    agent.model.eval()
    return done


def prepare(agent: NetworkAgent, config: TrainingConfig) -> TrainingState:
    """Return what training changes, spread over the processes.

    Raises:
        ValueError: if training ends before its last stage begins.
    """
    if config.steps <= agent.stages[-1]:
        raise InvalidArgument(
            f"Expected more than {agent.stages[-1]:,} steps, for up to there a part of the network "
            f"is not trained, got {config.steps:,}. Take more, or let the last stage begin earlier "
            "(tokenizer_steps of the network)."
        )
    average = None
    if config.average_decay:
        average = copy.deepcopy(agent.model).requires_grad_(False).eval()
    for name, network in agent.training_modules().items():
        trained = name == "model"
        in_stages = len(agent.stages) > 1
        parallel.spread(network, fsdp=config.fsdp, trained=trained, in_stages=in_stages)
    if average is not None:
        parallel.spread(average, fsdp=config.fsdp, trained=False)
    if config.compile:
        agent.model.compile()
    # After the weights were shared out, for it holds what is here.
    return TrainingState(agent, make_optimizer(agent.model, config), average)


def workers_of(agent: NetworkAgent, config: TrainingConfig) -> int:
    """Return the number of processes that decode windows ahead."""
    if config.workers is not None:
        return config.workers
    return 2 if agent.device.type == "cuda" else 0


def gradient_step(
    state: TrainingState,
    config: TrainingConfig,
    step: int,
    parts: Parts,
    batches: Iterator[WindowBatch],
) -> dict[str, Tensor]:
    """Change the agent's weights by one batch, and return the loss and other figures."""
    agent, optimizer = state.agent, state.optimizer
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate_at(step)
    optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    for part in range(parts.parts):
        first = parts.first(part)
        # Dropout and augmentation, like the windows, depend on the step and the place in the batch
        # alone, so that a resumed run repeats them.
        draws = np.random.default_rng([config.seed, step])
        batch = config.augmentation(next(batches), draws, first)
        seed_draws(agent.device, config.seed, step, first)
        parallel.average_gradients(agent.model, part == parts.parts - 1)
        with autocast(agent, config):
            loss, figures = agent.loss(batch)
        (loss / parts.parts).backward()
        for name, figure in {"loss": loss, **figures}.items():
            sums[name] = sums.get(name, 0) + figure.detach() / parts.parts
    most = config.max_gradient_norm or math.inf
    norm = nn.utils.clip_grad_norm_(agent.model.parameters(), most)
    optimizer.step()
    if state.average is not None:
        average = get_ema_multi_avg_fn(config.average_decay)
        average(list(state.average.parameters()), list(agent.model.parameters()), step)
    return {**sums, "gradient_norm": parallel.whole(norm)}


def seed_draws(device: torch.device, *names: int) -> None:
    """Begin torch's random stream on a device that has these names."""
    seed = int(np.random.SeedSequence(names).generate_state(1)[0])
    # torch.manual_seed seeds every kind of device, which takes milliseconds.
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def training_dtype(device: torch.device, config: TrainingConfig) -> torch.dtype:
    """Return what the network computes in."""
    bf16 = {"bf16": True, "fp32": False, "auto": device.type == "cuda"}[config.precision]
    return torch.bfloat16 if bf16 else torch.float32


def autocast(agent: NetworkAgent, config: TrainingConfig) -> torch.autocast:
    """Return the context that the network computes in."""
    bf16 = training_dtype(agent.device, config) == torch.bfloat16
    return torch.autocast(agent.device.type, torch.bfloat16, bf16)


def lines_after(
    done: int,
    state: TrainingState,
    config: TrainingConfig,
    heldout: HeldOut | None,
    run: Run,
    watch: Stopwatch,
) -> Iterator[dict[str, Any]]:
    """Yield the lines of the log that are due after `done` gradient steps, but for scores."""
    if config.is_due(config.log_interval, done):
        means = parallel.means(state.figures.take_means())
        rate = config.learning_rate_at(done - 1)
        yield {**means, "learning_rate": rate, **watch.take()}
    with watch.paused():
        if heldout and config.is_due(config.heldout_interval, done):
            with played(state, config) as agent:
                line = heldout.measure(agent)
            run.save_best(state, line["heldout_loss"])
            yield line


def check_finite(
    state: TrainingState,
    sampler: WindowSampler,
    config: TrainingConfig,
    done: int,
    output: Path | None,
    has_checkpoint: bool,
) -> None:
    """Check that the losses since the last line of the log are finite.

    Raises:
        TrainingError: naming the first step whose loss or gradient is not finite, and its windows.
    """
    columns = state.figures.values()
    rows = list(zip(columns["loss"], columns["gradient_norm"], strict=True))
    bad = [number for number, row in enumerate(rows) if not all(map(math.isfinite, row))]
    if not bad:
        return
    step = done - len(rows) + bad[0]
    loss, norm = rows[bad[0]]
    windows = [f"{path}, row {row}" for path, row in sampler.drawn_rows(config.batch_size, step)]
    shown = "; ".join(windows[:3])
    if output and parallel.rank() == 0:
        report = output / "not_finite.json"
        content = {"step": step + 1, "loss": str(loss), "windows": windows}
        files.replace(report, files.json_bytes(content))
        shown += f"; all of them are in {report}"
    before = "The last checkpoint is from before. " if has_checkpoint else ""
    raise TrainingError(
        f"Step {step + 1} has a loss of {loss:g} and a gradient of norm {norm:g}, from "
        f"{len(windows)} windows: {shown}. {before}A lower learning rate, a longer warm-up or a "
        "smaller max_gradient_norm may help."
    )


@contextmanager
def played(state: TrainingState, config: TrainingConfig) -> Iterator[NetworkAgent]:
    """Give the agent the weights that are played, in the mode for that, for a while."""
    agent, model = state.agent, state.agent.model
    agent.model = state.played
    agent.model.eval()
    try:
        with autocast(agent, config):
            yield agent
    finally:
        agent.model = model
        agent.model.train()


def play(
    state: TrainingState, config: TrainingConfig, should_stop: Callable[[], bool]
) -> dict[str, float] | None:
    """Return the mean score of each game, played by the first process; None if it is to stop."""
    # Imported only when needed: it takes seconds.
    from mgdt_agents.evaluation.rollout import rollout

    scores: dict[str, float] | None = {}
    with played(state, config) as agent:
        player = parallel.whole_agent(agent, agent.model)
        if parallel.rank() == 0:
            scores = {f"score/{game}": 0.0 for game in agent.games}
            episodes = config.play_episodes
            for step in rollout(player, agent.games, episodes=episodes, seed=EVALUATION_SEED):
                if should_stop():
                    scores = None
                    break
                for game, reward in zip(step.games, step.rewards, strict=True):
                    scores[f"score/{game}"] += float(reward) / episodes
    return parallel.gather(scores)[0]

"""What `tt` imagines beside what came, on held-out episodes: the figures of docs/planning.md.

`python -m tests.studies.imagination RUN --picture imagined.png` draws windows of the episodes that
the run held out. What is imagined follows from the actions that were taken.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from mgdt_agents.action_sets import allowed_actions, effective_actions
from mgdt_agents.decision_transformer.tokens import encode_rewards
from mgdt_agents.planning import TrajectoryTransformerAgent
from mgdt_agents.planning.imagination import Imagined, imagine
from mgdt_agents.planning.search import search
from mgdt_agents.q_learning.losses import expected_values
from mgdt_agents.replay import WindowBatch, WindowSampler

HORIZON = 10
SHOWN = (1, 2, 3, 5, 10)  # of the horizons, in the table
DRAWN = 20_000  # steps of a game among which rewards and ends are looked for
RARE = 50  # of those that are found, as many are measured


def beginning(
    agent: TrajectoryTransformerAgent, batch: WindowBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the frames of windows' first steps, and all actions, and rewards, as tokens."""
    context = agent.config.context
    frames = torch.from_numpy(batch.frames[:, :context])
    tokens = agent.model.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    of_games = effective_actions(agent.games, agent.protocol)
    actions = torch.from_numpy(of_games[batch.games[:, None], batch.actions])
    return tokens, actions, torch.from_numpy(encode_rewards(batch.rewards[:, :context]))


def imagined(agent: TrajectoryTransformerAgent, batch: WindowBatch, steps: int) -> Imagined:
    """Return what follows from the first steps of windows, and from the actions after them."""
    context, tokenizer = agent.config.context, agent.model.tokenizer
    tokens, actions, rewards = beginning(agent, batch)
    coming = actions[:, context - 1 : context - 1 + steps]
    found, *others = imagine(agent.model.world, tokens, actions[:, :context], rewards, coming)
    seen = tokenizer.decode(found.flatten(0, 1)).unflatten(0, found.shape[:2])
    return Imagined(*(part.numpy() for part in (seen, *others)))


def rms(found: NDArray[np.uint8], true: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Return the root mean squared error of some pixels, in gray levels of 0..255."""
    errors = (found.astype(np.float64) - true)[where]
    return float(np.sqrt(np.square(errors).mean()))


def frame_errors(agent: TrajectoryTransformerAgent, batch: WindowBatch, game: str) -> None:
    """Print a game's errors of reconstruction, and by horizon, beside those of the last frame."""
    context = agent.config.context
    last, coming = batch.frames[:, context - 1], batch.frames[:, context:]
    tokenizer = agent.model.tokenizer
    rebuilt = tokenizer.decode(tokenizer.encode(torch.from_numpy(last))).numpy()
    everywhere = np.ones(last.shape, bool)
    moved = last != batch.frames[:, context - 2] if context > 1 else everywhere
    print(
        f"| {game} | reconstruction | {rms(rebuilt, last, everywhere):.1f} | | "
        f"{rms(rebuilt, last, moved):.1f} | |"
    )
    found = imagined(agent, batch, HORIZON).frames
    for horizon in SHOWN:
        true, seen = coming[:, horizon - 1], found[:, horizon - 1]
        changed = true != last
        cells = [rms(x, true, where) for where in (everywhere, changed) for x in (seen, last)]
        print(f"| {game} | {horizon} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


def outcomes(
    agent: TrajectoryTransformerAgent, sampler: WindowSampler, batch: WindowBatch, game: str
) -> None:
    """Print how often rewards and ends of the next step are known, of any and of rare steps."""
    now = agent.config.context - 1
    drawn = sampler.drawn_rows(DRAWN, 0)
    rows = np.array([row for _, row in drawn])
    (store,) = sampler.stores
    first = np.zeros(DRAWN, bool)
    first[np.unique(rows, return_index=True)[1]] = True
    cells = []
    said = imagined(agent, batch, 1)
    rewards, ends = np.sign(batch.rewards[:, now]), batch.terminated[:, now]
    cells.append(f"{np.mean(said.rewards[:, 0].round() == rewards):.1%}")
    for name, column in (("rewards", store.rewards), ("ends", store.terminated)):
        places = np.flatnonzero(first & (column[rows] != 0))[:RARE]
        if name == "ends":
            cells.append(f"{np.mean((said.ends[:, 0] > 0.5) == ends):.1%}")
        if not len(places):
            cells.append("none drawn")
            continue
        rare = joined([sampler.sample(DRAWN, 0, slice(place, place + 1)) for place in places])
        theirs = imagined(agent, rare._replace(games=rare.games + batch.games[0]), 1)
        if name == "rewards":
            hits = theirs.rewards[:, 0].round() == np.sign(rare.rewards[:, now])
        else:
            hits = theirs.ends[:, 0] > 0.5
        cells.append(f"{hits.sum()} of {len(hits)}")
    print(f"| {game} | {' | '.join(cells)} |", flush=True)


def choices(agent: TrajectoryTransformerAgent, batch: WindowBatch, game: str) -> None:
    """Print how many actions there are to choose from, and how looking ahead changes the choice."""
    tokens, actions, rewards = beginning(agent, batch)
    now = tokens, actions[:, : tokens.shape[1]], rewards
    allowed = torch.from_numpy(allowed_actions(agent.games, agent.protocol)[batch.games])
    plans = [dataclasses.replace(agent.search, horizon=h) for h in range(agent.config.horizon + 1)]
    scores = [search(agent.model.world, *now, allowed, plan).scores for plan in plans]
    number = scores[0].isfinite().sum(1)
    several = number > 1
    values, *others = (found[several] for found in scores)
    lowest = values.masked_fill(values.isinf(), torch.inf).amin(1)
    spread = values.amax(1) - lowest
    same = [(found.argmax(1) == values.argmax(1)).double().mean() for found in others]
    cells = [f"{several.double().mean():.0%}", f"{number.double().mean():.1f}"]
    cells += [f"{spread.mean():.3f}", *(f"{share:.0%}" for share in same)]
    print(f"| {game} | {' | '.join(cells)} |", flush=True)


@torch.no_grad()
def values_there(agent: TrajectoryTransformerAgent, batch: WindowBatch, game: str) -> None:
    """Print how far the values of imagined states are from those of the real ones.

    A state's value is that of its best allowed action. What follows from different actions differs
    in value by about as much as the actions do, so look-ahead needs errors well below that.
    """
    context, horizon, world = agent.config.context, agent.config.horizon, agent.model.world
    tokens, actions, rewards = beginning(agent, batch)
    coming = actions[:, context - 1 : context - 1 + horizon]
    seen, *_ = imagine(world, tokens, actions[:, :context], rewards, coming)
    frames = torch.from_numpy(batch.frames[:, context : context + horizon])
    real = agent.model.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    all_rewards = torch.from_numpy(encode_rewards(batch.rewards[:, : context + horizon]))
    allowed = torch.from_numpy(allowed_actions(agent.games, agent.protocol)[batch.games])

    def value(following: torch.Tensor, step: int) -> torch.Tensor:
        sequence = torch.cat([tokens, following[:, :step]], 1)
        steps = sequence.shape[1]
        said = world(sequence, actions[:, :steps], all_rewards[:, :steps])
        values = expected_values(said["value"], world.config.max_value)[:, -1]
        return values.masked_fill(~allowed, -torch.inf).amax(-1)

    for step in range(1, horizon + 1):
        there, true = value(seen, step), value(real, step)
        error = (there - true).square().mean().sqrt()
        correlation = torch.corrcoef(torch.stack([there, true]))[0, 1]
        print(f"| {game} | {step} | {error:.3f} | {correlation:.2f} |", flush=True)


def joined(batches: Sequence[WindowBatch]) -> WindowBatch:
    """Return the windows of several batches as one."""
    columns = zip(*(batch[:8] for batch in batches), strict=True)
    return WindowBatch(*(np.concatenate(column) for column in columns))


def picture_of(agent: TrajectoryTransformerAgent, batch: WindowBatch) -> NDArray[np.uint8]:
    """Return a row of what was imagined of the first window, above one of what came."""
    one = WindowBatch(*(column[:1] for column in batch[:8]))
    real = one.frames[0, agent.config.context - 1 :]
    tokenizer = agent.model.tokenizer
    start = tokenizer.decode(tokenizer.encode(torch.from_numpy(real[:1]))).numpy()
    seen = np.concatenate([start, imagined(agent, one, HORIZON).frames[0]])
    return np.concatenate([np.concatenate(list(row), 1) for row in (seen, real)])


def main() -> None:
    """Print the tables, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    agent = TrajectoryTransformerAgent.load(arguments.run, device="cpu")
    agent.model.eval()
    training = json.loads((arguments.run / "training.json").read_text())["training"]
    samplers, batches = [], []
    for number, store in enumerate(training["replay"]):
        sampler = WindowSampler(
            [store],
            steps=agent.config.context,
            future=HORIZON,
            split="heldout",
            heldout_fraction=training["heldout_fraction"],
        )
        batch = sampler.sample(2 * arguments.windows, 1)
        whole = np.flatnonzero(batch.valid.all(1))[: arguments.windows]
        samplers.append(sampler)
        batches.append(WindowBatch(*(column[whole] for column in batch[:8])))
        batches[-1].games[:] = number
    print(
        "| game | steps ahead | imagined | last frame | imagined, changed | last frame, changed |"
    )
    print("|---|---|---|---|---|---|")
    for game, batch in zip(agent.games, batches, strict=True):
        frame_errors(agent, batch, game)
    print("\n| game | reward accuracy | rewards known | end accuracy | ends known |")
    print("|---|---|---|---|---|")
    for game, sampler, batch in zip(agent.games, samplers, batches, strict=True):
        outcomes(agent, sampler, batch, game)
    horizons = " | ".join(f"horizon {h} agrees" for h in range(1, agent.config.horizon + 1))
    print(f"\n| game | a choice | likely actions | spread of values | {horizons} |")
    print("|---|" + "---|" * (3 + agent.config.horizon))
    for game, batch in zip(agent.games, batches, strict=True):
        choices(agent, batch, game)
    print("\n| game | steps ahead | error of the state's value | correlation |\n|---|---|---|---|")
    for game, batch in zip(agent.games, batches, strict=True):
        values_there(agent, batch, game)
    if arguments.picture:
        rows = [picture_of(agent, batch) for batch in batches]
        cv2.imwrite(str(arguments.picture), np.concatenate(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()

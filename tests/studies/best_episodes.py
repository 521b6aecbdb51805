"""How likely agents find what was done in the best tenth of each game's episodes: docs/results.md.

`python -m tests.studies.best_episodes RUN... --replay replay/*` prints the cross-entropy of the
action at the last step of a window, mean over the games. Ranks of `dt` are set to the highest, as
it acts. Episodes are those that the training held out, or with `--split train` those it learned.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mgdt_agents import load_agent
from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.decision_transformer.tokens import encode_rewards
from mgdt_agents.replay import WindowBatch, WindowSampler

BATCH_SIZE = 256


@torch.no_grad()
def cross_entropy(agent: DecisionTransformerAgent, batch: WindowBatch) -> float:
    """Return the mean cross-entropy in nats of the last step's actions."""
    inputs = [batch.frames, batch.actions, encode_rewards(batch.rewards)]
    if agent.config.return_tokens != "none":
        inputs.append(np.full_like(batch.actions, agent.config.returns - 1))
    logits = agent.model(*map(torch.as_tensor, inputs))["action"][:, -1]
    return float(F.cross_entropy(logits.float(), torch.as_tensor(batch.actions[:, -1])))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, help="agents dt, dtq or bc with ranks or none"
    )
    parser.add_argument("--replay", nargs="+", type=Path, required=True)
    parser.add_argument("--heldout-fraction", type=float, default=0.05, help="of the training")
    parser.add_argument("--split", choices=["heldout", "train"], default="heldout")
    parser.add_argument("--batches", type=int, default=4, help="of 256 windows, of each game")
    arguments = parser.parse_args()
    for run in arguments.runs:
        agent = load_agent(run, device="cpu")
        assert isinstance(agent, DecisionTransformerAgent), f"{run} is not a transformer"
        agent.model.eval()
        losses = []
        for path in arguments.replay:
            sampler = WindowSampler(
                [str(path)],
                **agent.windows,
                split=arguments.split,
                heldout_fraction=arguments.heldout_fraction,
                top_fraction=0.1,
                seed=7,
            )
            batches = (sampler.sample(BATCH_SIZE, step) for step in range(arguments.batches))
            losses.append(np.mean([cross_entropy(agent, batch) for batch in batches]))
        print(f"{run}: {np.mean(losses):.3f}", flush=True)


if __name__ == "__main__":
    main()

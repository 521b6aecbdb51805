"""Random play beside the published random scores: the tables of docs/random_play.md.

`mgdt-bench --agents random --games atari57 --episodes 10 --output results/random` plays all games;
`python -m tests.studies.random_play results/random/results.json` then plays those whose published
score is not in the 95 % interval again, with other rules, and prints the tables.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mgdt_agents.evaluation.results import Results
from mgdt_envs import AtariProtocol, MultiGameAtariVectorEnv, game

# Mnih et al. 2015, Methods: 10 Hz, up to 30 no-ops, five minutes.
AS_PUBLISHED = AtariProtocol(sticky=0, noop_max=31, frame_skip=6, max_frames=18_000)


def play(name: str, protocol: AtariProtocol, episodes: int) -> NDArray[np.float64]:
    """Return the scores of the first episodes of as many environments; actions are the game's."""
    envs = MultiGameAtariVectorEnv(episodes, [name], protocol=protocol)
    random, actions = np.random.default_rng(0), np.array(game(name).minimal_actions)
    envs.reset(seed=0)
    scores = np.full(episodes, np.nan)
    while np.isnan(scores).any():
        *_, infos = envs.step(random.choice(actions, episodes))
        for env in np.flatnonzero(infos.get("_episode", [])):
            if math.isnan(scores[env]):
                scores[env] = infos["episode"]["r"][env]
    envs.close()
    return scores


def cell(scores: NDArray[np.float64], published: float) -> str:
    """Return the mean and half of its 95 % interval (Student's t), and a star where it is off."""
    half = stats.t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / math.sqrt(len(scores))
    star = " *" if abs(scores.mean() - published) > half else ""
    return f"{scores.mean():,.1f} ± {half:,.1f}{star}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    results = Results.load(parser.parse_args().results)
    summaries = results.summaries
    lines, differing = [], []
    for name in results.games:
        published = game(name).random
        summary = summaries["random", "default", name]
        assert summary.interval is not None
        low, high = summary.interval
        side = "lower" if high < published else "higher" if low > published else ""
        differing += [name] if side else []
        measured = f"{summary.mean:,.1f} [{low:,.1f}, {high:,.1f}]"
        lines.append(f"| {name} | {published:,.1f} | {measured} | {side} |")
    print(f"{len(differing)} of {len(results.games)} games differ.")
    print("| game | actions | published | default | own actions | as published |")
    print("|---|---|---|---|---|---|")
    for name in differing:
        published, actions = game(name).random, len(game(name).minimal_actions)
        (default,) = results.scores("random", name)
        own = play(name, AtariProtocol(), len(default)) if actions < 18 else None
        columns = [default, own, play(name, AS_PUBLISHED, len(default))]
        shown = ["" if scores is None else cell(scores, published) for scores in columns]
        print(f"| {name} | {actions} | {published:,.1f} | {' | '.join(shown)} |", flush=True)
    print("\n| game | published | `random` here | |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

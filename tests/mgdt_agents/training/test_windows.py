"""Which windows are learned from, and which are held out."""

import dataclasses

from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.replay import ReplayStore
from mgdt_agents.training import TrainingConfig
from mgdt_agents.training.windows import HeldOut, open_replay


def test_return_weighting_reaches_learned_and_heldout_windows(
    make_random_episodes, write_store, tmp_path
):
    path = write_store(tmp_path / "Pong", "Pong", make_random_episodes([9] * 12))
    config = TrainingConfig(replay=(path,), steps=1, heldout_fraction=0.4)
    agent = DecisionTransformerAgent(DecisionTransformerAgent.presets["tiny"], device="cpu")

    def ranks(config):
        samplers = [
            open_replay(agent, config),
            HeldOut(agent, config, [ReplayStore(path)]).samplers["Pong"],
        ]
        return [set(sampler.sample(200, 0).episode_ranks.tolist()) for sampler in samplers]

    learned, heldout = ranks(config)
    assert len(learned) > 1
    assert len(heldout) > 1
    best = ranks(dataclasses.replace(config, return_weighting=100.0))
    assert best == [{max(learned)}, {max(heldout)}]

"""What the planner learns of a small world of pictures, and what it does with it."""

import numpy as np
import pytest
import torch

from mgdt_agents.planning import (
    Search,
    TrajectoryTransformerAgent,
    TrajectoryTransformerConfig,
)
from tests.mgdt_agents.small_mdps import ACTIONS, GAME, SIDE, Problem, Row, pictures, protocol

DISCOUNT = 0.9
DETOUR = Problem(
    [
        [[(1.0, 3, 1.0)], [(1.0, 1, 0.0)], [(1.0, 0, 0.0)]],
        [[(1.0, 0, 0.0)], [(1.0, 0, 0.0)], [(1.0, 2, 1.0)]],
        [[(1.0, None, 1.0)], [(1.0, None, 0.0)], [(1.0, None, 0.0)]],
        [[(1.0, None, -1.0)]] * 3,
    ]
)
"""Action 0 brings 1 at once and then -1; the way round, by 2, 5 and 0, brings 0, 1 and 1."""
CONFIG = TrajectoryTransformerConfig(
    layers=2,
    width=64,
    context=1,
    horizon=2,
    frame_size=SIDE,
    grid=3,
    cells=1,
    channels=16,
    code_size=2,
    levels=3,
    tokenizer_steps=150,
    max_value=2.0,
    value_discount=DISCOUNT,
    likely=0.0,
    # Values see one reward and no further: the target network stays what it was before training,
    # so they are wrong on purpose.
    n_steps=1,
    target_period=10**9,
)


@pytest.fixture(scope="module")
def trained(write_store, tmp_path_factory) -> TrajectoryTransformerAgent:
    """The agent after a training on random play of DETOUR."""
    played = DETOUR.record(np.full((4, 3), 1 / 3), 300)
    rows = [Row(*episode) for episode in played]
    folder = tmp_path_factory.mktemp("detour") / "store"
    store = write_store(folder, GAME, rows, stack=1, screen_size=SIDE)
    torch.manual_seed(0)
    agent = TrajectoryTransformerAgent(
        CONFIG, search=Search(likely=0.0), protocol=protocol(), device="cpu"
    )
    return agent.learn(
        [str(store)],
        steps=550,
        batch_size=32,
        optimizer="adamw",
        learning_rate=5e-3,
        warmup_steps=20,
        decay="linear",
    )


def episode_return(agent: TrajectoryTransformerAgent) -> float:
    """Return what a greedy episode of DETOUR brings."""
    agent.beta = 1e6  # scores alone
    agent_state, state, total, steps = None, 0, 0.0, 0
    while state is not None and steps < 10:
        action, agent_state = agent.predict(
            pictures([state])[:, None], agent_state, deterministic=True
        )
        ((_, state, reward),) = DETOUR.outcomes[state][ACTIONS.index(int(action[0]))]
        total, steps = total + reward, steps + 1
    return total


def test_two_steps_of_look_ahead_are_right_where_greedy_values_are_wrong(trained):
    returns = {}
    for horizon in (0, 1, 2):
        trained.search = Search(horizon=horizon, likely=0.0)
        returns[horizon] = episode_return(trained)
    assert returns[0] == 0  # 1 and -1
    assert returns[2] == 2  # the optimum
    assert DETOUR.q_values(1.0)[0].max() == 2


def test_scores_are_those_of_the_world(trained):
    # One reward further than the horizon: the values see that.
    trained.search = Search(horizon=2, beam=9, likely=0.0)
    scores = trained.action_scores(pictures([0])[:, None])
    myopic = [DISCOUNT * -1 + 1, DISCOUNT + DISCOUNT**2, DISCOUNT**2]
    np.testing.assert_allclose(scores[0, list(ACTIONS)], myopic, atol=0.1)


def test_next_frames_are_those_of_the_world(trained):
    for state, outcomes in enumerate(DETOUR.outcomes):
        for action, ((_, following, _),) in zip(ACTIONS, outcomes, strict=True):
            if following is None:
                continue
            frame = trained.imagine(pictures([state])[:, None], np.array([[action]])).frames[0, 0]
            error = np.abs(frame.astype(int) - pictures([following])[0])
            assert error.max() < 25, (state, action)  # of 255

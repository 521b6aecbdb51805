"""What learners have in common: the play that they are shown, and the loop."""

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from mgdt_agents.online.learner import Learner, Play, mean_returns, updates

# Of each environment and step: lives before the first, then (lives, terminated, truncated).
LIVES = [
    [3, (2, False, False), (0, True, False), (3, False, False), (3, False, True)],
    [1, (1, False, False), (1, False, True), (3, False, False), (2, False, False)],
]


class ScriptedEnvs(VectorEnv):
    """Environments of `LIVES`, whose observations and rewards are the number of the step."""

    num_envs = 2

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps, self.actions = seed, 0, []
        return np.zeros(2), {"lives": np.array([lives[0] for lives in LIVES])}

    def step(self, actions):
        self.steps += 1
        self.actions.append(actions)
        now = [lives[self.steps] for lives in LIVES]
        lives, terminated, truncated = (np.array(part) for part in zip(*now, strict=True))
        infos = {"lives": lives, "episode": {"r": np.array([10.0, 20.0]) * self.steps}}
        return np.full(2, self.steps), np.full(2, float(self.steps)), terminated, truncated, infos


class TwoStepLearner(Learner):
    """Updates after every second step."""

    name = "two"

    def __init__(self, games_of_envs):
        super().__init__(None, games_of_envs, 8)

    def _setup(self):
        self.steps_shown = []

    def act(self, observations):
        return observations + 100

    def learn(self, step):
        self.steps_shown.append(step)
        self.steps_played += self.num_envs
        return None if len(self.steps_shown) % 2 else {"shown": len(self.steps_shown)}


def test_learner_is_shown_what_its_actions_bring():
    envs = ScriptedEnvs()
    learner = TwoStepLearner(["Pong", "Breakout"])
    play = Play(envs, ["Pong", "Breakout"], seed=7)
    learning = updates(learner, play)
    assert [next(learning), next(learning)] == [{"shown": 2}, {"shown": 4}]
    assert (envs.seed, learner.steps_played) == (7, 8)
    shown = learner.steps_shown
    for number, step in enumerate(shown):
        assert step.observations.tolist() == [number] * 2
        assert step.next_observations.tolist() == [number + 1] * 2
        assert envs.actions[number].tolist() == [number + 100] * 2
    # A step that only begins an episode loses no life, however many the new one has.
    assert [step.life_lost.tolist() for step in shown] == [
        [True, False],
        [True, False],
        [False, False],
        [False, True],
    ]
    assert [step.is_transition.tolist() for step in shown] == [
        [True, True],
        [True, True],
        [False, False],
        [True, True],
    ]
    assert play.episodes == 3
    assert {name: list(returns) for name, returns in play.returns.items()} == {
        "Pong": [20.0, 40.0],
        "Breakout": [40.0],
    }
    assert mean_returns(play.returns) == {"mean_return/Pong": 30.0, "mean_return/Breakout": 40.0}


def test_mean_return_of_one_game():
    play = Play(ScriptedEnvs(), ["Pong", "Pong"], seed=0)
    assert mean_returns(play.returns) == {"mean_return": None}
    for _ in range(2):
        play.step(np.zeros(2, int))
    assert mean_returns(play.returns) == {"mean_return": 30.0}


@pytest.mark.parametrize(
    ("games", "actions"),
    [(["Breakout"], [0, 1, 3, 4]), (["Breakout", "Freeway"], [0, 1, 2, 3, 4, 5])],
)
def test_actions_are_those_of_the_games(games, actions):
    assert TwoStepLearner(games).actions.tolist() == actions

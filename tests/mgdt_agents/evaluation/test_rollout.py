"""Rollouts: every episode once, rows that stay with their episodes."""

from collections import defaultdict
from functools import partial

import numpy as np
import pytest

from mgdt_agents import evaluation
from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.place import Emulators
from mgdt_agents.evaluation.rollout import FEWEST_ROWS
from mgdt_agents.evaluation.rollout import play as play_episodes
from mgdt_envs import AtariProtocol, MultiGameAtariEnv

# Breakout ends with the first ball; Riverraid at the time limit, after sixty steps.
PROTOCOL = AtariProtocol(life_loss_ends=True, max_frames=240)
GAMES = ("Breakout", "Riverraid")
SEED = 4  # the second episode is longer than its neighbors
# They take long to make. That those which have played before play the same is tested below.
EMULATORS = Emulators()
play = partial(play_episodes, emulators=EMULATORS)
rollout = partial(evaluation.rollout, emulators=EMULATORS)


class ScriptedAgent(Agent):
    """Acts by what it sees and remembers of the episode, whatever row that is in.

    The state is the last observation, the number of steps and the sum of rewards. It keeps what
    it was given in `calls`.
    """

    kind = "scripted"

    def __init__(self, protocol=PROTOCOL):
        super().__init__((), protocol)
        self.calls = []

    def _act(self, inputs):
        observations, state, starts, rewards, games, deterministic, _ = inputs
        n = len(observations)
        last, steps, sums = state or (observations, np.zeros(n, int), np.zeros(n))
        steps = np.where(starts, 0, steps + 1)
        sums = np.where(starts, 0.0, sums + rewards)
        self.calls.append(
            {
                "starts": starts.copy(),
                "rewards": rewards.copy(),
                "steps": steps,
                "sums": sums,
                "last": last,
                "deterministic": deterministic,
                "games": games,
            }
        )
        actions = (observations.sum((1, 2, 3), dtype=np.int64) + steps + sums.astype(int)) % 18
        return actions, (observations.copy(), steps, sums)


def played(batch_size, episodes=4, games=GAMES, **options):
    """Return the agent, the steps, and by (game, seed) what was seen of each episode."""
    agent = ScriptedAgent()
    steps = list(
        rollout(agent, games, episodes=episodes, seed=SEED, batch_size=batch_size, **options)
    )
    rows = defaultdict(list)
    for step in steps:
        for row, key in enumerate(zip(step.games, step.seeds.tolist(), strict=True)):
            rows[key].append([field[row] for field in step[2:7]])
    return agent, steps, rows


@pytest.fixture(scope="module")
def together():
    return played(batch_size=256)


@pytest.fixture(scope="module")
def in_small_batches():
    return played(batch_size=3)


def test_agents_are_told_the_games(in_small_batches):
    agent, steps, _ = in_small_batches
    told = [call["games"][: len(step.games)] for call, step in zip(agent.calls, steps, strict=True)]
    assert told == [tuple(step.games) for step in steps]


def test_each_episode_is_played_once_to_its_end(together):
    _, _, rows = together
    assert set(rows) == {(game, SEED + number) for game in GAMES for number in range(4)}
    for episode in rows.values():
        ended = [terminated or truncated for *_, terminated, truncated in episode]
        assert ended == [False] * (len(episode) - 1) + [True]
    lengths = {key: len(episode) for key, episode in rows.items()}
    assert {lengths[key] for key in rows if key[0] == "Riverraid"} == {60}
    assert lengths["Breakout", SEED + 1] > lengths["Breakout", SEED]


def test_batch_size_changes_no_episode(together, in_small_batches):
    assert max(len(step.games) for step in together[1]) == 8
    assert max(len(step.games) for step in in_small_batches[1]) == 3
    assert set(together[2]) == set(in_small_batches[2])
    for key, episode in together[2].items():
        other = in_small_batches[2][key]
        assert len(episode) == len(other)
        for step, same_step in zip(episode, other, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(step, same_step, strict=True))


def test_one_episode_at_a_time():
    _, steps, rows = played(batch_size=1, episodes=2, games=("Breakout",))
    assert {len(step.games) for step in steps} == {1}
    assert set(rows) == {("Breakout", SEED), ("Breakout", SEED + 1)}


def test_episodes_are_those_of_the_single_environment(together):
    _, _, rows = together
    for (game, seed), episode in rows.items():
        env = MultiGameAtariEnv(game, PROTOCOL)
        observation, _ = env.reset(seed=seed)
        for number, (seen, action, reward, terminated, truncated) in enumerate(episode):
            assert np.array_equal(observation, seen), (game, seed, number)
            observation, *outcome, info = env.step(action)
            assert outcome == [reward, terminated, truncated]
        assert info["episode"]["r"] == sum(reward for _, _, reward, _, _ in episode)
        assert info["episode"]["l"] == len(episode)


@pytest.mark.parametrize("how", ["together", "in_small_batches"])
def test_what_the_agent_is_told(how, request):
    agent, steps, _ = request.getfixturevalue(how)
    assert len(agent.calls) == len(steps)
    # However few are played, the agent gets a batch that is no smaller.
    assert {len(call["starts"]) for call in agent.calls} == {FEWEST_ROWS}
    last_rewards, taken, sums, last_seen = {}, defaultdict(int), defaultdict(float), {}
    rows_moved = False
    for call, step in zip(agent.calls, steps, strict=True):
        for row, key in enumerate(zip(step.games, step.seeds.tolist(), strict=True)):
            starts = key not in last_rewards
            assert call["starts"][row] == starts
            # What the state says of this row is of this episode.
            assert call["steps"][row] == taken[key]
            assert call["sums"][row] == sums[key]
            if not starts:
                assert call["rewards"][row] == last_rewards[key]
                assert np.array_equal(call["last"][row], last_seen[key][0])
                rows_moved = rows_moved or last_seen[key][1] != row
            taken[key] += 1
            last_rewards[key] = step.rewards[row]
            sums[key] += step.rewards[row]
            last_seen[key] = step.observations[row], row
    assert rows_moved or how == "in_small_batches"


def test_deterministic_is_handed_on():
    for deterministic in (False, True):
        agent, *_ = played(4, episodes=1, games=("Breakout",), deterministic=deterministic)
        assert {call["deterministic"] for call in agent.calls} == {deterministic}


class DrawingAgent(ScriptedAgent):
    """Acts at random."""

    def _act(self, inputs):
        return (inputs.draws.uniform() * 18).astype(np.int64), None


def drawn_actions(games, **options):
    """Return the actions of each episode by game and seed."""
    actions = defaultdict(list)
    for step in rollout(DrawingAgent(), games, **options):
        for game, seed, action in zip(step.games, step.seeds.tolist(), step.actions, strict=True):
            actions[game, seed].append(int(action))
    return actions


def test_an_episode_draws_the_same_in_any_company():
    together = drawn_actions(GAMES, episodes=3, seed=SEED)
    alone = drawn_actions(GAMES[1:], episodes=3, seed=SEED, batch_size=1)
    assert {key: together[key] for key in alone} == alone
    # And no two episodes draw the same.
    assert len({tuple(actions[:10]) for actions in together.values()}) == len(together) == 6


def test_draws_depend_on_the_episode_s_seed():
    first, again, other = (drawn_actions(["Breakout"], episodes=1, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["Breakout", 1] != other["Breakout", 2]


def test_protocol_defaults_to_the_agent_s():
    agent = ScriptedAgent(AtariProtocol(max_frames=20))
    assert len(list(rollout(agent, ["Pong"], episodes=1))) == 5
    assert (
        len(list(rollout(agent, ["Pong"], episodes=1, protocol=AtariProtocol(max_frames=8)))) == 2
    )


def lengths_and_ends(steps):
    """Return the length of each episode and how it ended, by game and seed."""
    lengths, ends = defaultdict(int), {}
    for step in steps:
        for row, key in enumerate(zip(step.games, step.seeds.tolist(), strict=True)):
            assert key not in ends  # nothing is played after the end
            lengths[key] += 1
            assert (step.ends[row] != "") == (step.terminated[row] or step.truncated[row])
            if step.ends[row]:
                ends[key] = (lengths[key], step.ends[row])
    return ends


class NoopAgent(ScriptedAgent):
    """Never serves the ball."""

    def _act(self, inputs):
        return np.zeros(len(inputs.observations), np.int64), None


def test_idle_episodes_are_played_to_the_time_limit_unless_cut_off():
    episodes = [("Breakout", 1), ("Riverraid", 1)]
    rules = AtariProtocol(max_frames=800)
    agent = NoopAgent()
    assert set(lengths_and_ends(play(agent, episodes, protocol=rules)).values()) == {
        (200, "truncated")
    }
    cut = lengths_and_ends(play(agent, episodes, protocol=rules, idle_steps=50))
    assert cut["Breakout", 1] == (50, "idle")
    capped = lengths_and_ends(play(agent, episodes, protocol=rules, max_steps=30, idle_steps=50))
    assert set(capped.values()) == {(30, "step limit")}


class FireAgent(ScriptedAgent):
    """Serves and shoots always."""

    def _act(self, inputs):
        return np.ones(len(inputs.observations), np.int64), None


def test_an_episode_with_rewards_is_not_idle():
    episodes = [("Riverraid", 1)]
    rules = AtariProtocol(max_frames=1200)
    *steps, _ = play(FireAgent(), episodes, protocol=rules)
    gaps = np.diff([-1, *np.flatnonzero([step.rewards[0] != 0 for step in steps])])
    assert len(gaps) > 3
    whole = lengths_and_ends(play(FireAgent(), episodes, protocol=rules))
    assert (
        lengths_and_ends(play(FireAgent(), episodes, protocol=rules, idle_steps=len(steps) - 10))
        == whole
    )
    (cut,) = lengths_and_ends(
        play(FireAgent(), episodes, protocol=rules, idle_steps=int(gaps[0]) - 1)
    ).values()
    assert cut == (gaps[0] - 1, "idle")


def test_queue_gives_every_place_work():
    # Three places and nine episodes of different lengths: no place waits before the last three.
    steps = list(
        play(ScriptedAgent(), [("Breakout", n) for n in range(9)], protocol=PROTOCOL, batch_size=3)
    )
    begun = set()
    for step in steps:
        begun |= set(step.seeds.tolist())
        assert len(step.seeds) == 3 or begun == set(range(9))


@pytest.mark.parametrize("seed", [2**31 - 1, 2**31 + 5, 2**40])
def test_seeds_of_any_size_are_those_of_the_single_environment(seed):
    env = MultiGameAtariEnv("Breakout", PROTOCOL)
    observation, _ = env.reset(seed=seed)
    for step in rollout(DrawingAgent(), ["Breakout"], episodes=1, seed=seed):
        assert step.seeds.tolist() == [seed]
        assert np.array_equal(step.observations[0], observation)
        observation, *_ = env.step(step.actions[0])


def test_jpeg_is_that_of_the_single_environment():
    rules = AtariProtocol(jpeg=True, sticky=0, max_frames=80)
    env = MultiGameAtariEnv("Pong", rules)
    observation, _ = env.reset(seed=3)
    for step in play(ScriptedAgent(), [("Pong", 1), ("Pong", 3)], protocol=rules):
        row = step.seeds.tolist().index(3)
        assert np.array_equal(step.observations[row], observation)
        observation, *_ = env.step(step.actions[row])


def test_emulators_that_have_played_play_the_same():
    emulators = Emulators()
    first = played(batch_size=3, emulators=emulators)[2]
    used = {id(each) for idle in emulators._idle.values() for each in idle}
    again = played(batch_size=3, emulators=emulators)[2]
    assert len(used) >= 6
    # None was made, and none is lost.
    assert {id(each) for idle in emulators._idle.values() for each in idle} == used
    assert set(first) == set(again)
    for key, episode in first.items():
        for step, same_step in zip(episode, again[key], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(step, same_step, strict=True))


def test_one_batch_is_decided_for_while_the_other_plays():
    agent = ScriptedAgent()
    steps = play(agent, [("Breakout", n) for n in range(4)], protocol=PROTOCOL, batch_size=2)
    seen = [set(next(steps).seeds.tolist()) for _ in range(4)]
    assert seen == [{0, 1}, {2, 3}, {0, 1}, {2, 3}]
    # Of each batch the next step has begun.
    assert len(agent.calls) == 6
    *_, last = steps
    assert len(last.seeds) < 2 or last.terminated.all()


def test_what_is_left_of_two_batches_becomes_one():
    # Two of each game in either batch; Breakout ends before Riverraid.
    episodes = [(game, seed) for game in GAMES for seed in range(4)]
    steps = list(play(FireAgent(), episodes, protocol=PROTOCOL, batch_size=4))
    assert {len(step.seeds) for step in steps[:2]} == {4}
    left = steps[-5]
    assert left.games.tolist() == ["Riverraid"] * 4
    assert sorted(left.seeds) == [0, 1, 2, 3]
    together = play(FireAgent(), episodes, protocol=PROTOCOL)
    assert lengths_and_ends(steps) == lengths_and_ends(together)

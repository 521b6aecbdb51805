"""V-trace by its definition, losses by theirs, what is said without TorchRL."""

import sys

import numpy as np
import pytest
import torch

from mgdt_agents.actor_critic.policy_losses import check_torchrl, policy_losses, vtrace


@pytest.fixture(scope="module", autouse=True)
def _torchrl():
    pytest.importorskip("torchrl")


def make_play(seed, steps=30, count=20):
    """Return what `vtrace` takes, of environments that reset in the step after an end."""
    random = np.random.default_rng(seed)
    is_transition = np.ones((steps, count), bool)
    terminated, truncated = random.random((2, steps, count)) < 0.15
    truncated &= ~terminated
    # A lost life is an end without a reset.
    resets = truncated | (terminated & (random.random((steps, count)) < 0.5))
    for t in range(1, steps):
        is_transition[t] = ~(resets[t - 1] & is_transition[t - 1])
    terminated &= is_transition
    truncated &= is_transition
    learner, actor = random.normal(-1, 0.7, size=(2, steps, count))
    return {
        "learner_log_probs_TB": learner,
        "actor_log_probs_TB": actor,
        "values_TB": random.normal(size=(steps + 1, count)),
        "rewards_TB": np.where(is_transition, random.normal(size=(steps, count)), 1e3),
        "terminated_TB": terminated,
        "truncated_TB": truncated,
        "is_transition_TB": is_transition,
    }


def vtrace_by_definition(play, discount):
    """Return targets and advantages of each environment's steps, by a plain recursion.

    Espeholt et al. 2018, remark 1: v_s = V_s + delta_s + discount c_s (v_{s+1} - V_{s+1}).
    """
    learner, actor, values, rewards, terminated, truncated, is_transition = play.values()
    targets, advantages = np.full((2, *rewards.shape), np.nan)
    for env in range(rewards.shape[1]):
        for t in reversed(range(len(rewards))):
            if not is_transition[t, env]:
                continue
            ratio = min(1.0, np.exp(learner[t, env] - actor[t, env]))
            value, value_after = values[t, env], values[t + 1, env]
            if terminated[t, env]:
                value_after = target_after = 0.0
            elif truncated[t, env] or t == len(rewards) - 1:
                target_after = value_after
            else:
                target_after = targets[t + 1, env]
            delta = ratio * (rewards[t, env] + discount * value_after - value)
            targets[t, env] = value + delta + discount * ratio * (target_after - value_after)
            advantages[t, env] = ratio * (rewards[t, env] + discount * target_after - value)
    return targets, advantages


@pytest.mark.parametrize("seed", range(5))
def test_vtrace_is_the_plain_recursion(seed):
    play = make_play(seed)
    for event in ("terminated_TB", "truncated_TB"):
        assert play[event].sum() > 10
    assert (~play["is_transition_TB"]).sum() > 10
    targets, advantages = vtrace_by_definition(play, 0.97)
    trace = vtrace(**{name: torch.from_numpy(part) for name, part in play.items()}, discount=0.97)
    known = play["is_transition_TB"]
    np.testing.assert_allclose(trace.targets.numpy()[known], targets[known], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        trace.advantages.numpy()[known], advantages[known], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("end", ["truncated_TB", "terminated_TB"])
def test_nothing_passes_the_end_of_an_episode(end):
    play = {name: torch.from_numpy(part) for name, part in make_play(0, 6, 1).items()}
    for name in ("terminated_TB", "truncated_TB"):
        play[name][:] = False
    play["is_transition_TB"][:] = True
    play[end][2], play["is_transition_TB"][3] = True, False
    before = vtrace(**play, discount=0.9)
    # The row of the reset has the end's own observation, of which the value alone counts.
    play["rewards_TB"][3:] += 100
    play["values_TB"][4:] -= 50
    play["learner_log_probs_TB"][3:] += 1
    after = vtrace(**play, discount=0.9)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:3], new[:3])
        assert not torch.equal(old[4:], new[4:])


def test_losses_count_transitions_alone():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 5, requires_grad=True)
    values = torch.randn(4, 3, requires_grad=True)
    actions, advantages, targets = torch.randint(5, (4, 3)), torch.randn(4, 3), torch.randn(4, 3)
    counts = torch.rand(4, 3) < 0.7
    losses = policy_losses(logits.log_softmax(-1), actions, advantages, values, targets, counts)
    expected = torch.zeros(3)
    for t, b in counts.nonzero().tolist():
        policy = torch.distributions.Categorical(logits=logits[t, b])
        expected += torch.stack(
            [
                -advantages[t, b] * policy.log_prob(actions[t, b]),
                (values[t, b] - targets[t, b]) ** 2 / 2,
                policy.entropy(),
            ]
        )
    torch.testing.assert_close(torch.stack(losses), expected)
    sum(losses).backward()
    assert (values.grad[~counts] == 0).all()
    assert (logits.grad[~counts] == 0).all()
    assert (logits.grad[counts] != 0).all()


def test_without_torchrl(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrl.objectives.value.functional", None)
    with pytest.raises(ImportError, match=r"needs TorchRL.*pip install 'mgdt\[online\]'"):
        check_torchrl()

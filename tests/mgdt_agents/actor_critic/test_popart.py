"""PopArt: what it keeps, and where its statistics go."""

import torch

from mgdt_agents.actor_critic.popart import PopArt


def make_popart():
    torch.manual_seed(0)
    popart = PopArt(6, 3)
    with torch.no_grad():
        popart.mean.copy_(torch.tensor([0.0, 10.0, -2.0]))
        popart.mean_square.copy_(torch.tensor([1.0, 150.0, 5.0]))
    return popart


def values_of(popart, features):
    with torch.no_grad():
        return popart(features) * popart.scale + popart.mean


def test_update_keeps_values():
    popart, features = make_popart(), torch.randn(50, 6)
    before = values_of(popart, features)
    values, games = 100 * torch.randn(40) + 300, torch.arange(40) % 2
    scale = popart.scale.clone()
    popart.update(values, games, 0.1)
    torch.testing.assert_close(values_of(popart, features), before, rtol=1e-4, atol=1e-4)
    assert (popart.scale[:2] > 2 * scale[:2]).all()
    assert popart.scale[2] == scale[2]  # nothing is known of it


def test_statistics_become_those_of_the_values():
    popart = make_popart()
    games = torch.arange(3000) % 3
    mean, scale = torch.tensor([5.0, -40.0, 0.0]), torch.tensor([2.0, 30.0, 0.1])
    for _ in range(300):
        popart.update(mean[games] + scale[games] * torch.randn(3000), games, 0.05)
    torch.testing.assert_close(popart.mean, mean, rtol=0.05, atol=0.05)
    torch.testing.assert_close(popart.scale, scale, rtol=0.05, atol=0.02)


def test_scale_has_limits():
    popart = PopArt(2, 1)
    for _ in range(100):
        popart.update(torch.full((5,), 3.0), torch.zeros(5, dtype=torch.int64), 0.5)
    assert popart.scale.item() == torch.tensor(1e-4).item()
    assert popart.output.weight.isfinite().all()

"""Iterated local search: what it meets is adversarial and in ball and box; a seed gives the same."""

import pytest
import torch
from torch import nn

from marginkit.logits import crossed
from marginkit.methods.search.hopping import POOL, Hopping
from marginkit.norms import L1, L2, LINF
from marginkit.types import Threat

NORMS = pytest.mark.parametrize("norm", [L1, L2, LINF], ids=lambda norm: norm.name)
RADIUS = {L1: 2.0, L2: 0.5, LINF: 0.15}


def image_model() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(1, 1, 6, 6)
    return model, x, model(x).argmax(1).detach()


def hopping(model, x, y, threat, radius, seed=0) -> Hopping:
    return Hopping(model, x, y, threat, radius, seed)


def others(y: torch.Tensor) -> torch.Tensor:
    return torch.tensor([j for j in range(3) if j != int(y)])


@NORMS
def test_what_is_met_is_adversarial_and_inside(norm):
    model, x, y = image_model()
    mask = torch.ones(1, 6, 6, dtype=torch.bool)
    mask[0, 0] = False
    for threat in (Threat(norm), Threat(norm, None, None), Threat(norm, mask=mask)):
        search, met = hopping(model, x, y, threat, 4 * RADIUS[norm]), torch.empty(0, 1, 6, 6)
        for _ in range(3):
            met = torch.cat([met, search.round(others(y), x[:0], y[:0])])
        assert len(met)
        assert crossed(model(met), y.expand(len(met))).all()
        assert (norm.length(met - x) <= 4 * RADIUS[norm] * (1 + 1e-5)).all()
        torch.testing.assert_close(threat.clip(x.expand_as(met), met), met)


@NORMS
def test_nothing_is_met_within_a_proved_radius_and_the_pool_descends(norm):
    """A linear classifier: its distance is known."""
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    x = torch.rand(1, 8)
    y = model(x).argmax(1)
    threat = Threat(norm, None, None)
    apart = model.weight[y] - model.weight[others(y)]
    with torch.no_grad():
        distance = ((model(x)[:, y] - model(x)[:, others(y)])[0] / norm.dual.length(apart)).min()
    near, far = (hopping(model, x, y, threat, share * float(distance)) for share in (0.99, 1.01))
    values = []
    for _ in range(4):
        assert not len(near.round(others(y), x[:0], y[:0]))
        values.append(float(near.pool.value[0]))
    assert values == sorted(values, reverse=True)
    assert 1 <= len(near.pool) <= POOL
    assert any(len(far.round(others(y), x[:0], y[:0])) for _ in range(4))


def test_a_seed_gives_the_same_and_another_something_else():
    model, x, y = image_model()
    pools = []
    for seed in (0, 0, 1):
        search = hopping(model, x, y, Threat(LINF), 0.02, seed)
        for _ in range(2):
            search.round(others(y), x[:0], y[:0])
        pools.append(search.pool.delta)
    assert torch.equal(pools[0], pools[1])
    assert not torch.equal(pools[0], pools[2])


def test_points_that_are_given_descend_too():
    """A pit that only a given point lies in."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    model.append(Pit())
    x, y = torch.zeros(1, 2), torch.tensor([0])
    given = torch.tensor([[0.7, 0.7]])
    threat = Threat(LINF, None, None)
    alone, helped = (hopping(model, x, y, threat, 1.0) for _ in range(2))
    assert not len(alone.round(torch.tensor([1]), x[:0], y[:0]))
    assert len(helped.round(torch.tensor([1]), given, torch.tensor([1])))


class Pit(nn.Module):
    """Class 1 only within 1e-3 of first coordinate .7; no slope anywhere else."""

    def forward(self, z):
        inside = ((z[:, :1] - 0.7).abs() < 1e-3).to(z) * (1 + 0 * z[:, :1])
        return torch.cat([0.5 + 0 * inside, inside], 1)


def test_only_rivals_that_are_asked_for_stay_in_the_pool():
    model, x, y = image_model()
    search = hopping(model, x, y, Threat(LINF), 1e-3)
    search.round(others(y), x[:0], y[:0])
    search.round(others(y)[:1], x[:0], y[:0])
    assert (search.pool.rival == others(y)[0]).all()

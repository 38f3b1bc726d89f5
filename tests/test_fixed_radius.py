"""Attacks at given radii: closed forms on linear classifiers, saturation, and what a table says of them."""

from __future__ import annotations

import pytest
import torch
from closed_form import Function, between, linear
from quickly import measure
from torch.testing import assert_close

from marginkit.comparison.compare import compare
from marginkit.comparison.summary import figures
from marginkit.data.sources import load
from marginkit.errors import UsageError
from marginkit.kinds import Status
from marginkit.methods import METHODS
from marginkit.methods.fixed_radius import BIM, FGSM, FixedPGD
from marginkit.norms import L2, LINF
from marginkit.types import Threat

attacks = pytest.mark.parametrize("name", ["fgsm", "bim", "fixed_pgd"])
objectives = pytest.mark.parametrize("objective", ["margin", "cross_entropy"])


@attacks
@objectives
def test_a_linear_classifier_falls_exactly_beyond_its_distance(name, objective, norm):
    """Two classes: both objectives follow the normal, and a radius suffices if and only if it is larger."""
    case = linear(2)
    true = case.distance(norm)
    eps = (between(true, 0.31), between(true, 0.72))
    method = METHODS[name](eps=eps, objective=objective)
    found = method(case.model, case.x, case.y, Threat(norm, None, None))
    assert torch.equal(found.status == Status.OK, true < eps[1])
    reached = true < eps[1]
    assert (found.upper[reached] >= true[reached]).all()
    first = torch.where(true < eps[0], *torch.tensor(eps, dtype=torch.float64))
    assert (found.upper[reached] <= first[reached]).all()


@attacks
def test_a_witness_is_within_its_radius_to_the_last_bit(name, network, samples, norm):
    """Or robust accuracy, the share with distance > eps, would count it as robust."""
    x, y = samples
    for eps in (0.01, 0.1, 1.0):
        found = METHODS[name](eps=(eps,))(network.float(), x.float(), y, Threat(norm))
        assert (found.upper[found.status == Status.OK] <= eps).all()
        network.double()


@attacks
def test_the_next_radius_is_for_those_that_withstood(name, network, samples, norm):
    x, y = samples
    some, more = (METHODS[name](eps=eps)(network, x, y, Threat(norm)) for eps in ((0.2,), (0.2, 0.4)))
    hit = some.status == Status.OK
    assert_close(more.upper[hit], some.upper[hit])
    assert (more.upper <= 0.4 * (1 + 1e-6)).sum() >= hit.sum()


@attacks
def test_cross_entropy_saturates_and_says_so(name):
    """In float32 the likelihood of a confident model has gradient 0; the logit margin does not."""
    model = Function(lambda z: 300 * torch.stack([1 - z.sum(1), z.sum(1)], 1)).float()
    x, y = torch.rand(5, 4) * 0.05, torch.zeros(5, dtype=torch.long)
    saturated = METHODS[name](eps=(0.3,), objective="cross_entropy")(model, x, y, Threat(LINF))
    if name != "fixed_pgd":
        assert (saturated.status == Status.ZERO_GRADIENT).all()
        assert saturated.upper.isinf().all()
    assert (METHODS[name](eps=(0.3,))(model, x, y, Threat(LINF)).status == Status.OK).all()


def test_bim_walks_where_one_step_does_not_reach():
    """Around a corner: one gradient step ends at the box, several go along it."""
    model = Function(lambda z: torch.stack([torch.zeros_like(z[:, 0]), z[:, 0] * z[:, 1] - 0.5], 1))
    x = torch.tensor([[0.5, 0.1]]).double()
    y = torch.zeros(1, dtype=torch.long)
    eps = (0.68,)
    assert FGSM(eps)(model, x, y, Threat(L2)).upper.isinf().all()
    assert BIM(eps)(model, x, y, Threat(L2)).upper.item() <= 0.68 + 1e-9


def test_random_starts_are_seeded(network, samples):
    x, y = samples
    runs = [FixedPGD((0.5,), seed=seed)(network, x, y, Threat(L2)).witness.nan_to_num() for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@attacks
@pytest.mark.parametrize("eps", [(), (0.1, -0.1)])
def test_radii_are_positive(name, eps):
    with pytest.raises(UsageError, match="at least one radius"):
        METHODS[name](eps=eps)


def test_the_tables_robust_accuracy_is_the_share_that_withstood(network):
    """In the file, in the summary and beside another model's."""
    methods = {"bim": BIM((0.1, 0.3)), "ce": FGSM((0.2,), "cross_entropy")}
    table = measure(network, load("digits"), methods, ("linf",), first=30)
    rows = {(row["name"], row["radius"]): row for row in table.meta["robust_accuracy"]}
    assert list(rows) == [("bim.linf", 0.1), ("bim.linf", 0.3), ("ce.linf", 0.2)]
    right = (table.predicted == table.label).mean()
    some, more = (rows["bim.linf", eps]["robust"] for eps in (0.1, 0.3))
    assert right >= some >= more
    assert some == (table["bim.linf"].distance > 0.1).mean()
    found = compare(table, table)
    assert found.attacks[0] == found.attacks[1]
    assert [row.robust for row in found.attacks[0]] == [row["robust"] for row in rows.values()]
    assert figures(table)["attacks"] == table.meta["robust_accuracy"]
    assert found.columns[0].tau == 0.3
    assert not any(flag.code == "exhausted" for flag in found.flags)

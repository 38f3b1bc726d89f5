"""Randomised smoothing: constants, coverage, abstention, and independence of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from closed_form import Function, linear
from quickly import measure
from torch.testing import assert_close

from marginkit.kinds import Kind, Status
from marginkit.methods.smoothing import Smoothing, quantile
from marginkit.norms import L1, L2, LINF
from marginkit.types import Threat


@pytest.mark.parametrize(("n", "expected"), [(100, 1.500475), (1000, 2.463263), (100_000, 3.811457)])
def test_all_votes_give_the_known_quantile(n, expected):
    assert quantile(n, n, 0.001) == pytest.approx(expected, abs=1e-6)
    assert quantile(n // 2, n, 0.001) == 0
    assert quantile(0, n, 0.001) == 0


def test_on_a_linear_classifier_the_radius_comes_near_the_distance_from_below():
    """Its smoothed classifier is itself."""
    case = linear(2)
    true = case.distance(L2)
    few, many = (
        Smoothing(sigma=0.5, n=n)(case.model, case.x, case.y, Threat(L2, None, None)).lower
        for n in (500, 20_000)
    )
    reachable = (true > 0.2) & (true < 1)
    assert reachable.sum() >= 3
    assert (many <= true).all()
    assert (many[reachable] > 0.85 * true[reachable]).all()
    assert (few[reachable] < many[reachable]).all()


def test_the_coverage_is_at_least_one_minus_alpha():
    case = linear(2)
    x, y, true = case.x[:3], case.y[:3], case.distance(L2)[:3]
    draws = [
        Smoothing(sigma=0.5, n0=10, n=200, alpha=0.1, seed=seed)(case.model, x, y, Threat(L2)).lower
        for seed in range(200)
    ]
    too_large = (torch.stack(draws) > true).double().mean(0)
    assert (too_large <= 0.1 + 3 * (0.1 * 0.9 / 200) ** 0.5).all()
    assert too_large.max() > 0.01, "a bound that is never missed is too loose"


def test_other_norms_take_what_fits_into_the_l2_ball():
    case = linear(3)
    l1, l2, linf = (Smoothing()(case.model, case.x, case.y, Threat(norm)).lower for norm in (L1, L2, LINF))
    assert_close(l1, l2)
    assert_close(linf, l2 / 6**0.5)


def test_a_radius_does_not_depend_on_the_batch_but_on_the_seed():
    case = linear(3)
    whole = Smoothing(n=200)(case.model, case.x, case.y, Threat(L2)).lower
    alone = [
        Smoothing(n=200)(case.model, case.x[i : i + 1], case.y[i : i + 1], Threat(L2)).lower
        for i in range(12)
    ]
    assert torch.equal(torch.cat(alone), whole)
    assert not torch.equal(Smoothing(n=200, seed=1)(case.model, case.x, case.y, Threat(L2)).lower, whole)


def test_it_abstains_where_the_vote_is_close_and_says_where_it_errs():
    model = Function(lambda z: torch.stack([z[:, 0], -z[:, 0]], 1))
    x = torch.tensor([[0.0], [3.0], [3.0]], dtype=torch.float64)
    found = Smoothing()(model, x, torch.tensor([0, 0, 1]), Threat(L2, None, None))
    assert found.status.tolist() == [Status.ABSTAINED, Status.OK, Status.MISCLASSIFIED]
    assert found.lower.tolist() == [0, pytest.approx(0.25 * 2.463263, abs=1e-6), 0]
    assert found.rival.tolist() == [-1, -1, 0]


def test_scores_that_are_not_finite_win_no_vote():
    model = Function(lambda z: torch.stack([torch.where(z[:, 0] > 0, torch.nan, 1.0), 0 * z[:, 0]], 1))
    x = torch.tensor([[-0.1], [-9.0], [9.0]], dtype=torch.float64)
    found = Smoothing()(model, x, torch.tensor([0, 0, 0]), Threat(L2, None, None))
    certain = 0.25 * quantile(1000, 1000, 0.001)
    assert found.lower[0] < 0.3 * certain
    assert found.lower[1] == pytest.approx(certain)
    assert found.status[2] == Status.NONFINITE


def test_its_column_is_of_its_own_kind(network):
    from marginkit.data.sources import load

    table = measure(network.float(), load("digits"), {"smoothing": Smoothing(n=50)}, ["l2"], first=4)
    network.double()
    column = table["smoothing.l2"]
    assert column.kind is Kind.SMOOTHED
    assert (column.distance[column.status == Status.OK] > 0).all()
    assert replace(Smoothing(), sigma=1.0).sigma == column.options["sigma"] * 4

"""Lipschitz radii: constants from above, and what the layered bound gains."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bounds import PLANS, Residual, build, points_near_and_far, within
from torch import nn
from torch.testing import assert_close

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.lipschitz import metric, own_stretches, stages, stretches
from marginkit.kinds import Status
from marginkit.methods.crown import Crown
from marginkit.methods.lipschitz import Lipschitz
from marginkit.norms import L2, NORMS
from marginkit.types import Threat


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)
    ).double()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(plan=PLANS, name=st.sampled_from(sorted(NORMS)), bound=st.sampled_from(["layered", "product"]))
def test_ten_thousand_points_in_the_lipschitz_ball_keep_the_prediction(plan, name, bound):
    model = build(plan)
    x = torch.rand(2, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64)
    y = model(x).argmax(1)
    found = Lipschitz(bound=bound)(model, x, y, Threat(NORMS[name], None, None))
    assert (found.status == Status.OK).all(), found.note
    for center, label, radius in zip(x, y, found.lower, strict=True):
        with torch.no_grad():
            points = within(center, float(radius), NORMS[name], 5000)
            assert (model(points).argmax(1) == label).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(plan=PLANS, name=st.sampled_from(sorted(NORMS)))
def test_no_two_inputs_are_stretched_by_more_than_the_constants(plan, name):
    model, norm = build(plan), NORMS[name]
    x, z = points_near_and_far(plan)
    graph = trace(doubled(model), x)
    with torch.no_grad():
        ratio = norm.length(model(x) - model(z)) / norm.length(x - z)
    assert ratio.max() <= stretches(graph, own_stretches(graph, norm))[-1]


def test_layered_is_never_looser_than_the_product_and_pairs_never_than_the_last_layers_norm(network, samples):
    x, y = samples
    best, paired, product = (
        Lipschitz(bound=bound, pairwise=pairwise)(network, x, y, Threat(L2)).lower
        for bound, pairwise in (("layered", True), ("product", True), ("product", False))
    )
    assert (best >= paired).all()
    assert (paired >= product).all()
    assert best.sum() > 1.3 * product.sum()


def test_the_layered_bound_is_the_global_one_of_its_authors():
    """sqrt of the largest eigenvalue of W M^-1 W^T, between a secant's slope and the product."""
    graph = trace(doubled(mlp()), torch.rand(2, 20, dtype=torch.float64))
    *hidden, last = stages(graph)
    bound = torch.linalg.eigvalsh(last @ torch.linalg.solve(metric(hidden, 20), last.T))[-1].sqrt()
    product = torch.stack([torch.linalg.matrix_norm(w, 2) for w in (*hidden, last)]).prod()
    x, z = torch.randn(2, 500, 20, dtype=torch.float64)
    assert L2.length(graph(x) - graph(z)).div(L2.length(x - z)).max() < bound < 0.95 * product
    one = metric(hidden[:1], 20)
    two = torch.linalg.matrix_norm(hidden[1] @ torch.linalg.cholesky(torch.linalg.inv(one)), 2)
    assert two <= torch.linalg.matrix_norm(hidden[1], 2) * torch.linalg.matrix_norm(hidden[0], 2)


def test_matrices_are_the_layers_as_they_are():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 2)
    )
    x = torch.rand(2, 2, 5, 4, dtype=torch.float64)
    first, last = stages(trace(doubled(model), x))
    zero = doubled(model[0])(torch.zeros(1, 2, 5, 4).double())
    assert_close((x.flatten(1) @ first.T).view(2, 3, 3, 2), doubled(model[0])(x) - zero)
    assert last.shape == (2, 18)


def test_branches_are_summed(norm):
    model = nn.Sequential(Residual(nn.Linear(4, 4)), nn.Linear(4, 3)).double()
    graph = trace(doubled(model), torch.rand(2, 4, dtype=torch.float64))
    assert stages(graph) is None
    weight = model[0].branch.weight.detach()
    branch = 1 + torch.linalg.matrix_norm(weight, {1.0: 1, 2.0: 2}.get(norm.p, torch.inf))
    assert_close(stretches(graph, own_stretches(graph, norm))[-2], float(branch), rtol=1e-6, atol=0)


def test_layers_too_large_for_singular_values_are_bounded_all_the_same(monkeypatch, norm):
    graph = trace(doubled(mlp()), torch.rand(2, 20, dtype=torch.float64))
    exact = stretches(graph, own_stretches(graph, norm))
    monkeypatch.setattr("marginkit.bounds.lipschitz.LARGEST", 10)
    assert stages(graph) is None
    bounded = stretches(graph, own_stretches(graph, norm))
    assert all(a <= b * (1 + 1e-9) for a, b in zip(exact, bounded, strict=True))


def test_crown_proves_more_than_lipschitz(network, samples, norm):
    x, y = samples
    loose, tight = (method(network, x, y, Threat(norm)).lower for method in (Lipschitz(), Crown()))
    assert (loose <= tight * (1 + 2e-3)).all()


def test_a_part_without_entries_moves_by_nothing(norm):
    class Split(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :4], x[:, 4:]], 1)

    model = nn.Sequential(Split(), nn.Linear(4, 3)).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    found = Lipschitz()(model, x, model(x).argmax(1), Threat(norm))
    assert (found.lower > 0).all(), found.note


def test_equal_rows_can_never_change_places():
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight[1] = model.weight[0]
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(2, 3, dtype=torch.float64)
    found = Lipschitz()(model, x, torch.zeros(2, dtype=torch.long), Threat(L2))
    assert found.lower.tolist() == pytest.approx([float("inf")] * 2)

"""How far functions of hidden values move: no point moves them farther, and no bound is looser for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bounds import ACTIVATIONS, PLANS, Residual, build, points_near_and_far, within
from test_lagrangian import networks
from torch import nn

from marginkit.bounds.graph.graph import doubled, nonlinear, trace
from marginkit.bounds.linear import undecided
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.linear.undecided import Around, secants
from marginkit.bounds.lipschitz import own_stretches, pulled_back, secant_slopes, stretches
from marginkit.bounds.reach import operator_norm
from marginkit.methods.lipschitz import Lipschitz
from marginkit.norms import L1, L2, LINF, NORMS
from marginkit.types import Threat

NAMES = [name for name, op in ACTIVATIONS.items() if secant_slopes(op)]


def pairs(classes: int) -> torch.Tensor:
    unit = torch.eye(classes, dtype=torch.float64)
    return (unit.unsqueeze(1) - unit).view(-1, classes)


@pytest.mark.parametrize("name", NAMES)
def test_no_secant_from_the_centre_leaves_its_slopes(name):
    op = ACTIVATIONS[name]
    centre = torch.linspace(-3, 3, 41).double().view(-1, 1).repeat(1, 30)
    low, high = centre - torch.rand_like(centre) ** 3 * 4, centre + torch.rand_like(centre) ** 3 * 4
    least, most = secants(op, centre, (low, high))
    for share in torch.linspace(0, 1, 60):
        z = low + share * (high - low)
        rise, step = op(z) - op(centre), z - centre
        assert (rise >= torch.minimum(least * step, most * step) - 1e-9).all()
        assert (rise <= torch.maximum(least * step, most * step) + 1e-9).all()


def enclosed(model, x, radius, box=(None, None), climbs=0):
    graph = trace(doubled(model), x)
    ball = Ball(x, torch.full((len(x),), radius).double(), L2, *Threat(L2, *box).room(x))
    return graph, ball, Propagation("crown", stretches=own_stretches(graph, L2), climbs=climbs)


def values(graph, x):
    found = [x]
    for node in graph.nodes[1:]:
        found.append(node.op(*(found[k] for k in node.inputs)))
    return found


def holds(model, x, radius):
    """Whether points of the ball stay in the balls of undecided units and in the intervals."""
    graph, ball, propagation = enclosed(model, x, radius)
    around = propagation.enclosure(graph, ball)
    for i, center in enumerate(x):
        moved = values(graph, within(center, radius, L2, 500))
        for j, node in enumerate(graph.nodes):
            if not nonlinear(node.op):
                continue
            (k,) = node.inputs
            low, high = (end[i] for end in around.intervals[k])
            assert ((moved[k] >= low - 1e-9) & (moved[k] <= high + 1e-9)).all()
            if j in around.secants:
                known = around.secants[j]
                step = (moved[k] - around.centres[k][i]) * known.undecided[i]
                assert step.flatten(1).norm(dim=1).max() <= known.radius[i] * (1 + 1e-9)
                assert known.radius[i] <= around.radii[k][i] * (1 + 1e-8)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(plan=PLANS, radius=st.sampled_from([0.05, 0.4, 3.0]))
def test_no_point_of_the_ball_leaves_the_balls_of_undecided_units(plan, radius):
    x = torch.rand(2, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64)
    with torch.no_grad():
        holds(build(plan), x, radius)


@pytest.mark.parametrize("name", list(networks()))
@pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)], ids=["free", "box"])
def test_no_bound_is_looser_for_them(name, box, monkeypatch):
    """Not an interval nor a radius; nor the scores, but for lines and multipliers that change with these."""
    model, x = networks()[name]
    rows = pairs(4)[1:4].expand(len(x), -1, -1)
    gained = 0.0
    for radius in (0.05, 0.3, 1.0):
        with torch.no_grad():
            graph, ball, propagation = enclosed(model, x, radius, box)
            ours, after = propagation(graph, ball, rows), propagation.enclosure(graph, ball)
            with monkeypatch.context() as patch:
                patch.setattr(Around, "decide", lambda self, j: None)
                before, known = propagation(graph, ball, rows), propagation.enclosure(graph, ball)
        for j, (mine, theirs) in enumerate(zip(after.intervals, known.intervals, strict=True)):
            assert (mine[0] >= theirs[0] - 1e-9).all()
            assert (mine[1] <= theirs[1] + 1e-9).all()
            assert (after.radii[j] <= known.radii[j] * (1 + 1e-9)).all()
        assert (ours >= before - 1e-3 * (1 + before.abs())).all()
        gained += float((ours - before).sum())
    assert gained > 0


def test_no_sample_knows_how_many_units_another_has_undecided(monkeypatch):
    model, x = networks()["dense"]
    monkeypatch.setattr(undecided, "ROWS", 7)
    with torch.no_grad():
        graph, ball, propagation = enclosed(model, x, 0.3)
        rows = pairs(4)[1:4].expand(len(x), -1, -1)
        together = propagation(graph, ball, rows)
        counts = propagation.enclosure(graph, ball).secants[3].undecided.sum(1)
        alone = [propagation(graph, Ball(x[i : i + 1], ball.radius[:1], L2), rows[:1]) for i in range(len(x))]
    assert counts.min() < 7 < counts.max()
    torch.testing.assert_close(together, torch.cat(alone))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(plan=PLANS, name=st.sampled_from(sorted(NORMS)))
def test_constants_of_pairs_are_never_above_the_product_nor_below_a_stretch(plan, name):
    model, norm = build(plan), NORMS[name]
    x, z = points_near_and_far(plan)
    with torch.no_grad():
        graph = trace(doubled(model), x)
        rows = pairs(graph.nodes[-1].shape[0])
        found = pulled_back(graph, norm, own := own_stretches(graph, norm), rows)
        product = stretches(graph, own)[-1] * norm.dual.length(rows)
        moved = ((model(x) - model(z)) @ rows.T).abs() / norm.length(x - z).unsqueeze(1)
    assert (found <= product * (1 + 1e-6)).all()
    assert (moved.amax(0) <= found + 1e-12).all()


@pytest.mark.parametrize("norm", [L1, LINF, L2])
def test_lipschitz_proves_more_by_groups_where_products_were_all_there_was(norm):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))
    branches = nn.Sequential(Residual(nn.Linear(20, 20)), nn.ReLU(), nn.Linear(20, 4))
    x = torch.rand(4, 20).double()
    for model in (plain.double(), branches.double()):
        y = model(x).argmax(1)
        grouped, product = (
            Lipschitz(bound=b)(model, x, y, Threat(norm, None, None)).lower for b in ("layered", "product")
        )
        assert (grouped >= product).all()
        assert grouped.sum() > 1.05 * product.sum()


def test_operator_norms_are_the_least_that_hold(norm):
    matrix = torch.randn(3, 5, 7).double()
    found = operator_norm(matrix, norm)
    true = torch.linalg.matrix_norm(matrix, {1.0: 1, 2.0: 2}.get(norm.p, torch.inf))
    assert (found >= true).all()
    torch.testing.assert_close(found, true, rtol=1e-7, atol=0)

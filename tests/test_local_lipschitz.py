"""Constants within a radius: exact where the units are decided, never above what is true, never looser."""

from __future__ import annotations

import pytest
import torch
from closed_form import linear_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bounds import PLANS, build, within
from test_lagrangian import CONVOLUTIONS, drawn
from torch import nn

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.graph.ops import Convolution, Dense
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.undecided import moved
from marginkit.bounds.lipschitz import own_stretches
from marginkit.bounds.spectral import row_lengths
from marginkit.methods import lipschitz
from marginkit.methods.certify.largest_radius import largest_kept
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.lipschitz import Lipschitz
from marginkit.norms import L1, L2, LINF, NORMS
from marginkit.types import Threat

CARRIED = 2**18


def both(model, x, threat):
    """Without and with constants within a radius."""
    y = model(x).argmax(1)
    return (Lipschitz(local=local)(model, x, y, threat) for local in (False, True))


def decided():
    """All first units far from zero, half of them dead; and the affine function that is left."""
    torch.manual_seed(1)
    first, last = nn.Linear(5, 8).double(), nn.Linear(8, 3).double()
    with torch.no_grad():
        first.bias.copy_(torch.tensor([50.0, -50] * 4))
    kept = last.weight[:, ::2] @ first.weight[::2]
    return nn.Sequential(first, nn.ReLU(), last), kept


@pytest.mark.quick
def test_a_network_that_is_affine_as_far_as_its_boundary_has_the_closed_form(norm):
    model, weight = decided()
    x = drawn(6, 5) / 5
    scores = model(x)
    anywhere, near = both(model, x, Threat(norm, None, None))
    true = linear_distance(scores, weight, scores.argmax(1), norm)
    torch.testing.assert_close(near.lower, true, rtol=2**-6, atol=0)
    assert (near.lower <= true).all()
    assert (anywhere.lower < 0.9 * true).all()


def test_units_that_the_box_decides_leave_the_norms(norm):
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.fill_(1e-6)
    x = torch.full((4, 3), 1e-3).double()
    free, boxed = (list(both(model, x, Threat(norm, *box)))[1].lower for box in ((None, None), (0.0, 1.0)))
    assert (boxed > 1.05 * free).all()


def test_where_the_whole_box_is_proved_the_radius_is_infinite(norm):
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.bias.copy_(torch.tensor([100.0, 0.0]))
    x = torch.rand(4, 3).double()
    assert list(both(model, x, Threat(norm)))[1].lower.isinf().all()


def test_what_the_box_ends_far_out_proves_nothing_nearer(norm):
    model = nn.Sequential(nn.Linear(20, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    with torch.no_grad():  # 0.4 - 5 relu(x_0 - 0.9): at 0.98 it changes sign, and no coordinate goes beyond 1
        model[0].weight.zero_()[0, 0] = 1
        model[0].bias.fill_(-0.9)
        model[2].weight.copy_(torch.tensor([[-5.0], [0.0]]))
        model[2].bias.copy_(torch.tensor([0.4, 0.0]))
    x = torch.full((2, 20), 0.5).double()
    anywhere, near = both(model, x, Threat(norm))
    assert (near.lower <= 0.48).all()
    assert (near.lower > 0.47).all()
    torch.testing.assert_close(anywhere.lower, torch.full((2,), 0.08).double())


class Mean(nn.Module):
    """One value a sample between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.relu(h - torch.relu(h.mean(1)).unsqueeze(1)))


@pytest.mark.parametrize("method", [Lipschitz(), Crown()])
def test_single_values_between_layers_have_bounds_too(norm, method):
    model, x = Mean().double(), torch.rand(5, 4).double()
    y = model(x).argmax(1)
    found = method(model, x, y, Threat(norm, None, None))
    assert (found.lower > 0).all(), found.note
    for center, label, radius in zip(x, y, found.lower, strict=True):
        assert (model(within(center, float(radius), norm, 500)).argmax(1) == label).all()


def test_no_radius_is_above_what_is_found_in_boxes_that_end_near(norm):
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)
        ).double()
        x = torch.rand(8, 6).double()
        x[:4] = x[:4].round()
        near = list(both(model, x, Threat(norm)))[1].lower
        for i, y in enumerate(model(x).argmax(1)):
            z = within(x[i], min(float(near[i]), 6.0) * (1 - 1e-9), norm, 2000).clamp(0, 1)
            assert (model(z).argmax(1) == y).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(plan=PLANS, name=st.sampled_from(sorted(NORMS)), box=st.booleans())
def test_radii_are_never_smaller_than_those_of_constants_everywhere(plan, name, box):
    x = torch.rand(3, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64)
    anywhere, near = both(build(plan), x, Threat(NORMS[name], *((0.0, 1.0) if box else (None, None))))
    assert (near.lower >= anywhere.lower).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    plan=PLANS,
    name=st.sampled_from(sorted(NORMS)),
    radius=st.sampled_from([0.05, 0.4, 3.0]),
    carried=st.sampled_from([0, CARRIED]),
)
def test_no_point_of_the_ball_moves_a_function_farther(plan, name, radius, carried):
    model, norm = build(plan), NORMS[name]
    x = torch.rand(2, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64)
    with torch.no_grad():
        graph = trace(doubled(model), x)
        rows = drawn(2, 5, graph.nodes[-1].shape[0])
        ball = Ball(x, torch.full((2,), radius).double(), norm)
        most = moved(graph, ball, own_stretches(graph, norm), rows, carried)
        for i, center in enumerate(x):
            away = (model(within(center, radius, norm, 1000)) - model(x[i : i + 1])) @ rows[i].T
            assert (away.abs().amax(0) <= most[i] * (1 + 1e-9) + 1e-12).all()


def test_no_radius_is_above_the_exact_distance(norm, network, samples):
    x, y = (part[:6] for part in samples)
    threat = Threat(norm)
    true = Exact(time_limit=600.0)(network, x, y, threat)
    found = Lipschitz()(network, x, y, threat)
    assert (found.lower <= true.upper).all()
    assert (found.lower > 1.02 * Lipschitz(local=False)(network, x, y, threat).lower).any()
    assert (found.status == true.status).all()


def test_no_sample_knows_of_another(norm, network, samples):
    x, y = (part[:8] for part in samples)
    together = Lipschitz()(network, x, y, Threat(norm))
    order = torch.arange(7, -1, -1)
    turned = Lipschitz()(network, x[order], y[order], Threat(norm))
    alone = [Lipschitz()(network, x[i : i + 1], y[i : i + 1], Threat(norm)) for i in range(8)]
    for other in (turned.lower[order], torch.cat([one.lower for one in alone])):
        torch.testing.assert_close(together.lower, other, rtol=1e-9, atol=0)
    assert together.rival.tolist() == turned.rival[order].tolist()


def test_a_network_too_large_for_it_has_the_constants_that_hold_everywhere(
    norm, monkeypatch, network, samples
):
    x, y = samples
    monkeypatch.setattr(lipschitz, "AT_MOST", 10)
    few, none = (Lipschitz(local=local)(network, x, y, Threat(norm)).lower for local in (True, False))
    assert torch.equal(few, none)


@pytest.mark.parametrize("norm", [L1, LINF, L2])
@pytest.mark.parametrize(("into", "out", "k", "s", "p", "d", "groups", "size"), CONVOLUTIONS)
def test_an_output_moves_by_its_row_at_most(norm, into, out, k, s, p, d, groups, size):
    op = Convolution(drawn(out, into // groups, k), None, (s,), (p,), (d,), groups)
    shape = (into, size)
    outputs = op(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
    rows = torch.eye(outputs.numel(), dtype=torch.float64).view(-1, *outputs)
    true = norm.dual.length(op.transpose(rows, [shape])[0])
    found = row_lengths(op, [shape], norm).flatten()
    assert (found >= true * (1 - 1e-12)).all()
    if norm is not L1 or p == 0:
        torch.testing.assert_close(found, true)
    dense = Dense(drawn(4, 6), drawn(4))
    torch.testing.assert_close(row_lengths(dense, [(6,)], norm)[0], norm.dual.length(dense.weight))


@pytest.mark.parametrize("steep", [0.1, 1.0, 5.0])
def test_the_largest_radius_is_where_the_proof_leaves_it_as_it_is(steep):
    scale = torch.logspace(-6, 3, 30, dtype=torch.float64)
    best = scale ** (1 / (1 + steep))
    tried = []

    def prove(samples, radius):
        tried.append(len(samples))
        return scale[samples] / radius**steep, samples

    known, nothing, endless = 0.01 * best, torch.full((30,), -1), torch.full((30,), torch.inf).double()
    found, blocking = largest_kept(prove, known, nothing, endless, endless)
    assert ((found <= best * (1 + 1e-12)) & (found >= best / (1 + 2**-6))).all()
    assert blocking.tolist() == list(range(30))
    assert sum(tried) / 30 <= 5
    limit = torch.where(torch.arange(30) < 5, best / 2, torch.inf)
    found, _ = largest_kept(prove, known, nothing, endless, limit)
    assert found.isinf().tolist() == [True] * 5 + [False] * 25
    found, blocking = largest_kept(prove, known, nothing, known * 1.01, endless)
    assert torch.equal(found, known)
    assert (blocking == -1).all()

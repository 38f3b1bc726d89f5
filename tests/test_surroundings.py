"""Networks too large for a linear function from each unit: intervals by one linearisation for all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bounds import PLANS, build, within
from torch import nn
from torch.testing import assert_close

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.linear import forwards, surroundings
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.linear.forwards import Linearised, values
from marginkit.kinds import Status
from marginkit.methods import crown
from marginkit.methods.crown import Crown
from marginkit.methods.nearest import Nearest
from marginkit.methods.verify import Verify
from marginkit.norms import L1, L2, LINF
from marginkit.types import Threat

RECTIFIED = st.builds(
    lambda plan, acts, pool: plan | {"acts": acts, "pool": pool},
    PLANS,
    st.tuples(*[st.sampled_from(["relu", "leaky", "abs", "steep"])] * 3),
    st.sampled_from(["none", "average", "adaptive"]),
)


class Forked(nn.Module):
    """Two branches whose units bend by themselves, added, and a unit after them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(torch.relu(self.left(x)) - torch.relu(self.right(x))))


def around(model, x, norm, box=(None, None)):
    threat = Threat(norm, *box)
    return Linearised(trace(doubled(model), x), x, norm, *threat.room(x)), threat


def require_held(model, x, radius, norm, box=(None, None)):
    """Points of the ball and the box stay in the intervals."""
    linearised, threat = around(model, x, norm, box)
    found = linearised.intervals(radius)
    points = within(x[0], radius, norm, 300)
    there = values(linearised.graph, threat.clip(x.expand_as(points), points))
    assert found is not None
    for source, (low, high) in found.items():
        slack = 1e-9 * (1 + high.abs() + low.abs())
        assert (there[source] >= low - slack).all()
        assert (there[source] <= high + slack).all()


@pytest.fixture
def unlimited(monkeypatch):
    """Any number of units may bend."""
    monkeypatch.setattr(forwards, "BENDING", 2**30)


@pytest.fixture
def small_is_large(monkeypatch):
    """Networks whose intervals go far enough are left to them: here none is."""
    monkeypatch.setattr(surroundings, "MANY", 0)
    monkeypatch.setattr(crown, "FAR", 1e6)


def no_rows(monkeypatch):
    """No function goes back from hidden units, but from the first layer's for the proof by intervals."""
    tightened = Propagation._tightened

    def refusing(self, known, i):
        assert self.tightness == "crown-ibp"
        return tightened(self, known, i)

    monkeypatch.setattr(Propagation, "_tightened", refusing)


@settings(max_examples=25)
@given(RECTIFIED, st.sampled_from([1e-3, 0.1, 1.0, 5.0]), st.sampled_from([L1, L2, LINF]), st.booleans())
def test_points_of_the_ball_stay_in_the_intervals(plan, radius, norm, boxed):
    model = build(plan)
    x = torch.rand(1, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64).round(decimals=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forwards, "BENDING", 2**30)
        require_held(model, x, radius, norm, (0.0, 1.0) if boxed else (None, None))


@pytest.mark.quick
@pytest.mark.parametrize("norm", [L1, L2, LINF], ids=str)
def test_what_units_bend_by_is_not_mixed_between_branches(norm, unlimited):
    for seed in range(10):
        torch.manual_seed(seed)
        require_held(Forked().double(), torch.rand(1, 6).double(), 0.5, norm)


@pytest.mark.quick
@pytest.mark.parametrize("norm", [L1, L2, LINF], ids=str)
def test_where_no_unit_bends_intervals_are_exact(norm, unlimited):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 20), nn.LeakyReLU(0.2), nn.Linear(20, 8), nn.ReLU()).double(), None
    model.append(nn.Linear(8, 3).double())
    x = torch.tensor([[0.0, 1.0, 0.5, 0.3, 0.0, 0.9]]).double()
    linearised, threat = around(model, x, norm, (0.0, 1.0))
    radius = 1e-4
    assert linearised.changing(radius) == 0
    jacobian = torch.autograd.functional.jacobian(model[:3], x).view(8, 6)
    low, high = threat.room(x)
    (down, up) = (torch.where(jacobian > 0, *ends) for ends in ((-low, high), (high, -low)))
    least, most = (norm.dual.length(jacobian * (side > 0)) * radius for side in (down, up))
    value = model[:3](x)
    assert_close(linearised.intervals(radius)[3], (value - least, value + most))


@pytest.mark.quick
def test_a_ball_in_which_too_many_units_change_sides_costs_no_linearisation(monkeypatch):
    torch.manual_seed(0)
    model, x = Forked().double(), torch.rand(1, 6).double()
    monkeypatch.setattr(forwards, "BENDING", 5)
    linearised, _ = around(model, x, LINF)
    assert linearised.intervals(100.0) is None
    assert "reach" not in linearised.__dict__
    assert 0 < linearised.farthest < 100
    assert linearised.intervals(linearised.farthest * 1.001) is None
    assert linearised.intervals(linearised.farthest * 0.5) is not None


@pytest.mark.quick
@pytest.mark.parametrize("numbers", [0, 40])
def test_a_ball_whose_terms_need_too_much_memory_is_not_tried(monkeypatch, unlimited, numbers):
    torch.manual_seed(0)
    linearised, _ = around(Forked().double(), torch.rand(1, 6).double(), LINF)
    monkeypatch.setattr(forwards, "NUMBERS", numbers)
    assert linearised.intervals(3.0) is None


@pytest.mark.parametrize("norm", [L1, L2, LINF], ids=str)
def test_crown_of_a_large_network_proves_below_the_distance(
    norm, network, samples, small_is_large, monkeypatch
):
    no_rows(monkeypatch)
    x, y = samples[0][:8], samples[1][:8]
    threat = Threat(norm, 0.0, 1.0)
    proved = Crown()(network, x, y, threat)
    found = Nearest("fast")(network, x, y, threat)
    right = proved.status == Status.OK
    assert right.sum() >= 6
    assert (proved.lower <= found.upper * (1 + 1e-9)).all()
    assert (proved.lower / found.upper)[right].median() > 0.3
    alone = [Crown()(network, x[i : i + 1], y[i : i + 1], threat).lower for i in range(2)]
    assert_close(torch.cat(alone), proved.lower[:2], rtol=2**-9, atol=0)


@pytest.mark.parametrize("norm", [L2, LINF], ids=str)
def test_max_pooling_is_taken_apart_for_it(norm, small_is_large, monkeypatch):
    no_rows(monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x = torch.rand(4, 1, 6, 6).double()
    y, threat = model(x).argmax(1), Threat(norm, 0.0, 1.0)
    proved, found = (method(model, x, y, threat) for method in (Crown(), Nearest("fast")))
    assert (proved.lower > 0.2 * found.upper).all()
    assert (proved.lower <= found.upper * (1 + 1e-9)).all()
    graph = trace(doubled(model), x)
    for share, expected in ((0.9, True), (100.0, False)):
        assert (Crown().proves(graph, x, y, threat, share * proved.lower) == expected).all()


def test_no_larger_ball_is_tried_than_one_in_which_as_many_units_bend_as_may(
    network, samples, small_is_large, monkeypatch
):
    monkeypatch.setattr(forwards, "BENDING", 3)
    x, y = samples[0][:4], samples[1][:4]
    threat = Threat(LINF, 0.0, 1.0)
    proved = Crown()(network, x, y, threat)
    for i in (proved.status == Status.OK).nonzero().squeeze(1).tolist():
        linearised, _ = around(network, x[i : i + 1].double(), LINF, (0.0, 1.0))
        assert 0 < proved.lower[i] <= linearised.farthest
    hopeless = Verify((0.9,), time_limit=0)(network, x, y, threat)
    assert (hopeless.lower == 0).all()


@pytest.mark.parametrize(("far", "work"), [(1e-9, 2**39), (1e6, 0)], ids=["tight intervals", "too much work"])
def test_where_intervals_go_far_or_nothing_else_can_be_paid_for_they_are_all(
    network, samples, small_is_large, monkeypatch, far, work
):
    monkeypatch.setattr(crown, "FAR", far)
    monkeypatch.setattr(surroundings, "WORK", work)
    x, y = samples[0][:4], samples[1][:4]
    threat = Threat(LINF, 0.0, 1.0)
    ibp = Crown(bounds="crown-ibp")(network, x, y, threat)
    assert_close(Crown()(network, x, y, threat).lower, ibp.lower)
    if not work:
        monkeypatch.setattr(Linearised, "intervals", None)
        graph, inputs = trace(doubled(network), x.double()), x.double()
        farther = torch.full((len(x),), 2 * float(ibp.lower.max())).double()
        assert not Crown().proves(graph, inputs, y, threat, farther).any()


def test_without_a_box_and_with_few_units_there_is_an_end_all_the_same(small_is_large):
    torch.manual_seed(0)
    model, x = Forked(), torch.rand(3, 6)
    y, threat = model(x).argmax(1), Threat(LINF)
    proved, found = Crown()(model, x, y, threat).lower, Nearest("fast")(model, x, y, threat).upper
    assert (proved > 0.1 * found).all()
    assert (proved <= found * (1 + 1e-9)).all()


def test_verify_ends_in_time_on_a_large_network(network, samples, small_is_large, monkeypatch):
    no_rows(monkeypatch)
    x, y = samples[0][:4], samples[1][:4]
    answer = Verify((1e-3, 0.05), time_limit=0.1)(network, x, y, Threat(LINF, 0.0, 1.0))
    assert (answer.lower[answer.status != Status.MISCLASSIFIED] >= 1e-3).all()

"""`exact` against closed forms, enumerated regions and a mixed-integer solver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_form import BOXED, LINEAR
from test_nearest import exact as enumerated
from torch import nn

from marginkit.bounds.chaining import chain
from marginkit.bounds.graph import trace
from marginkit.data import load
from marginkit.errors import UsageError
from marginkit.kinds import Kind, Status
from marginkit.margins.crown import Crown
from marginkit.margins.exact import Exact
from marginkit.margins.nearest import Nearest
from marginkit.margins.region import Region
from marginkit.measure import measure
from marginkit.norms import L1, L2, LINF, NORMS
from marginkit.statistics.brackets import ends, has_end
from marginkit.table import read, write
from marginkit.types import Threat

FEW = 4
boxes = pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)], ids=["free", "box"])
solvers = pytest.mark.parametrize("solver", ["branch", "milp"])


@pytest.fixture
def few(network, samples):
    """A few that the network classifies correctly."""
    right = network(samples[0]).argmax(1) == samples[1]
    return samples[0][right][:FEW], samples[1][right][:FEW]


@pytest.mark.parametrize("case", [*LINEAR, *BOXED], ids=repr)
@solvers
def test_linear_classifiers_have_the_closed_form(case, norm, solver):
    if solver == "milp" and norm is L2:
        return
    found = Exact(solver=solver)(case.model, case.x[:FEW], case.y[:FEW], Threat(norm, *case.box))
    true = case.distance(norm)[:FEW]
    assert (found.status == Status.OK).all()
    assert ((found.lower <= true * (1 + 1e-11)) & (found.lower >= true * (1 - 1e-5))).all()
    assert ((found.upper >= true * (1 - 1e-9)) & (found.upper <= true * (1 + 1e-5))).all()


@pytest.mark.parametrize("negative", [0.0, 0.2], ids=["relu", "leaky"])
@pytest.mark.parametrize("seed", [0, 1])
@boxes
def test_it_is_the_least_distance_over_all_linear_regions(norm, box, seed, negative):
    """Far from the training data most units are undecided, and the search has to split."""
    torch.manual_seed(seed)
    unit = nn.LeakyReLU(negative) if negative else nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 6), unit, nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = torch.rand(4, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    found = Exact()(model, x, y, Threat(norm, *box))
    assert (found.status == Status.OK).all()
    if negative:
        searched = Nearest("thorough")(model, x, y, Threat(norm, *box)).upper
        assert (found.lower <= searched).all()
        return
    edges = None if box == (None, None) else box
    true = np.array([enumerated(model, p, int(k), norm, edges) for p, k in zip(x.numpy(), y, strict=True)])
    assert np.array_equal(np.isinf(true), np.isinf(found.upper.numpy()))
    np.testing.assert_allclose(found.upper.numpy(), true, rtol=2e-6)
    np.testing.assert_allclose(found.lower.numpy(), true, rtol=2e-5)
    finite = np.isfinite(true)
    assert (found.lower.numpy()[finite] <= true[finite] * (1 + 1e-7)).all()


@pytest.mark.parametrize("norm", [L1, LINF], ids=str)
@boxes
def test_a_mixed_integer_solver_agrees(network, few, norm, box):
    x, y = few[0][:1], few[1][:1]  # the others take HiGHS longer
    ours = Exact(tolerance=1e-7)(network, x, y, Threat(norm, *box))
    theirs = Exact(solver="milp")(network, x, y, Threat(norm, *box))
    assert (ours.status == Status.OK).all()
    assert (theirs.status == Status.OK).all()
    torch.testing.assert_close(ours.upper, theirs.upper, rtol=1e-6, atol=0)
    assert (theirs.lower <= ours.upper).all()


@boxes
def test_certified_lower_upper_found_are_in_order(network, few, norm, box):
    x, y = few
    threat = Threat(norm, *box)
    found = Exact()(network, x, y, threat)
    assert (Crown()(network, x, y, threat).lower <= found.lower).all()
    assert (found.lower <= found.upper).all()
    assert (found.upper <= Nearest("tight")(network, x, y, threat).upper).all()
    assert (found.status == Status.OK).all()
    assert (found.upper - found.lower <= 1e-5 * found.upper).all()
    assert (network(found.witness).argmax(1) != y).all()


def test_without_time_the_bracket_is_valid_and_open(network, few, norm):
    x, y = few
    threat = Threat(norm)
    at_once, later = (Exact(time_limit=seconds)(network, x, y, threat) for seconds in (0.0, 10.0))
    assert (at_once.status == Status.TIMEOUT).any()
    assert (Crown()(network, x, y, threat).lower <= at_once.lower).all()
    assert (at_once.lower <= later.lower).all()
    assert (later.upper <= at_once.upper).all()
    assert (at_once.lower > 0).all()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)) + x)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), "not piecewise linear"),
        (Branching(), "branches"),
    ],
)
def test_other_models_are_named_and_searched(model, why):
    x = torch.rand(6, 4)
    y = model(x).argmax(1)
    found = Exact()(model, x, y, Threat(L2, None, None))
    assert (found.status == Status.UNSUPPORTED).all()
    assert why in found.note
    assert not found.lower.any()
    assert torch.equal(found.upper, Nearest("tight")(model, x, y, Threat(L2, None, None)).upper)


def test_a_class_that_nothing_reaches_is_proved_far(norm):
    """In the box the score of class 1 stays below that of class 0."""
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]]))
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(3, 3, dtype=torch.float64)
    found = Exact()(model, x, torch.zeros(3, dtype=torch.long), Threat(norm))
    assert found.lower.isinf().all()
    assert found.upper.isinf().all()
    assert (found.status == Status.OK).all()


def test_the_chain_is_the_network(network, samples):
    x = samples[0]
    found = chain(trace(network, x))
    torch.testing.assert_close(found.hidden(x.flatten(1))[1], network(x))
    assert found.sizes == [24, 16]
    convolution = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    convolution.double().eval()
    torch.testing.assert_close(chain(trace(convolution, x)).hidden(x.flatten(1))[1], convolution(x))


def test_a_convolution_is_closed_too(samples, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)).double()
    x = samples[0][:3]
    found = Exact()(model, x, model(x).argmax(1), Threat(norm, None, None))
    assert (found.status == Status.OK).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("norm", list(NORMS.values()), ids=str)
def test_multipliers_prove_the_shortest_point(norm, seed):
    """Weak duality holds for all; at the solver's the two meet."""
    rng = np.random.default_rng(seed)
    free = np.full(6, np.inf)
    region = Region(rng.normal(size=(4, 6)), rng.normal(size=4) + 1, -free, free)
    point, multiplier = region.solved(norm)
    assert (multiplier >= 0).all()
    length = np.linalg.norm(point, norm.p)
    dual = np.linalg.norm(multiplier @ region.normal, norm.dual.p)
    np.testing.assert_allclose(multiplier @ region.level / dual, length, rtol=1e-7)


def test_both_ends_are_columns_of_the_file(tmp_path, network):
    table = measure(network, load("digits"), {"exact": Exact()}, ["linf"], limit=4, witnesses=True)
    assert [c.name for c in table.columns] == ["exact.linf.lower", "exact.linf.upper"]
    assert all(c.kind is Kind.EXACT for c in table.columns)
    write(table, tmp_path / "t.h5")
    again = read(tmp_path / "t.h5")
    assert [c.name for c in again.columns] == [c.name for c in table.columns]
    for one, other in zip(table.columns, again.columns, strict=True):
        np.testing.assert_array_equal(one.distance, other.distance)
    assert [c.witness is None for c in again.columns] == [True, False]
    assert has_end(again["exact.linf.lower"], "lower")
    assert not has_end(again["exact.linf.lower"], "upper")
    found = ends(again, "linf")
    np.testing.assert_array_equal(found.lower, table["exact.linf.lower"].distance)
    np.testing.assert_array_equal(found.upper, table["exact.linf.upper"].distance)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"tolerance": 1.0}, {"time_limit": -1.0}])
def test_what_never_ends_is_refused(options):
    with pytest.raises(UsageError, match=r"closes no bracket|is none"):
        replace(Exact(), **options)


def test_no_integer_programme_for_l2(network, samples):
    with pytest.raises(UsageError, match="L1 and Linf only"):
        Exact(solver="milp")(network, *samples, Threat(L2))

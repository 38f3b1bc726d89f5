"""`exact` against closed forms, enumerated regions and a mixed-integer solver."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from clock import Clock
from closed_form import BOXED, LINEAR
from quickly import measure
from test_nearest import exact as enumerated
from torch import nn

from marginkit.bounds.graph.graph import trace
from marginkit.bounds.relu.from_graph import relu_network
from marginkit.bounds.relu.half_space import HalfSpaces
from marginkit.data.sources import load
from marginkit.errors import UsageError
from marginkit.kinds import Kind, Status
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.polytope import Region
from marginkit.norms import L1, L2, LINF, NORMS
from marginkit.table.brackets import ends, has_end
from marginkit.table.reading import read
from marginkit.table.writing import write
from marginkit.types import Bracket, Threat

FEW = 2
PATIENT = 600.0  # seconds: what is small enough is closed on the slowest machine
boxes = pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)], ids=["free", "box"])
solvers = pytest.mark.parametrize("solver", ["branch", "milp"])


def close(model, x, y, threat, method=None):
    """From a fast search: the thorough one takes most of the time, and leaves less to do."""
    return (method or Exact(time_limit=PATIENT)).close(
        model, x, y, threat, Nearest("fast")(model, x, y, threat)
    )


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
    found = close(
        case.model,
        case.x[:FEW],
        case.y[:FEW],
        Threat(norm, *case.box),
        Exact(solver=solver, time_limit=PATIENT),
    )
    true = case.distance(norm)[:FEW]
    assert (found.status == Status.OK).all()
    assert ((found.lower <= true * (1 + 1e-11)) & (found.lower >= true * (1 - 1e-5))).all()
    assert ((found.upper >= true * (1 - 1e-9)) & (found.upper <= true * (1 + 1e-5))).all()


@pytest.mark.parametrize("negative", [0.0, 0.2], ids=["relu", "leaky"])
@boxes
def test_it_is_the_least_distance_over_all_linear_regions(norm, box, negative):
    """Far from the training data most units are undecided, and the search has to split."""
    torch.manual_seed(1)
    unit = nn.LeakyReLU(negative) if negative else nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 6), unit, nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = torch.rand(2, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    found = close(model, x, y, Threat(norm, *box))
    assert (found.status == Status.OK).all()
    if negative:
        searched = Nearest()(model, x, y, Threat(norm, *box)).upper
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
@pytest.mark.parametrize("kind", ["network", "residual", "pooling"])
@boxes
def test_a_mixed_integer_solver_agrees(network, few, norm, box, kind):
    """To 1e-9, whichever is asked first, and whichever the other starts from."""
    model, x = (network, few[0][:1]) if kind == "network" else SPECIAL[kind]()
    y, threat, milp = model(x).argmax(1), Threat(norm, *box), Exact(solver="milp", time_limit=PATIENT)
    ours, theirs = close(model, x, y, threat), close(model, x, y, threat, milp)
    assert (ours.status == Status.OK).all()
    assert (theirs.status == Status.OK).all()
    torch.testing.assert_close(ours.upper, theirs.upper, rtol=1e-9, atol=0)
    assert (theirs.lower <= ours.upper).all()
    assert (ours.lower <= theirs.upper).all()
    ours_after = Exact(time_limit=PATIENT).close(
        model, x, y, threat, replace(theirs, lower=torch.zeros_like(theirs.lower))
    )
    theirs_after = milp.close(model, x, y, threat, replace(ours, lower=torch.zeros_like(ours.lower)))
    torch.testing.assert_close(ours_after.upper, theirs_after.upper, rtol=1e-9, atol=0)


@boxes
def test_certified_lower_upper_found_are_in_order(network, few, norm, box):
    x, y = few
    threat = Threat(norm, *box)
    searched = Nearest("fast")(network, x, y, threat)
    found = Exact(time_limit=PATIENT).close(network, x, y, threat, searched)
    assert (Crown()(network, x, y, threat).lower <= found.lower).all()
    assert (found.lower <= found.upper).all()
    assert (found.upper <= searched.upper).all()
    assert (found.status == Status.OK).all()
    assert (found.upper - found.lower <= 1e-5 * found.upper).all()
    assert (network(found.witness).argmax(1) != y).all()


def far(norm):
    """A network most of whose units are undecided, and an input."""
    torch.manual_seed(5)
    body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(16, 3)).double()
    x = torch.rand(1, 12, dtype=torch.float64)
    return model, x, model(x).argmax(1), Threat(norm, None, None)


def test_the_lower_end_never_gets_worse_with_more_time(norm, monkeypatch):
    Clock().replace(monkeypatch)
    case = far(norm)
    known = Nearest("fast")(*case)
    found = [Exact(time_limit=s).close(*case, known) for s in (0.0, 4.0, 20.0, 60.0)]
    assert found[0].status == Status.TIMEOUT
    assert Crown()(*case).lower <= found[0].lower
    for sooner, later in pairwise(found):
        assert sooner.lower <= later.lower
        assert later.upper <= sooner.upper
    assert found[0].lower < found[-1].lower


@pytest.mark.parametrize("total", [False, True])
def test_time_limits_are_kept(total, monkeypatch):
    """A step begins with a look at the clock, and none begins when the time is up."""
    model, x, y, threat = far(LINF)
    known = Nearest("fast")(model, x, y, threat)
    for seconds in (5.0, 20.0, 60.0):
        limits = {"time_limit": PATIENT, "total_time_limit": seconds} if total else {"time_limit": seconds}
        clock = Clock().replace(monkeypatch)
        Exact(tolerance=1e-15, **limits).close(model, x, y, threat, known)
        assert seconds <= clock.now <= seconds + 6


def test_a_known_bracket_is_where_the_search_starts(network, few, monkeypatch):
    x, y = few
    threat = Threat(LINF)
    first = close(network, x, y, threat)
    monkeypatch.setattr("marginkit.methods.exact.search", None)  # not called: nothing is open
    monkeypatch.setattr("marginkit.methods.branch_and_bound.start.Nearest", None)
    monkeypatch.setattr("marginkit.methods.branch_and_bound.start.Crown", None)
    again = Exact(time_limit=PATIENT).close(network, x, y, threat, first)
    torch.testing.assert_close(again.upper, first.upper, rtol=1e-9, atol=0)
    assert torch.equal(again.lower, first.lower.minimum(again.upper))
    assert (again.status == Status.OK).all()


def test_a_known_upper_end_without_witness_is_believed(network, few):
    x, y = few[0][:1], few[1][:1]
    threat = Threat(L2)
    true = close(network, x, y, threat)
    claimed = Bracket(0 * true.lower, 0.9 * true.upper, true.status, true.rival)
    found = Exact(time_limit=PATIENT).close(network, x, y, threat, claimed)
    assert torch.equal(found.upper, claimed.upper)
    assert (found.lower >= claimed.upper * (1 - 1e-5)).all()


def test_samples_with_the_fewest_undecided_units_come_first(network, samples, monkeypatch):
    x, seen = samples[0][:6], []
    y, threat = network(x).argmax(1), Threat(LINF)

    def note(space, point, *_):
        seen.append(int(space.root(torch.zeros(1).long(), float(LINF.length(point[None]))).undecided.sum()))
        return 0.0, point

    monkeypatch.setattr("marginkit.methods.exact.search", note)
    Exact(tolerance=1e-12, time_limit=0.2).close(
        network, x, y, threat, Nearest("fast")(network, x, y, threat)
    )
    assert len(set(seen)) > 1
    assert seen == sorted(seen)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.skip = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(h)) + 0.5 * h) - self.skip(x)


def residual():
    torch.manual_seed(0)
    return Residual().double(), torch.rand(1, 4, dtype=torch.float64)


def pooling():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 1, 3, 1, 1), nn.BatchNorm2d(1), nn.LeakyReLU(0.1), nn.MaxPool2d(2))
    model = nn.Sequential(body, nn.AvgPool2d((1, 2)), nn.Flatten(), nn.Linear(2, 3)).double().eval()
    return model, torch.rand(1, 1, 4, 4, dtype=torch.float64)


def odd_windows():
    model = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)).double()
    return model, torch.rand(1, 1, 4, 4, dtype=torch.float64)


SPECIAL = {"residual": residual, "pooling": pooling, "odd_windows": odd_windows}


@pytest.mark.parametrize("kind", SPECIAL)
def test_residuals_and_pooling_are_layers_that_see_several(kind):
    model, x = SPECIAL[kind]()
    found = relu_network(trace(model, x))
    z = torch.randn(20, *x.shape[1:], dtype=torch.float64)
    torch.testing.assert_close(found.hidden(z.flatten(1))[1], model(z))
    on = (found.hidden(z[:1].flatten(1))[0][0] >= 0).double()
    normal, offset = found.jacobian(on)
    torch.testing.assert_close((normal @ z[0].flatten() + offset)[-3:], model(z[:1])[0])


def test_beyond_a_hyperplane_a_ball_holds_less(norm):
    """Sampled points of the cap obey the bound, which is tighter than the ball's."""
    torch.manual_seed(0)
    normal, a = torch.randn(1, 5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    level = 0.6 * norm.dual.length(normal)
    half_spaces = HalfSpaces(normal, level, 1.0, norm, (None, None))
    bound = half_spaces.concretize(a, torch.zeros(40, dtype=torch.long))
    z = norm.project(2 * torch.randn(200_000, 5, dtype=torch.float64), torch.ones(200_000).double())
    inside = z[(z @ normal[0] + level[0]) <= 0]
    assert len(inside) > 100
    lowest = (inside @ a.T).amin(0)
    assert (bound <= lowest + 1e-9).all()
    ball = -norm.dual.length(a)
    assert (bound >= ball * (1 + 1e-12)).all()
    assert ((bound - ball) / (lowest - ball) > 0.3).double().mean() > 0.5


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(x * x)


def test_other_models_are_named_and_searched():
    model, why, x = Product(), "mul", torch.rand(2, 4)
    y = model(x).argmax(1)
    found = Exact(time_limit=PATIENT)(model, x, y, Threat(L2, None, None))
    assert (found.status == Status.UNSUPPORTED).all()
    assert why in found.note
    assert not found.lower.any()
    assert torch.equal(found.upper, Nearest("tight")(model, x, y, Threat(L2, None, None)).upper)


def test_nothing_found_and_not_all_proved_is_open():
    """Without a box the class is far, and a search that finds nothing closes nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0] * 4, [0.5] * 4]))
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(1, 3, dtype=torch.float64)
    found = Exact(time_limit=PATIENT)(model, x, torch.zeros(1, dtype=torch.long), Threat(LINF, None, None))
    assert found.upper.isinf().all()
    assert ((found.status == Status.OK) == found.lower.isinf()).all()
    assert (found.status == Status.TIMEOUT).any()


def test_a_class_that_nothing_reaches_is_proved_far(norm):
    """In the box the score of class 1 stays below that of class 0."""
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]]))
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(1, 3, dtype=torch.float64)
    found = Exact(time_limit=PATIENT)(model, x, torch.zeros(1, dtype=torch.long), Threat(norm))
    assert found.lower.isinf().all()
    assert found.upper.isinf().all()
    assert (found.status == Status.OK).all()


def test_the_matrices_are_the_network(network, samples):
    x = samples[0]
    found = relu_network(trace(network, x))
    torch.testing.assert_close(found.hidden(x.flatten(1))[1], network(x))
    assert found.sizes == [24, 16]
    convolution = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    convolution.double().eval()
    torch.testing.assert_close(relu_network(trace(convolution, x)).hidden(x.flatten(1))[1], convolution(x))


def test_a_convolution_is_closed_too(samples, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)).double()
    x = samples[0][:2]
    found = close(model, x, model(x).argmax(1), Threat(norm, None, None))
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
    table = measure(
        network, load("digits"), {"exact": Exact(time_limit=PATIENT)}, ["linf"], first=2, witnesses=True
    )
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

"""Nothing runs on for ever: solvers, searches and loops end at a limit, and what they had so far counts."""

from __future__ import annotations

import copy
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_form import linear
from scipy import optimize
from torch import nn

from marginkit.bounds.graph.graph import trace
from marginkit.comparison.hodges_lehmann import hodges_lehmann
from marginkit.data.sources import load
from marginkit.files.hdf5_sink import unfailing
from marginkit.kinds import Status
from marginkit.measurement import tighten as tightening
from marginkit.measurement.measure import measure
from marginkit.methods.branch_and_bound import anytime, at_radius, attack, best_first, growing, milp
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.nearest import Nearest
from marginkit.methods.search import polytope
from marginkit.methods.search.polishing import polish
from marginkit.methods.search.polytope import Region
from marginkit.norms import L1, L2, LINF
from marginkit.types import Bracket, Threat

SOONER = [("highs-ds", 1), ("highs-ipm", 1)]


@pytest.fixture(autouse=True)
def _bell():
    """Ends a test that never would."""

    def ring(*_):
        raise AssertionError("this takes too long: something has no end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Clock:
    """A clock that moves on by so many seconds at each look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def region():
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(40, 12))
    level = normal @ generator.normal(size=12) - generator.random(40)
    return Region(normal, level, np.full(12, -np.inf), np.full(12, np.inf))


@pytest.fixture
def small():
    """A network with many kinks, and three of its inputs."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    ).double()
    x = torch.rand(3, 5, dtype=torch.float64)
    with torch.no_grad():
        model[-1].bias -= model(x[:2]).mean(0)  # a boundary runs between the first two
    return model, x, model(x).argmax(1)


# Solvers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [L1, LINF], ids=str)
def test_a_linear_programme_that_the_first_solver_gives_up_is_the_seconds(region, norm, monkeypatch):
    point, _ = region.solved(norm)
    monkeypatch.setattr(polytope, "SOLVERS", [("highs-ds", 1), polytope.SOLVERS[1]])
    again, multiplier = region.solved(norm)
    np.testing.assert_allclose(again, point, atol=1e-7)
    half_space = norm.dual.length(torch.from_numpy(multiplier @ region.normal)[None])
    bound = multiplier @ region.level / float(half_space)
    assert bound == pytest.approx(float(norm.length(torch.from_numpy(point)[None])), rel=1e-6)


@pytest.mark.parametrize("norm", [L1, LINF], ids=str)
def test_every_linear_programme_has_a_limit_of_iterations_and_of_time(region, norm, monkeypatch):
    """A simplex method that goes round in circles, as HiGHS's has in regions of convolutional networks."""
    asked = []

    def cycles(*_, method, options, **__):
        asked.append((method, options))
        return optimize.OptimizeResult(x=None, status=1)

    monkeypatch.setattr(polytope.optimize, "linprog", cycles)
    point, multiplier = region.solved(norm, 3.0)
    assert point is None
    assert not multiplier.any()
    assert [method for method, _ in asked] == [method for method, _ in polytope.SOLVERS]
    assert all(0 < options["maxiter"] < math.inf and options["time_limit"] == 3.0 for _, options in asked)


@pytest.mark.parametrize(
    ("step", "most"), [(0.0, polytope.ROUNDS), (polytope.SECONDS / 4, 6)], ids=["rounds", "clock"]
)
def test_an_l2_solve_that_never_holds_all_rows_ends(region, step, most, monkeypatch):
    calls = []

    def never_right(normal, level):
        calls.append(len(level))
        return np.zeros(normal.shape[1]), np.ones(len(level))

    monkeypatch.setattr(polytope, "_least_distance", never_right)
    monkeypatch.setattr(polytope, "time", Clock(step))
    point, multiplier = replace(region, level=np.ones(40)).solved(L2)
    assert point is None
    assert (multiplier >= 0).all()
    assert len(calls) <= most


def test_non_negative_least_squares_that_give_up_are_no_answer(region, monkeypatch):
    def gives_up(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(polytope.optimize, "nnls", gives_up)
    assert region.shortest(L2) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_region_that_is_not_finite_is_given_to_no_solver(region, norm, value):
    broken = region.normal.copy()
    broken[3, 2] = value
    assert replace(region, normal=broken).shortest(norm) is None


def test_a_polish_without_an_answer_keeps_the_witness(small, norm, monkeypatch):
    model, x, y = small
    rough = Nearest("fast")(model, x, y, Threat(norm))
    found = rough.status == Status.OK
    assert found.any()
    monkeypatch.setattr(polytope, "SOLVERS", SOONER)
    monkeypatch.setattr(polytope, "ROUNDS", 0)
    kept = polish(model, x, y, Threat(norm), rough.witness, 100)
    torch.testing.assert_close(kept, rough.witness, rtol=0, atol=0, equal_nan=True)
    tight = Nearest("tight")(model, x, y, Threat(norm))
    assert (tight.status == rough.status).all()


def test_a_mixed_integer_programme_has_limits_and_its_bound_counts(small, monkeypatch):
    model, x, y = small
    asked = []

    def unfinished(*_, options, **__):
        asked.append(options)
        return optimize.OptimizeResult(status=1, fun=None, mip_dual_bound=0.01, x=None)

    monkeypatch.setattr(milp.optimize, "milp", unfinished)
    found = Exact(time_limit=math.inf, solver="milp")(model, x, y, Threat(LINF, None, None))
    assert asked
    assert all(0 < options["node_limit"] < math.inf and "time_limit" in options for options in asked)
    assert ((found.lower >= 0.009) | (found.status == Status.OK)).all()


# Branch and bound -----------------------------------------------------------------------------------


def test_a_search_that_bounds_nothing_ends_after_so_many_parts(network, samples, monkeypatch):
    x, y = (part[:2] for part in samples)
    plain = Exact()(network, x, y, Threat(LINF))
    assert (plain.status == Status.OK).all()
    for module, name, few in (
        (best_first, "BATCH", 1),
        (best_first, "PARTS", 4),
        (anytime, "ROUNDS", 1),
        (at_radius, "PARTS", 4),
        (growing, "ROUNDS", 1),
    ):
        monkeypatch.setattr(module, name, few)
    bounded = best_first.Relaxation.bounded

    def useless(self, nodes, steps):
        nodes, planes = bounded(self, nodes, steps)
        return replace(nodes, bound=0 * nodes.bound), planes

    monkeypatch.setattr(best_first.Relaxation, "bounded", useless)
    found = Exact(time_limit=math.inf)(network, x, y, Threat(LINF))
    assert (found.status == Status.TIMEOUT).any()
    assert (found.lower <= plain.upper).all()
    assert (found.upper >= plain.lower).all()
    assert found.upper.isfinite().all()


def test_a_ball_whose_parts_are_never_proved_ends_after_so_many(small, monkeypatch):
    model, x, y = small
    asked = at_radius.proved
    monkeypatch.setattr(at_radius, "PARTS", 50)
    monkeypatch.setattr(
        at_radius, "proved", lambda *given: replace(found := asked(*given), value=0 * found.value - 1)
    )
    monkeypatch.setattr(attack.Attack, "__call__", lambda *_: None)
    with torch.no_grad():
        graph = trace(model, x)
        found = at_radius.decide(attack.Sample(model, graph, x[:1], y[:1], Threat(LINF)), 0.3, math.inf)
    assert not found.proved
    assert found.parts <= 50 + 2 * at_radius.BATCHES[1]


def test_balls_that_prove_nothing_are_no_more_than_so_many(small, monkeypatch):
    model, x, y = small
    runs = []
    monkeypatch.setattr(best_first.Search, "run", lambda self, deadline: runs.append(deadline))
    monkeypatch.setattr(best_first.Search, "lower", property(lambda self: 0.0))
    crown = Crown()(model, x, y, Threat(LINF))
    found = Exact(time_limit=math.inf)(model, x, y, Threat(LINF))
    assert 0 < len(runs) <= len(x) * (1 + anytime.ROUNDS)
    assert (found.lower >= crown.lower * (1 - 1e-6)).all(), "what was proved before stays"


@pytest.mark.parametrize("solver", ["branch", "milp"])
def test_no_limit_of_time_is_a_limit_too(small, solver):
    model, x, y = small
    found = Exact(time_limit=math.inf, solver=solver)(model, x, y, Threat(LINF))
    assert (found.status == Status.OK).all()


def test_a_table_whose_brackets_never_close_is_given_up(small, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    table = measure(model, load("digits"), {"nearest": Nearest("fast"), "crown": Crown()}, ["linf"], limit=4)
    calls = []

    def stays(self, model, x, y, threat, known):
        calls.append(len(x))
        return Bracket(0 * known.lower, known.upper, known.status, known.rival, x.double())

    monkeypatch.setattr(tightening.Exact, "close", stays)
    monkeypatch.setattr(tightening.Exact, "tolerance", 1e-30)
    tightening.tighten(table, model, load("digits"), math.inf)
    assert len(calls) <= 4 * (1 + tightening.ROUNDS)


# Other loops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", [5e-324, 1e-320, 1e-310])
def test_the_middle_of_differences_below_all_precision_is_found(tiny):
    values = np.array([0.0, 0.0, tiny, tiny, 3 * tiny])
    assert 0 <= hodges_lehmann(values) <= 3 * tiny


def test_a_disk_that_takes_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="Input/output"), unfailing(tmp_path / "x") as file:
        file.write(b"some bytes")


def test_a_usual_search_does_not_look_at_the_clock(monkeypatch):
    """The limits are no part of any usual answer: it is the same, bit for bit."""
    case = linear(3)
    model = nn.Sequential(copy.deepcopy(case.model), nn.ReLU(), nn.Linear(3, 3, dtype=torch.float64))
    x, y = case.x[:4], model(case.x[:4]).argmax(1)
    plain = Nearest("tight")(model, x, y, Threat(L2))
    monkeypatch.setattr(polytope, "time", Clock(1.0))
    torch.testing.assert_close(Nearest("tight")(model, x, y, Threat(L2)).upper, plain.upper, rtol=0, atol=0)


# What is known stays --------------------------------------------------------------------------------


def known_bracket(x, lower, upper):
    full = torch.full((len(x),), 0.0, dtype=torch.float64)
    codes = torch.full((len(x),), int(Status.TIMEOUT))
    return Bracket(full + lower, full + upper, codes, codes * 0 + 1, torch.full_like(x, torch.nan))


@pytest.mark.parametrize("supported", [True, False], ids=["supported", "unsupported"])
@pytest.mark.parametrize(("lower", "upper"), [(1e-3, 2e-3), (1e-3, math.inf), (0.0, 2e-3), (2e-3, 2e-3)])
def test_closing_never_widens_what_is_known(small, supported, lower, upper):
    model, x, _ = small
    if not supported:
        model = nn.Sequential(model[0], nn.GELU(), *model[1:])
    y = model(x).argmax(1)
    found = Exact(time_limit=0.0).close(model, x, y, Threat(LINF), known_bracket(x, lower, upper))
    assert (found.lower >= lower).all()
    assert (found.upper <= upper).all()
    assert (found.lower <= found.upper).all()

"""The shortest point of a region by the few rows that bind is that of all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from marginkit.methods.search import polytope
from marginkit.methods.search.polytope import Region
from marginkit.norms import L1, L2, LINF, NORMS

ROWS, FEATURES = 300, 60


@pytest.fixture(params=range(3))
def region(request):
    """A boundary, kinks that leave a point room, and a box at whose edge many features are."""
    rng = np.random.default_rng(request.param)
    x = rng.random(FEATURES) * (rng.random(FEATURES) < 0.6)
    point = np.clip(x + 0.2 * rng.normal(size=FEATURES), 0, 1) - x
    normal = rng.normal(size=(ROWS, FEATURES))
    level = normal @ point - rng.exponential(1.0, ROWS)
    level[0] = normal[0] @ point - 0.1
    return Region(normal, level, -x, 1 - x)


def at_once(region, norm):
    """By one programme of all rows, in another form than the region's own."""
    count, f = region.normal.shape
    rows, level = region.normal, region.level
    if norm is L2:
        found = optimize.minimize(
            lambda z: 0.5 * z @ z, np.zeros(f), jac=lambda z: z, method="SLSQP", tol=1e-15,
            bounds=list(zip(region.low, region.high, strict=True)),
            constraints={"type": "ineq", "fun": lambda z: rows @ z - level, "jac": lambda _: rows},
        )  # fmt: skip
        return np.linalg.norm(found.x)
    slack, eye = (f, np.eye(f)) if norm is L1 else (1, np.ones((f, 1)))
    every = np.vstack([
        np.c_[-rows, np.zeros((count, slack))], np.c_[np.eye(f), -eye], np.c_[-np.eye(f), -eye],
    ])  # fmt: skip
    bounds = np.vstack([np.c_[region.low, region.high], np.c_[np.zeros(slack), np.full(slack, np.inf)]])
    cost = np.r_[np.zeros(f), np.ones(slack)]
    return optimize.linprog(cost, every, np.r_[-level, np.zeros(2 * f)], bounds=bounds).fun


@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
def test_rows_taken_in_as_they_are_violated_give_the_shortest_point_of_all(region, norm):
    point, multiplier = region.solved(norm)
    length = np.linalg.norm(point, norm.p)
    np.testing.assert_allclose(length, at_once(region, norm), rtol=1e-6)
    assert (region.normal @ point >= region.level - 1e-9).all()
    assert (point >= region.low - 1e-9).all()
    assert (point <= region.high + 1e-9).all()
    assert (multiplier >= 0).all()
    assert (multiplier @ region.normal @ point <= multiplier @ region.level + 1e-6).all()  # they bind


@pytest.mark.parametrize("norm", [L1, LINF], ids=str)
def test_most_rows_are_never_asked_about(region, norm, monkeypatch):
    asked = []
    solve = optimize.linprog

    def counted(cost, rows, *args, **kwargs):
        asked.append(rows.shape[0])
        return solve(cost, rows, *args, **kwargs)

    monkeypatch.setattr(polytope.optimize, "linprog", counted)
    region.solved(norm)
    assert 1 < len(asked) < polytope.ROUNDS
    assert max(asked) < ROWS / 2


@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
def test_an_empty_region_of_many_rows_has_no_point_but_multipliers_that_say_so(region, norm):
    """The opposite of one of its rows, a little farther: no point of the box satisfies both."""
    empty = Region(
        np.vstack([region.normal, -region.normal[:1]]), np.r_[region.level, 0.1 - region.level[0]],
        np.full(FEATURES, -np.inf), np.full(FEATURES, np.inf),
    )  # fmt: skip
    point, multiplier = empty.solved(norm)
    assert point is None
    assert (multiplier >= 0).all()


def test_a_region_that_holds_the_input_has_it():
    for norm in NORMS.values():
        region = Region(np.ones((2, 3)), np.array([-1.0, -2.0]), np.zeros(3), np.ones(3))
        np.testing.assert_array_equal(region.shortest(norm), np.zeros(3))

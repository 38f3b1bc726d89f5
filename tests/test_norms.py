"""The geometry, by the properties that define it."""

import pytest
import torch
from closed_form import SOLVE
from torch.testing import assert_close

from marginkit.kinds import NORM_NAMES
from marginkit.norms import NORMS, along, dot

pytestmark = pytest.mark.quick

N, FEATURES = 40, 7


def vectors(seed: int = 0, n: int = N) -> torch.Tensor:
    return torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boxes(kind: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Room to move down and up: none given, finite, half infinite, or some entries frozen."""
    if kind == "unbounded":
        return None, None
    low, high = -vectors(1).abs(), vectors(2).abs()
    if kind == "half":
        low, high[:, ::2] = torch.full_like(low, -torch.inf), torch.inf
    if kind == "frozen":
        low[:, :3], high[:, :3] = 0, 0
    return low, high


box = pytest.mark.parametrize("kind", ["unbounded", "finite", "half", "frozen"])


def inside(z, low, high):
    return low is None or bool(((z >= low) & (z <= high)).all())


def test_dual_of_dual_is_itself(norm):
    assert norm.dual.dual is norm
    assert NORMS[norm.name] is norm


def test_steepest_attains_the_dual_length(norm):
    g = vectors()
    u = norm.steepest(g)
    assert_close(norm.length(u), torch.ones(N, dtype=torch.float64))
    assert_close(dot(g, u), norm.dual.length(g))


def test_steepest_of_zero_is_zero(norm):
    assert not norm.steepest(torch.zeros(2, 3)).any()


def test_length_has_a_gradient_at_zero(norm):
    v = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm.length(v).sum(), v)
    assert gradient.isfinite().all()


@box
def test_projection_is_the_nearest_point_of_ball_and_box(norm, kind):
    """p is nearest iff <v - p, z - p> <= 0 for every z of the set: tried with many z."""
    v, (low, high) = vectors(3), boxes(kind)
    radius = norm.length(v).median().expand(N)
    p = norm.project(v, radius, low, high)
    assert (norm.length(p) <= radius * (1 + 1e-9)).all()
    assert inside(p, low, high)
    outside = norm.length(v) > radius
    assert 0 < outside.sum() < N, "the inputs exercise both sides"
    for seed in range(60):
        z = along(radius / norm.length(vectors(seed)), vectors(seed))
        z = z if low is None else torch.minimum(torch.maximum(z, low), high)
        assert (dot(v - p, z - p) <= 1e-9).all()
    if kind == "unbounded":  # the worst z is known
        worst = along(radius, norm.steepest(v - p))
        assert (dot(v - p, worst - p) <= 1e-9).all()
        assert_close(p[~outside], v[~outside])
    assert_close(norm.project(p, radius, low, high), p)


def test_projection_onto_a_ball_of_radius_zero_is_the_centre(norm):
    assert not norm.project(vectors(), torch.zeros(N, dtype=torch.float64)).any()


@pytest.mark.parametrize("kind", ["finite", "half", "frozen"])
def test_reach_is_the_shortest_step_to_the_hyperplane(norm, kind):
    """Against a linear or quadratic program; the box is shifted to scipy's [0, 1]."""
    a, x = vectors(4, 12), torch.rand(12, FEATURES, generator=torch.Generator().manual_seed(5)).double()
    low, high = -x, 1 - x
    if kind == "frozen":
        a[:, :3] = 0  # a frozen entry and one without weight have the same answer
        low, high = low.clone(), high.clone()
        low[:, :3], high[:, :3] = 0, 0
    c = torch.linspace(-0.9, 0.9, 12, dtype=torch.float64)
    z = norm.reach(a, c, low, high)
    assert inside(z, low, high)
    for i in range(12):
        sign = 1 if c[i] > 0 else -1
        weights = sign * a[i].numpy()
        solved = SOLVE[norm.name](x[i].numpy(), weights, float(sign * c[i]) + weights @ x[i].numpy())
        if solved < float("inf"):
            assert_close(dot(a, z)[i], c[i])
            assert norm.length(z)[i].item() == pytest.approx(solved, rel=1e-6)


def test_reach_without_a_box_has_the_closed_form(norm):
    a, c = vectors(6), torch.linspace(-2, 2, N, dtype=torch.float64)
    infinite = torch.full_like(a, torch.inf)
    for low, high in [(None, None), (-infinite, infinite)]:
        z = norm.reach(a, c, low, high)
        assert_close(dot(a, z), c)
        assert_close(norm.length(z), c.abs() / norm.dual.length(a))


def test_reach_goes_to_the_corner_where_the_hyperplane_misses_the_box(norm):
    a, (low, high) = vectors(7), boxes("finite")
    z = norm.reach(a, torch.full((N,), 1e6, dtype=torch.float64), low, high)
    assert_close(z, torch.where(a > 0, high, low))


@box
def test_reach_of_a_zero_normal_stays(norm, kind):
    low, high = boxes(kind)
    z = norm.reach(
        torch.zeros(N, FEATURES, dtype=torch.float64), torch.ones(N, dtype=torch.float64), low, high
    )
    assert not z.any()


def test_reach_does_not_depend_on_the_scale_of_the_normal(norm):
    a, (low, high) = vectors(8).float(), boxes("finite")
    low, high = low.float(), high.float()
    c = torch.full((N,), 0.5)
    assert_close(
        norm.reach(a * 1e-25, c * 1e-25, low, high), norm.reach(a, c, low, high), rtol=1e-4, atol=1e-6
    )


def test_samples_do_not_interact(norm):
    a, (low, high), c = vectors(9), boxes("finite"), torch.linspace(0, 1, N, dtype=torch.float64)
    whole = norm.reach(a, c, low, high), norm.project(a, c, low, high)
    for i in (0, 3, N - 1):
        row = slice(i, i + 1)
        assert_close(norm.reach(a[row], c[row], low[row], high[row]), whole[0][row])
        assert_close(norm.project(a[row], c[row], low[row], high[row]), whole[1][row])


def test_tables_and_searches_know_the_same_norms():
    assert tuple(NORMS) == NORM_NAMES
    assert {name: found.p for name, found in NORMS.items()} == {"l1": 1.0, "l2": 2.0, "linf": torch.inf}

"""Planes above rectifiers over a box: by enumeration of its corners, and by closed forms."""

import itertools

import pytest
import torch

from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.cube import in_cube, off_cube, on_cube
from marginkit.bounds.linear.envelopes import Blend, Envelope, Hull
from marginkit.norms import LINF

ENTRIES, UNITS = 6, 40
LEAKS = (0.0, 0.3, -1.0)  # ReLU, LeakyReLU, |z|
CORNERS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=ENTRIES)), dtype=torch.float64)


def planes(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some of them without all entries, some positive or negative everywhere."""
    torch.manual_seed(seed)
    normal = torch.randn(UNITS, ENTRIES, dtype=torch.float64)
    if seed % 2:
        normal = normal * (torch.rand_like(normal) < 0.5)
    return normal, 2 * torch.randn(UNITS, dtype=torch.float64)


def above(
    normal: torch.Tensor, level: torch.Tensor, toward: torch.Tensor, points: torch.Tensor, leak: float = 0.0
) -> torch.Tensor:
    """The values at points [n, d] of planes that are low near one of them [d]: [n, units]."""
    ones = torch.ones(len(points), UNITS, dtype=torch.float64)
    blend = Blend(ones, ones > 0, toward.expand(len(points), -1))
    hull = Hull.of(Envelope.of(normal, level, True, leak), -ones, blend)
    return hull.above(points, points @ normal.T + level, torch.zeros_like(ones))


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("far", [0.0, 0.5, 2.0, 50.0])
def test_planes_are_above_the_rectifier_in_every_corner(seed, far, leak):
    """And so everywhere: what a rectifier is above a plane is convex, and largest in a corner."""
    normal, level = planes(seed)
    found = above(normal, level, far * torch.randn(ENTRIES, dtype=torch.float64), CORNERS, leak)
    assert (found >= Rectifier(leak)(CORNERS @ normal.T + level) - 1e-12).all()


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("seed", range(4))
def test_in_the_middle_they_are_chords(seed, leak):
    normal, level = planes(seed)
    length = normal.abs().sum(1)
    low, high = level - length, level + length
    around_0 = (low < 0) & (high > 0)
    lines = Rectifier(leak).lines(low, high, False)
    chord = lines.upper_slope * (CORNERS @ normal.T + level) + lines.upper_offset
    found = above(normal, level, torch.zeros(ENTRIES, dtype=torch.float64), CORNERS, leak)
    torch.testing.assert_close(found[:, around_0], chord[:, around_0])


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("seed", range(4))
def test_far_towards_a_corner_they_touch_the_rectifier_there(seed, leak):
    normal, level = planes(seed)
    for corner in CORNERS[::7]:
        found = above(normal, level, 1e9 * corner, corner.unsqueeze(0), leak)[0]
        expected = Rectifier(leak)(normal @ corner + level)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("seed", range(2))
def test_the_way_back_is_the_planes_combination(seed, leak):
    """With the weights of a blend; what isn't undecided or has a coefficient above 0 is left out."""
    normal, level = planes(seed)
    torch.manual_seed(seed)
    coefficients = torch.randn(3, UNITS, dtype=torch.float64)
    blend = Blend(
        torch.rand_like(coefficients), torch.rand_like(coefficients) < 0.7, torch.randn(3, ENTRIES).double()
    )
    found = Hull.of(Envelope.of(normal, level, False, leak), coefficients, blend)
    back, offset = found.back()
    taken = torch.where(blend.undecided & (coefficients < 0), blend.weight * coefficients, 0)
    torch.testing.assert_close(found.taken, taken)
    for corner in CORNERS[::9]:
        entering = (normal @ corner + level).expand(3, -1)
        heights = found.above(corner.expand(3, -1), entering, torch.zeros_like(taken))
        whole = back @ corner + offset + (found.linear * entering).sum(1)
        torch.testing.assert_close(whole, (taken * heights).sum(1))


def test_functions_of_the_box_are_functions_of_the_cube_and_back():
    """Also where a side has no length."""
    torch.manual_seed(0)
    x = torch.rand(1, ENTRIES, dtype=torch.float64)
    x[0, 0] = 1
    room = -x.clone(), 1 - x
    room[0][0, 1] = room[1][0, 1] = 0
    ball = Ball(x, torch.tensor([0.3], dtype=torch.float64), LINF, *room)
    normal, level = torch.randn(5, ENTRIES, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    low, high = ball.interval()
    points = low + (high - low) * torch.rand(9, ENTRIES, dtype=torch.float64)
    wanted = points @ normal.T + level
    on, height = on_cube(ball, normal, level)
    torch.testing.assert_close(in_cube(ball, points) @ on.T + height, wanted)
    off, height = off_cube(ball, on, height)
    torch.testing.assert_close(points @ off.T + height, wanted)

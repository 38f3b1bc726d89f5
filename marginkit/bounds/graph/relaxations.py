"""Lines that enclose the nonlinear operations on an interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.bounds.graph.ops import Interval

GRID = 32
TIE = 1e-10  # by which a later line is to be better: several touch the function at one point of the grid


@dataclass(frozen=True, eq=False)
class LinearRelaxation:
    """lower_slope x + lower_offset <= f(x) <= upper_slope x + upper_offset, entry by entry."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor

    def part(self, take: Callable[[Tensor], Tensor]) -> LinearRelaxation:
        """Of some entries."""
        return LinearRelaxation(
            *map(take, (self.lower_slope, self.lower_offset, self.upper_slope, self.upper_offset))
        )

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Positive coefficients take the lower line, negative ones the upper.

        A slope of 0 leaves exactly 0: what an ascent does there has to come from no rounding.
        """
        up = a.relu()
        down = a - up
        back = torch.addcmul(down * self.upper_slope.unsqueeze(1), up, self.lower_slope.unsqueeze(1))
        return back, inner(down, self.upper_offset) + inner(up, self.lower_offset)


def inner(a: Tensor, values: Tensor) -> Tensor:
    """Coefficients [b, rows, *shape] times values [n, *shape]: [n, rows], or [b, rows] of one n."""
    entries = math.prod(values.shape[1:])
    a, values = a.reshape(*a.shape[:2], entries), values.reshape(len(values), entries)
    if len(a) == 1:
        return values @ a[0].T
    return (a @ values.unsqueeze(2)).squeeze(2)


@dataclass(frozen=True)
class Rectifier:
    """ReLU, and with a slope below 0 of at most 1 LeakyReLU; with slope -1 |x|.

    Around 0 the chord is the upper line. The lower one goes through the origin with slope 1 or `negative`,
    whichever leaves the smaller triangle (Zhang et al., arXiv 1811.00866), or parallel to the chord (Wong
    and Kolter, arXiv 1711.00851).
    """

    negative: float = 0.0
    piecewise: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """max(x, negative x)."""
        return torch.maximum(x, self.negative * x)

    @property
    def slopes(self) -> tuple[float, float]:
        """The least and the largest slope."""
        return self.negative, 1.0

    def interval(self, x: Interval) -> Interval:
        """Convex: the larger end, and 0 or the smaller one."""
        ends = self(x[0]), self(x[1])
        low = torch.minimum(*ends)
        return torch.where((x[0] < 0) & (x[1] > 0), low.clamp(max=0), low), torch.maximum(*ends)

    def lines(self, low: Tensor, high: Tensor, same: bool) -> LinearRelaxation:
        """The triangle, or the strip parallel to its long side."""
        one, least = torch.ones_like(low), torch.full_like(low, self.negative)
        stable = (low >= 0) | (high <= 0)
        width = torch.where(stable, 1, high - low)
        chord = torch.where(stable, torch.where(low >= 0, one, least), (high - self.negative * low) / width)
        lower = chord if same else torch.where(high > -low, one, least)
        zero = torch.zeros_like(low)
        offset = torch.where(stable, 0, (self(low) - chord * low).clamp(min=0))
        return LinearRelaxation(torch.where(stable, chord, lower), zero, chord, offset)


@dataclass(frozen=True)
class Smooth:
    """A twice differentiable function of one variable.

    For a slope k the offsets are the extremes of f(x) - k x, taken on a grid and put outwards by the most
    that |f''| <= `bend` lets the function leave its chords between grid points. Beyond `tail` the function
    is convex or concave, and its tangent there bounds it. Among a few slopes, the line whose value at the
    middle of the interval is best is taken: that minimises the area.

    Attributes:
        function, slope: f and f'.
        slopes: the least and the largest f'.
        bend: the largest |f''|.
        tail: f is convex or concave on either side of [-tail, tail].
        left, right: 1 where that tail is convex, -1 where concave.
        jump: the most by which PyTorch's function differs from f.
    """

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    slopes: tuple[float, float]
    bend: float
    tail: float
    left: int
    right: int
    jump: float = 0.0
    piecewise: ClassVar[bool] = False

    def __call__(self, x: Tensor) -> Tensor:
        """The value."""
        return self.function(x)

    def interval(self, x: Interval) -> Interval:
        """By horizontal lines."""
        zero = torch.zeros_like(x[0])
        least, most = self._offsets(*x, [zero])
        return least[0], most[0]

    def lines(self, low: Tensor, high: Tensor, same: bool) -> LinearRelaxation:
        """The best of a few lines on each side."""
        thin = high - low < 1e-9
        width = torch.where(thin, 1, high - low)
        middle = (low + high) / 2
        tangent = self.slope(middle)
        chord = torch.where(thin, tangent, (self(high) - self(low)) / width)
        slopes = [chord] if same else [chord, tangent, *self._through_ends(low, high, chord)]
        least, most = self._offsets(low, high, slopes)
        k = torch.stack(slopes)
        first = TIE * torch.arange(len(slopes)).to(low).view(-1, *[1] * low.ndim)
        below = (k * middle + torch.stack(least) - first).argmax(0, keepdim=True)
        above = (k * middle + torch.stack(most) + first).argmin(0, keepdim=True)

        def chosen(values: Tensor, which: Tensor) -> Tensor:
            return values.gather(0, which).squeeze(0)

        return LinearRelaxation(
            chosen(k, below), chosen(torch.stack(least), below),
            chosen(k, above), chosen(torch.stack(most), above),
        )  # fmt: skip

    def _through_ends(self, low: Tensor, high: Tensor, chord: Tensor) -> list[Tensor]:
        """The flattest and steepest chords from either end."""
        slopes = [chord] * 4
        at_low, at_high = self(low), self(high)
        for share in torch.arange(1, GRID) / GRID:
            x = low + share * (high - low)
            value = self(x)
            rise = (value - at_low) / (x - low).clamp(min=1e-12)
            fall = (at_high - value) / (high - x).clamp(min=1e-12)
            slopes = [
                torch.minimum(slopes[0], rise), torch.maximum(slopes[1], rise),
                torch.minimum(slopes[2], fall), torch.maximum(slopes[3], fall),
            ]  # fmt: skip
        return slopes

    def _offsets(self, low: Tensor, high: Tensor, slopes: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """A lower and an upper bound of f(x) - k x on [low, high], for each slope k."""
        first, last = low.clamp(-self.tail, self.tail), high.clamp(-self.tail, self.tail)
        step = (last - first) / GRID
        rounding = 1e-14 + self.jump
        slack = self.bend * step.square() / 8 + rounding
        least = [torch.full_like(low, torch.inf) for _ in slopes]
        most = [torch.full_like(low, -torch.inf) for _ in slopes]
        for i in range(GRID + 1):
            x = first + i * step
            value = self(x)
            for j, k in enumerate(slopes):
                gap = value - k * x
                least[j] = torch.minimum(least[j], gap - slack)
                most[j] = torch.maximum(most[j], gap + slack)
        for end, convex in ((low, self.left), (high, self.right)):
            inside = end.clamp(-self.tail, self.tail)
            beyond = end != inside
            for j, k in enumerate(slopes):
                exact = self(end) - k * end
                tangent = self(inside) + self.slope(inside) * (end - inside) - k * end
                down, up = (tangent, exact) if convex > 0 else (exact, tangent)
                least[j] = torch.where(beyond, torch.minimum(least[j], down - rounding), least[j])
                most[j] = torch.where(beyond, torch.maximum(most[j], up + rounding), most[j])
        return least, most


def _gelu_slope(x: Tensor) -> Tensor:
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    below: Tensor = torch.special.ndtr(x)
    return below + x * density


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t.square()) * c * (1 + 3 * 0.044715 * x.square())


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


SIGMOID = Smooth(
    torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x), (0.0, 0.25), 0.0963, 14.0, 1, -1
)
TANH = Smooth(torch.tanh, lambda x: 1 - torch.tanh(x).square(), (0.0, 1.0), 0.7699, 7.0, 1, -1)
GELU = Smooth(F.gelu, _gelu_slope, (-0.13, 1.13), 0.7979, 5.0, -1, -1)
GELU_TANH = Smooth(_gelu_tanh, _gelu_tanh_slope, (-0.13, 1.13), 0.7979, 5.0, -1, -1)
SILU = Smooth(F.silu, _silu_slope, (-0.1, 1.1), 0.5001, 10.0, -1, -1)


@cache
def softplus(beta: float, threshold: float) -> Smooth:
    """log(1 + exp(beta x)) / beta; PyTorch jumps to x where beta x passes the threshold."""
    return Smooth(
        lambda x: F.softplus(x, beta, threshold), lambda x: torch.sigmoid(beta * x),
        (0.0, 1.0), beta / 4, 15 / beta, 1, 1, math.log1p(math.exp(-threshold)) / beta,
    )  # fmt: skip


@cache
def celu(alpha: float) -> Smooth:
    """X above 0, alpha (exp(x / alpha) - 1) below."""
    return Smooth(
        lambda x: F.celu(x, alpha), lambda x: torch.exp(x.clamp(max=0) / alpha),
        (0.0, 1.0), 1 / alpha, 15 * alpha, 1, 1,
    )  # fmt: skip

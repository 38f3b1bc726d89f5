"""Linear bounds in L2 that spend the radius once: the ball around a layer and its intervals, together.

Lines that hold on intervals let every unit be as far away as the whole radius allows. But all of a layer's
values together lie in a ball: |z - z0| <= R, with z0 those at the centre. For coefficients c, any slopes g
and any multiplier lam >= 0, every z in ball and intervals has

    c . f(z) - g . z >= -lam R^2 / 2 + sum_i min over z_i in [l_i, u_i] of
                        c_i f_i(z_i) - g_i z_i + lam (z_i - z0_i)^2 / 2,

because lam (|z - z0|^2 - R^2) / 2 <= 0 may be added. With f between lines on pieces of the interval (a ReLU
is two lines) each minimum is that of a parabola on an interval. lam = 0 is CROWN (Zhang et al., arXiv
1811.00866); intervals without ends give the bound of SDP-CROWN (arXiv 2506.06665); g = 0 with lam = |c| / R
is the product of the layers' norms. Any entries may have a ball of their own, with a multiplier of its own:
those that the intervals leave undecided have a smaller one (`undecided.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from marginkit.bounds.graph.ops import Nonlinear
from marginkit.bounds.graph.relaxations import LinearRelaxation, Rectifier

TIE = 1e-9  # of a coefficient
NONE = 1e300  # the minimum over an empty piece
PARTS = 4  # pieces of a smooth activation's interval

Pieces = tuple[tuple[Tensor, Tensor, LinearRelaxation], ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """An activation's inputs z within ball and intervals.

    Attributes:
        centre: z0 [n, *shape].
        radius: R [n, balls]: of all of z, and where `among` is given of these entries.
        pieces: parts of the intervals [n, *shape], and lines that hold there; empty ones are inverted.
        lines: that hold on the whole intervals.
        among: entries [n, *shape] that lie in the second ball; None where there is none.
    """

    centre: Tensor
    radius: Float[Tensor, "n balls"]
    pieces: Pieces
    lines: LinearRelaxation
    among: Bool[Tensor, "n *shape"] | None = None

    def offset(self, c: Tensor, g: Tensor, lam: Float[Tensor, "n rows balls"]) -> Float[Tensor, "n rows"]:
        """A lower bound of c . f(z) - g . z for coefficients [n, rows, *shape] and lam >= 0."""
        wide, *inner = (one.view(*one.shape, *[1] * (c.ndim - 2)) for one in lam.unbind(2))
        if self.among is not None:
            wide = wide + inner[0] * self.among.unsqueeze(1)
        least = torch.full_like(c, NONE)
        for low, high, lines in self.pieces:
            slope, height = _line(c, lines)
            least = _lesser(least, _parabola(slope - g, wide, self.centre, low, high) + height, c)
        if len(self.pieces) > 2:  # lines around a smooth activation may be nearer to it on the whole
            slope, height = _line(c, self.lines)
            ends = self.pieces[0][0], self.pieces[-1][1]
            least = torch.maximum(least, _parabola(slope - g, wide, self.centre, *ends) + height)
        allowed = (lam / 2 * self.radius.unsqueeze(1).square()).sum(2)
        return least.reshape(*least.shape[:2], -1).sum(2) - allowed

    @cached_property
    def slope_at_centre(self) -> Tensor:
        """Of f [n, *shape], by the piece that z0 is in."""
        found = self.lines.upper_slope
        for low, high, lines in self.pieces:
            within = (low <= self.centre) & (self.centre <= high)
            found = torch.where(within, (lines.lower_slope + lines.upper_slope) / 2, found)
        return found

    @cached_property
    def steepest(self) -> tuple[Tensor, Tensor]:
        """The least and the largest slope of the pieces [n, *shape]; no others are worth trying."""
        slopes = torch.stack(
            [s for _, _, lines in self.pieces for s in (lines.lower_slope, lines.upper_slope)]
        )
        return slopes.amin(0), slopes.amax(0)


def _lesser(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The minimum, whose gradient is a's where they are equal but for rounding.

    A chord touches a ReLU at both ends of its interval: rounding would choose the way that an ascent takes.
    """
    chosen = torch.where(b < a - TIE * c.abs(), b, a)
    return chosen + (torch.minimum(a, b) - chosen).detach()


def _parabola(m: Tensor, lam: Tensor, z0: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Min over z in [low, high] of m z + lam (z - z0)^2 / 2; NONE where the interval is empty."""
    z0, low, high = z0.unsqueeze(1), low.unsqueeze(1), high.unsqueeze(1)
    z = torch.where(lam > 0, z0 - m / lam.clamp(min=1e-30), torch.where(m > 0, low, high))
    z = torch.maximum(torch.minimum(z, high), low)
    return torch.where(low <= high, m * z + lam / 2 * (z - z0).square(), NONE)


def _line(c: Tensor, lines: LinearRelaxation) -> tuple[Tensor, Tensor]:
    """Slope and height of the line below c f."""
    below = c > 0
    slope = torch.where(below, lines.lower_slope.unsqueeze(1), lines.upper_slope.unsqueeze(1))
    height = torch.where(below, lines.lower_offset.unsqueeze(1), lines.upper_offset.unsqueeze(1))
    return c * slope, c * height


def pieces(op: Nonlinear, low: Tensor, high: Tensor) -> Pieces:
    """Parts of the interval, and lines that enclose the operation on each."""
    if isinstance(op, Rectifier):
        ends = ((low, high.clamp(max=0), op.negative), (low.clamp(min=0), high, 1.0))
        zero = torch.zeros_like(low)
        slopes = [torch.full_like(low, slope) for _, _, slope in ends]
        return tuple(
            (a, b, LinearRelaxation(k, zero, k, zero)) for (a, b, _), k in zip(ends, slopes, strict=True)
        )
    cuts = [low + (high - low) * (q / PARTS) for q in range(PARTS)] + [high]
    found = [(a, b, op.lines(a, b, False)) for a, b in pairwise(cuts)]
    return tuple((a, b, lines) for a, b, lines in found if isinstance(lines, LinearRelaxation))

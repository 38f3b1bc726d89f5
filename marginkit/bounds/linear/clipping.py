"""What is left of hidden units' intervals beyond a hyperplane, in a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from marginkit.bounds.ascent import best_multiplier
from marginkit.bounds.linear.ball import CACHED, Ball
from marginkit.bounds.linear.relaxed import Planes
from marginkit.bounds.subdomains import Subdomains

EMPTY = 1e-6  # by which an interval's ends have to miss each other


@dataclass(frozen=True, eq=False)
class Functions:
    """Linear functions below some undecided units' inputs z, and below -z, within a ball.

    Attributes:
        columns: the units' [k].
        normal: of z, then of -z [2 k, f].
        level: [2 k].
    """

    columns: Tensor
    normal: Tensor
    level: Tensor

    @cached_property
    def support(self) -> Tensor:
        """Entries of the input outside which each function's coefficients are zero [2 k, s]."""
        used = (self.normal != 0).to(torch.uint8)
        most = max(1, int(used.sum(1).amax()))
        return used.topk(most, dim=1).indices

    @cached_property
    def coefficients(self) -> Tensor:
        """On the support [2 k, s]."""
        return self.normal.gather(1, self.support)

    @cached_property
    def signs(self) -> Tensor:
        """Of all coefficients, in float32 [2 k, f]."""
        return self.normal.sign().float()


def clipped(functions: Sequence[Functions], ball: Ball, parts: Subdomains, planes: Planes) -> Subdomains:
    """The parts' intervals met with what is left of them where each plane is at most 0.

    A part's adversarial inputs lie there and nowhere else (Clip-and-Verify, arXiv 2512.11087, has the
    idea): the nearer a bound is to 0 the smaller is that rest. Every multiplier t >= 0 gives the bound
    min over the box of (a + t g) x of a unit's linear function a x, so the best of a few, found in
    float32, is evaluated in float64. Parts that are found empty get the bound inf.

    Args:
        functions: below the units' inputs.
        ball: in Linf, around one sample.
        parts: of it.
        planes: one a part.
    """
    box, low, high = _Box.of(ball), parts.low.clone(), parts.high.clone()
    normal, level = planes.normal.flatten(1), planes.level
    half_spaces = _HalfSpaces(box, normal, level + normal @ box.middle)
    for group in functions:
        open_ = parts.undecided[:, group.columns]
        above, below = (half_spaces.rises(group) & torch.cat([open_, open_], 1)).chunk(2, dim=1)
        for part, unit in [above.nonzero(as_tuple=True)]:
            at = part, group.columns[unit]
            low[at] = torch.maximum(low[at], downwards(half_spaces.least(group, unit, part)))
        for part, unit in [below.nonzero(as_tuple=True)]:
            at, row = (part, group.columns[unit]), unit + len(group.columns)
            high[at] = torch.minimum(high[at], -downwards(half_spaces.least(group, row, part)))
    empty = (low > high + EMPTY * (1 + low.abs())).any(1)
    low = torch.minimum(low, high)
    return replace(parts, low=low, high=high, bound=torch.where(empty, torch.inf, parts.bound))


@dataclass(frozen=True, eq=False)
class _Box:
    """middle - reach <= x <= middle + reach [f]."""

    middle: Tensor
    reach: Tensor

    @staticmethod
    def of(ball: Ball) -> _Box:
        low, high = (end.flatten() for end in ball.interval())
        return _Box((low + high) / 2, (high - low) / 2)


@dataclass(frozen=True, eq=False)
class _HalfSpaces:
    """The points of a box where normal (x - middle) + level <= 0, of each of m parts."""

    box: _Box
    normal: Tensor
    level: Tensor

    def rises(self, group: Functions) -> Tensor:
        """Whether a function's least value over the box grows with a small multiplier [m, 2 k].

        Where it doesn't the half-space says nothing of the function: the bound is concave in the multiplier.
        """
        pull, size = ((v * self.box.reach).float().T for v in (self.normal, self.normal.abs()))
        rise = group.signs.abs() @ size - group.signs @ pull
        return (rise + (self.level - self._lengths).float() > 0).T

    def least(self, group: Functions, rows: Tensor, part: Tensor) -> Tensor:
        """Lower bounds of the group's functions in the parts' half-spaces, row by row."""
        if not len(rows):
            return self.level[:0]
        few = max(1, CACHED // group.support.shape[1])
        pieces = zip(torch.split(rows, few), torch.split(part, few), strict=True)
        return torch.cat([self._least(group, row, of) for row, of in pieces])

    def _least(self, group: Functions, row: Tensor, of: Tensor) -> Tensor:
        """Outside the support only the half-space's own coefficients count."""
        entries, a = group.support[row], group.coefficients[row]
        g = self.normal[of.unsqueeze(1), entries]
        reach = self.box.reach[entries]
        base = group.level[row] + (a * self.box.middle[entries]).sum(1)
        outside = self._lengths[of] - (g.abs() * reach).sum(1)
        gain = self.level[of] - outside
        t = _multiplier((a * reach).float(), (g * reach).float(), gain.float()).double()
        return base + t * gain - ((a + t.unsqueeze(1) * g).abs() * reach).sum(1)

    @cached_property
    def _lengths(self) -> Tensor:
        return (self.normal.abs() * self.box.reach).sum(1)


def _multiplier(a: Tensor, g: Tensor, gain: Tensor) -> Tensor:
    """The best of a few t for t gain - |a + t g|."""

    def bound(t: Tensor) -> Tensor:
        value: Tensor = t * gain - torch.addcmul(a, t.unsqueeze(1), g).abs().sum(1)
        return value

    return best_multiplier(bound, a.abs().sum(1) / g.abs().sum(1).clamp(min=1e-20))[1]


def downwards(values: Tensor) -> Tensor:
    """The next number of float32 that is not larger."""
    near = values.float()
    return torch.where(near > values, torch.nextafter(near, near.new_tensor(-torch.inf)), near)

"""What is left of hidden units' intervals beyond a hyperplane, in a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from marginkit.bounds.ascent import best_multiplier
from marginkit.bounds.linear.ball import CACHED, Ball
from marginkit.bounds.linear.cube import on_cube
from marginkit.bounds.linear.passes import Planes
from marginkit.bounds.subdomains import Subdomains

EMPTY = 1e-6  # by which an interval's ends have to miss each other
SAMPLE = 96  # entries by which a multiplier is chosen; what it proves is evaluated by all


@dataclass(frozen=True, eq=False)
class Functions:
    """Linear functions of the cube [-1, 1]^f below some undecided units' inputs z, and below -z.

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
        return used.topk(most, dim=1).indices.sort(1).values

    @cached_property
    def coefficients(self) -> Tensor:
        """On the support [2 k, s]."""
        return self.normal.gather(1, self.support)

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """Some of the support, without the pattern of every k-th pixel; coefficients there in float32."""
        some = torch.randperm(self.support.shape[1], generator=torch.Generator().manual_seed(0))[:SAMPLE]
        return self.support[:, some], self.coefficients[:, some].float()

    @cached_property
    def signs(self) -> Tensor:
        """Of all coefficients, in float32 [2 k, f]."""
        return self.normal.sign().float()


def clipped(
    functions: Sequence[Functions], ball: Ball, parts: Subdomains, planes: Planes, wanted: Tensor
) -> Subdomains:
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
        wanted: the units to be clipped [m, units].
    """
    if not len(parts):
        return parts
    low, high = parts.low.clone(), parts.high.clone()
    half_spaces = HalfSpaces(*on_cube(ball, planes.normal, planes.level))
    for group in functions:
        open_ = wanted[:, group.columns]
        above, below = (half_spaces.rises(group) & torch.cat([open_, open_], 1)).chunk(2, dim=1)
        part, unit = above.nonzero(as_tuple=True)
        at = part, group.columns[unit]
        low[at] = torch.maximum(low[at], downwards(half_spaces.least(group, unit, part)))
        part, unit = below.nonzero(as_tuple=True)
        at, row = (part, group.columns[unit]), unit + len(group.columns)
        high[at] = torch.minimum(high[at], -downwards(half_spaces.least(group, row, part)))
    return narrowed(parts, low, high)


def narrowed(parts: Subdomains, low: Tensor, high: Tensor) -> Subdomains:
    """The parts with these intervals of theirs that hold where adversarial inputs may be.

    A unit that is decided there counts as split: elsewhere the network may be another one, and what is known
    of the unit has to be a constraint. An empty interval makes a part's bound inf.
    """
    empty = (low > high + EMPTY * (1 + low.abs())).any(1)
    low = torch.minimum(low, high)
    found = replace(parts, low=low, high=high, bound=torch.where(empty, torch.inf, parts.bound))
    side = torch.where(low >= 0, 1, -1).to(parts.split)
    return replace(found, split=torch.where(parts.undecided & ~found.undecided, side, parts.split))


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """The points u of the cube where <normal, u> + level <= 0, of each of m parts."""

    normal: Tensor
    level: Tensor

    def rises(self, group: Functions) -> Tensor:
        """Whether a function's least value over the cube grows with a small multiplier [m, 2 k].

        Where it doesn't the half-space says nothing of the function: the bound is concave in the multiplier.
        """
        normal = self.normal.float().T
        rise = group.signs.abs() @ normal.abs() - group.signs @ normal
        return (rise + (self.level - self._lengths).float() > 0).T

    def least(self, group: Functions, rows: Tensor, part: Tensor) -> Tensor:
        """Lower bounds of the group's functions in the parts' half-spaces, row by row."""
        few = max(1, CACHED // group.support.shape[1])
        pieces = zip(torch.split(rows, few), torch.split(part, few), strict=True)
        return torch.cat([self._least(group, row, of) for row, of in pieces])

    def _least(self, group: Functions, row: Tensor, of: Tensor) -> Tensor:
        """Of <a, u> over the cube where <g, u> + gain <= 0: t gain - |a + t g| for a good t >= 0.

        Outside the support only the half-space's own coefficients count, and they are in the gain.
        """
        whole = group.support.shape[1] == self.normal.shape[1]
        a, g = group.coefficients[row], self.normal[of] if whole else self._on(group.support, row, of)
        gain = self.level[of] - self._lengths[of] + g.abs().sum(1)
        support, coefficients = group.sample
        share = support.shape[1] / group.support.shape[1]
        few = self._on(support, row, of).float()
        t = _multiplier(coefficients[row], few, share * gain.float()).double()
        return group.level[row] + t * gain - torch.addcmul(a, t.unsqueeze(1), g).abs_().sum(1)

    def _on(self, support: Tensor, row: Tensor, of: Tensor) -> Tensor:
        """The half-spaces' coefficients on the rows' support."""
        entries = support[row] + of.unsqueeze(1) * self.normal.shape[1]
        return self.normal.view(-1).index_select(0, entries.view(-1)).view_as(entries)

    @cached_property
    def _lengths(self) -> Tensor:
        return self.normal.abs().sum(1)


def _multiplier(a: Tensor, g: Tensor, gain: Tensor) -> Tensor:
    """The best of a few t for t gain - |a + t g|."""

    def bound(t: Tensor) -> Tensor:
        value: Tensor = t * gain - torch.addcmul(a, t.unsqueeze(1), g).abs_().sum(1)
        return value

    return best_multiplier(bound, a.abs().sum(1) / g.abs().sum(1).clamp(min=1e-20))[1]


def downwards(values: Tensor) -> Tensor:
    """The next number of float32 that is not larger."""
    near = values.float()
    return torch.where(near > values, torch.nextafter(near, near.new_tensor(-torch.inf)), near)

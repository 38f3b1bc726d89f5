"""Intervals of hidden units, each by lines of its own choice, and what a half-space leaves of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.linear.ball import CACHED, Ball
from marginkit.bounds.linear.relaxed import Planes, Relaxed, Units, one_hot
from marginkit.bounds.subdomains import Subdomains
from marginkit.norms import LINF

GROUP, ROWS = 512, 64  # units whose functions are made at a time, and functions that climb
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of |a| / |g|: multipliers of a half-space that are tried
EMPTY = 1e-6  # by which an interval's ends have to miss each other
ENTRIES = 2**25  # of linear functions that are kept


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


@dataclass(frozen=True, eq=False)
class Tightened:
    """A relaxed network whose hidden intervals were tightened, and the linear functions that did it.

    Attributes:
        relaxed: in float64; its intervals are numbers of float32, so that both precisions have the same.
        functions: of undecided units, for `beyond`; none where they are too many to keep.
    """

    relaxed: Relaxed
    functions: Sequence[Functions]

    @cached_property
    def single(self) -> Relaxed:
        """In float32, to climb with."""
        return self.relaxed.single()

    def beyond(self, parts: Subdomains, planes: Planes) -> Subdomains:
        """The parts' intervals met with what is left of them where each plane is at most 0.

        A part's adversarial inputs lie there and nowhere else (Clip-and-Verify, arXiv 2512.11087, has the
        idea): the nearer a bound is to 0 the smaller is that rest. Every multiplier t >= 0 gives the bound
        min over the box of (a + t g) x of a unit's linear function a x, so the best of a few, found in
        float32, is evaluated in float64. Parts that are found empty get the bound inf.
        """
        if self.relaxed.ball.norm is not LINF or not len(parts):
            return parts
        box, low, high = _Box.of(self.relaxed.ball), parts.low.clone(), parts.high.clone()
        normal, level = planes.normal.flatten(1), planes.level
        half_spaces = _HalfSpaces(box, normal, level + normal @ box.middle)
        for group in self.functions:
            k, open_ = len(group.columns), parts.undecided[:, group.columns]
            for side, end in ((0, low), (1, high)):
                part, unit = open_.nonzero(as_tuple=True)
                if len(part):
                    least = half_spaces.least(group, side * k + unit, part)
                    at = part, group.columns[unit]
                    found = downwards(least)
                    end[at] = torch.maximum(end[at], found) if side == 0 else torch.minimum(end[at], -found)
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

    def least(self, group: Functions, rows: Tensor, part: Tensor) -> Tensor:
        """Lower bounds of the group's functions in the parts' half-spaces, row by row."""
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
        t = _best_share((a * reach).float(), (g * reach).float(), gain.float()).double()
        return base + t * gain - ((a + t.unsqueeze(1) * g).abs() * reach).sum(1)

    @cached_property
    def _lengths(self) -> Tensor:
        return (self.normal.abs() * self.box.reach).sum(1)


def _best_share(a: Tensor, g: Tensor, gain: Tensor) -> Tensor:
    """The best of a few t for t gain - |a + t g|, which is 0 where none helps."""
    length = a.abs().sum(1)
    unit = length / g.abs().sum(1).clamp(min=1e-20)
    best, chosen = -length, torch.zeros_like(unit)
    for share in SHARES:
        t = share * unit
        value = t * gain - torch.addcmul(a, t.unsqueeze(1), g).abs().sum(1)
        better = value > best
        best, chosen = torch.where(better, value, best), torch.where(better, t, chosen)
    return chosen


def downwards(values: Tensor) -> Tensor:
    """The next number of float32 that is not larger."""
    near = values.float()
    return torch.where(near > values, torch.nextafter(near, near.new_tensor(-torch.inf)), near)


def outwards(intervals: Sequence[Interval]) -> list[Interval]:
    """Intervals whose ends are numbers of float32."""
    return [(downwards(low).double(), -downwards(-high).double()) for low, high in intervals]


def tightened(relaxed: Relaxed, steps: int, deadline: float = float("inf")) -> Tightened:
    """Bounds every undecided unit by lines that climb for it alone (alpha-CROWN, arXiv 2011.13824).

    Args:
        relaxed: in float64.
        steps: of ascent for each bound; the climb is in float32, its end is evaluated in float64.
        deadline: by `time.monotonic`; what is not reached by then stays as it is.
    """
    intervals, found, kept = outwards(relaxed.intervals), list[tuple[int, Tensor, Planes]](), 0
    single = relaxed.single()
    late = False
    for j in relaxed.undecided:
        i = relaxed.graph.nodes[j].inputs[0]
        climb = 0 if relaxed.graph.nodes[i].affine else steps
        for index in torch.split(_bent(relaxed, intervals[i], j), GROUP):
            if late or not len(index) or (late := time.monotonic() >= deadline):
                break
            planes = _bounds(relaxed, single, intervals, i, index, climb)
            intervals[i] = _met(intervals[i], index, planes.value)
            kept += planes.normal.numel()
            if kept <= ENTRIES:
                found.append((j, index, planes))
    done = replace(relaxed, intervals=intervals)
    return Tightened(done, [_still_undecided(done.undecided[j], index, planes) for j, index, planes in found])


def _bent(relaxed: Relaxed, interval: Interval, j: int) -> Tensor:
    """Entries of node j that are not linear on the interval."""
    low, high = (end.flatten() for end in interval)
    index = relaxed.undecided[j].index
    return index[(low[index] < 0) & (high[index] > 0)] if relaxed.undecided[j].op.piecewise else index


def _bounds(
    relaxed: Relaxed, single: Relaxed, intervals: Sequence[Interval], i: int, index: Tensor, steps: int
) -> Planes:
    """Of entries of node i, and then of their negatives."""
    targets = one_hot(index, relaxed.graph.nodes[i].shape, relaxed.ball.x)
    exact = replace(relaxed, start=i, targets=targets, intervals=intervals)
    near = [(low.float(), high.float()) for low, high in intervals]
    rough = replace(single, start=i, targets=targets.float(), intervals=near)
    parts, rows = rough.root(), torch.arange(len(targets), device=index.device)
    return Planes.join(
        [proved(exact, rough.climbed(parts[few], steps)[0]) for few in torch.split(rows, ROWS)]
    )


def _still_undecided(units: Units, index: Tensor, planes: Planes) -> Functions:
    """Of those that the tighter intervals leave, with their columns."""
    columns = torch.full((int(index.max()) + 1,), -1, device=index.device)
    mine = units.index[units.index < len(columns)]
    columns[mine] = units.place.start + torch.arange(len(mine), device=index.device)
    left = columns[index] >= 0
    both = torch.cat([left, left])
    return Functions(columns[index[left]], planes.normal.flatten(1)[both], planes.level[both])


def proved(exact: Relaxed, parts: Subdomains) -> Planes:
    """The planes of parts whose slopes and multipliers are those of a climb in float32, in float64."""
    names = ("low", "high", "split", "alpha", "beta")
    wide = replace(parts, **{name: getattr(parts, name).double() for name in names})
    return exact.planes(wide, exact.lines(wide, wide.alpha), wide.beta)


def _met(interval: Interval, index: Tensor, least: Tensor) -> Interval:
    k, (low, high) = len(index), (end.flatten().clone() for end in interval)
    down, up = downwards(least[:k]).double(), -downwards(least[k:]).double()
    low[index], high[index] = torch.maximum(low[index], down), torch.minimum(high[index], up)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return low.view_as(interval[0]), high.view_as(interval[1])

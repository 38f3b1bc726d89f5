"""Intervals of hidden units, each by lines of its own choice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from marginkit.bounds.graph.ops import Convolution, Interval
from marginkit.bounds.linear.climbing import climbed, proved
from marginkit.bounds.linear.clipping import Functions, clipped, downwards, on_cube
from marginkit.bounds.linear.passes import Planes
from marginkit.bounds.linear.refreshing import Layer, behind, layers, refreshed
from marginkit.bounds.linear.relaxed import Relaxed, one_hot
from marginkit.bounds.subdomains import Subdomains
from marginkit.norms import LINF

GROUP, ROWS = 512, 64  # units whose functions are made at a time, and functions that climb
ENTRIES = 2**25  # of linear functions that are kept
FEW = 2**20  # of one part's: so few are found anew for each


@dataclass(frozen=True, eq=False)
class Tightened:
    """A relaxed network whose hidden intervals were tightened, and the linear functions that did it.

    Attributes:
        relaxed: in float64; its intervals are numbers of float32, so that both precisions have the same.
        functions: of undecided units in Linf, for `beyond`; none where they are too many to keep.
    """

    relaxed: Relaxed
    functions: Sequence[Functions]

    @cached_property
    def single(self) -> Relaxed:
        """In float32, to climb with."""
        return self.relaxed.single()

    @cached_property
    def layers(self) -> list[Layer]:
        """All that have undecided units."""
        return layers(self.relaxed)

    @cached_property
    def fresh(self) -> list[Layer]:
        """Layers whose intervals are found anew for each part; none where that takes long.

        Nor where windows are convolved (of one pixel they only scale): in the time of a part there are two
        without it, and their bounds are as good.
        """
        ops = [node.op for node in self.relaxed.graph.nodes]
        if any(isinstance(op, Convolution) and op.weight[0, 0].numel() > 1 for op in ops):
            return []
        found = [layer for layer in self.layers if not layer.first]
        rows = 2 * sum(len(layer.units.index) for layer in found)
        return found if rows * self.relaxed.ball.x.numel() <= FEW else []

    def beyond(self, parts: Subdomains, planes: Planes) -> Subdomains:
        """The parts in narrower intervals, by what their planes leave of them; where there are functions."""
        if not self.functions or not len(parts):
            return parts
        bent, later = self.relaxed.bent(parts), behind(self.fresh, parts)
        parts = clipped(self.functions, self.relaxed.ball, parts, planes, bent & ~later)
        left = parts.bound != torch.inf
        return refreshed(self.fresh, parts[left], planes[left], (bent & later)[left])


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
            if kept <= ENTRIES and relaxed.ball.norm is LINF:
                found.append((j, index, planes))
    done = replace(relaxed, intervals=intervals)
    functions = [_still_undecided(done, j, index, planes) for j, index, planes in found]
    return Tightened(done, [group for group in functions if len(group.columns)])


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
    return Planes.join([proved(exact, climbed(rough, parts[few], steps)) for few in torch.split(rows, ROWS)])


def _still_undecided(relaxed: Relaxed, j: int, index: Tensor, planes: Planes) -> Functions:
    """Of those that the tighter intervals leave, with their columns."""
    units, columns = relaxed.undecided[j], torch.full((int(index.max()) + 1,), -1, device=index.device)
    mine = units.index[units.index < len(columns)]
    columns[mine] = units.place.start + torch.arange(len(mine), device=index.device)
    left = columns[index] >= 0
    both = torch.cat([left, left])
    return Functions(columns[index[left]], *on_cube(relaxed.ball, planes[both]))


def _met(interval: Interval, index: Tensor, least: Tensor) -> Interval:
    k, (low, high) = len(index), (end.flatten().clone() for end in interval)
    down, up = downwards(least[:k]).double(), -downwards(least[k:]).double()
    low[index], high[index] = torch.maximum(low[index], down), torch.minimum(high[index], up)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return low.view_as(interval[0]), high.view_as(interval[1])

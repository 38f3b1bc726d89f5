"""Intervals of hidden units, each by lines of its own choice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.linear.climbing import climbed, proved
from marginkit.bounds.linear.clipping import Functions, clipped, downwards
from marginkit.bounds.linear.cube import on_cube
from marginkit.bounds.linear.envelopes import Envelope
from marginkit.bounds.linear.passes import Planes
from marginkit.bounds.linear.relaxed import Relaxed, one_hot
from marginkit.bounds.linear.separating import Layer, layers
from marginkit.bounds.subdomains import Subdomains
from marginkit.norms import LINF

GROUP, ROWS = 64, 64  # units between looks at the clock, and functions that climb at a time
ENTRIES = 2**25  # of linear functions that are kept
PLANES = 2**18  # coefficients of a network's envelopes: with more, deep layers go without
HULLS = 2**26  # of those that a node's functions are bounded with, function by function


@dataclass(frozen=True, eq=False)
class Found:
    """Linear functions of the input below what goes into one node's units, and below its negative.

    Attributes:
        node: the units'.
        index: the units' positions among its entries [k].
        below, above: of each.
        envelope: of the units, if they are rectifiers.
    """

    node: int
    index: Tensor
    below: Planes
    above: Planes
    envelope: Envelope | None


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

    def trimmed(self, parts: Subdomains) -> Tightened:
        """Without envelopes of units whose planes none of the parts has taken up."""
        kept, relaxed = (parts.weight > 0).any(0), self.relaxed
        envelopes = {
            j: replace(envelope, useful=kept[relaxed.undecided[j].place])
            for j, envelope in relaxed.envelopes.items()
        }
        return replace(self, relaxed=replace(relaxed, envelopes=envelopes))

    def beyond(self, parts: Subdomains, planes: Planes) -> Subdomains:
        """The parts in narrower intervals, by what their planes leave of them; where there are functions."""
        if not self.functions or not len(parts):
            return parts
        return clipped(self.functions, self.relaxed.ball, parts, planes, self.relaxed.bent(parts))


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
    intervals, found = outwards(relaxed.intervals), list[Found]()
    left = ENTRIES if relaxed.ball.norm is LINF else 0
    for j in relaxed.undecided:
        i = relaxed.graph.nodes[j].inputs[0]
        before = replace(relaxed, start=i, intervals=list(intervals))
        index = _by_place(_bent(relaxed, intervals[i], j), relaxed.graph.nodes[i].shape)
        groups = list[tuple[Planes, Planes]]()
        before = replace(before, envelopes=_envelopes(before, found, HULLS // max(1, 2 * len(index))))
        rough = before.single()
        for some in torch.split(index, GROUP):
            if not len(index) or time.monotonic() >= deadline:
                break
            groups.append(_bounds(before, rough, some, 0 if relaxed.graph.nodes[i].affine else steps))
            intervals[i] = _met(intervals[i], some, *(planes.value for planes in groups[-1]))
        bounded, order = index[: sum(len(below.value) for below, _ in groups)].sort()
        left -= 2 * len(bounded) * relaxed.ball.x.numel()
        if len(bounded) and left >= 0:
            below, above = zip(*groups, strict=True)
            found.append(_found(relaxed, j, bounded, Planes.join(below)[order], Planes.join(above)[order]))
    done = replace(relaxed, intervals=intervals)
    functions = [_functions(done, known) for known in found]
    done = replace(done, envelopes=_envelopes(done, found, PLANES))
    return Tightened(done, [group for group in functions if len(group.columns)])


def _bent(relaxed: Relaxed, interval: Interval, j: int) -> Tensor:
    """Entries of node j that are not linear on the interval."""
    low, high = (end.flatten() for end in interval)
    index = relaxed.undecided[j].index
    return index[(low[index] < 0) & (high[index] > 0)] if relaxed.undecided[j].op.piecewise else index


def _by_place(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Entries that see the same part of the input together: pixel by pixel, not channel by channel."""
    pixels = prod(shape[1:])
    return index[(index % pixels * shape[0] + index // pixels).argsort()]


def _bounds(before: Relaxed, rough: Relaxed, index: Tensor, steps: int) -> tuple[Planes, Planes]:
    """Of entries of the last node, and of their negatives; by climbs in float32."""
    targets = one_hot(index, before.graph.nodes[before.start].shape, before.ball.x)
    exact, rough = replace(before, targets=targets), replace(rough, targets=targets.float())
    parts, rows = rough.root(), torch.arange(len(targets), device=index.device)
    found = [proved(exact, climbed(rough, parts[few], steps)) for few in torch.split(rows, ROWS)]
    planes, count = Planes.join(found), len(index)
    return planes[:count], planes[count:]


def _found(relaxed: Relaxed, j: int, index: Tensor, below: Planes, above: Planes) -> Found:
    """What lies above a unit is the negative of what lies below its negative."""
    envelope, nodes = None, relaxed.graph.nodes
    if isinstance(op := nodes[j].op, Rectifier):
        planes = on_cube(relaxed.ball, -above.normal, -above.level)
        envelope = Envelope.of(*planes, nodes[nodes[j].inputs[0]].affine, op.negative)
    return Found(j, index, below, above, envelope)


def _functions(relaxed: Relaxed, known: Found) -> Functions:
    """Of the units that are still undecided, with their columns."""
    units = relaxed.undecided[known.node]
    rows = torch.isin(known.index, units.index).nonzero().squeeze(1)
    columns = units.place.start + torch.searchsorted(units.index, known.index[rows])
    planes = Planes.join([known.below[rows], known.above[rows]])
    return Functions(columns, *on_cube(relaxed.ball, planes.normal, planes.level))


def _envelopes(relaxed: Relaxed, found: Sequence[Found], most: int) -> dict[int, Envelope]:
    """Of nodes all of whose undecided units have one, the first of them up to so many coefficients."""
    envelopes = dict[int, Envelope]()
    for known in found:
        if known.envelope is None or known.node not in relaxed.undecided:
            continue
        index = relaxed.undecided[known.node].index
        rows = torch.isin(known.index, index).nonzero().squeeze(1)
        most -= len(rows) * known.envelope.slope.shape[1]
        if 0 < len(rows) == len(index) and most >= 0:
            envelopes[known.node] = known.envelope[rows]
    return envelopes


def _met(interval: Interval, index: Tensor, least: Tensor, least_of_negative: Tensor) -> Interval:
    low, high = (end.flatten().clone() for end in interval)
    down, up = downwards(least).double(), -downwards(least_of_negative).double()
    low[index], high[index] = torch.maximum(low[index], down), torch.minimum(high[index], up)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return low.view_as(interval[0]), high.view_as(interval[1])

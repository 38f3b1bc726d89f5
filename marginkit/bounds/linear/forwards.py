"""Intervals of all units of a large network at once: its linearisation at a sample, and how far units bend.

Around a sample x0 a rectifier f is f(z0) + f'(z0) (z - z0) + e, and since f is convex e >= 0: 0 while z is on
its side of zero, and beyond it the overshoot times the difference of both slopes. So every node is

    z = z0 + J (x - x0) + sum over bending units k of g_k e_k,    0 <= e_k <= the most that unit k can bend,

with J the network's derivative at x0 by the input, g_k that by the unit's output. How far J (x - x0) reaches
at radius 1 is found once for all radii: one pass forwards an entry of the input for all units together, where
linear functions carried backwards take one pass a unit. (Affine forms, as in Singh et al., Fast and
Effective Robustness Certification, NeurIPS 2018, with the derivative's slopes in place of chords'.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, affine, nonlinear
from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.norms import Box, Norm

BENDING = 3 * 2**9  # units: a ball in which more change sides is not tried
NUMBERS = 2**24  # of one node's terms, which bounds the memory
CORNERS = 8  # points of a ball's rim at which units that change sides are counted
AT_ONCE = 2**20  # numbers of one node
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Terms:
    """What a node is a sum of: directions, or what units bend by.

    Attributes:
        which: numbers of the terms, in order [k].
        values: of the node [k, *shape].
    """

    which: Tensor
    values: Tensor

    def among(self, all_: Tensor) -> Tensor:
        """The values for these terms, 0 for those that are none of the node's."""
        if len(all_) == len(self.which):
            return self.values
        zeros = self.values.new_zeros(len(all_), *self.values.shape[1:])
        return zeros.index_copy(0, torch.searchsorted(all_, self.which), self.values)


@dataclass(frozen=True, eq=False)
class Linearised:
    """A graph around one sample; its nonlinear operations are rectifiers.

    Attributes:
        graph: the operations.
        x: the sample [1, *d].
        norm: of displacements.
        low, high: how far each entry may move down (<= 0) and up (>= 0), or None, None.
    """

    graph: Graph
    x: Tensor
    norm: Norm
    low: Box = None
    high: Box = None

    @cached_property
    def values(self) -> list[Tensor]:
        """Of every node at the sample [1, *shape]."""
        return values(self.graph, self.x)

    @cached_property
    def rectifiers(self) -> dict[int, Rectifier]:
        """By node."""
        ops = {j: node.op for j, node in enumerate(self.graph.nodes)}
        return {j: op for j, op in ops.items() if isinstance(op, Rectifier)}

    def source(self, j: int) -> int:
        """The node that goes into node j."""
        return self.graph.nodes[j].inputs[0]

    @cached_property
    def few(self) -> int:
        """Terms at a time."""
        return max(1, AT_ONCE // max(prod(node.shape) for node in self.graph.nodes))

    @cached_property
    def first(self) -> dict[int, int]:
        """The number of each rectifier's first unit."""
        sizes = [prod(self.graph.nodes[j].shape) for j in self.rectifiers]
        return dict(zip(self.rectifiers, accumulate(sizes, initial=0), strict=False))

    @cached_property
    def offsets(self) -> dict[int, Tensor]:
        """What affine nodes answer to zeros."""
        nodes = self.graph.nodes
        return {
            j: node.op(*(self.x.new_zeros(1, *nodes[k].shape) for k in node.inputs))
            for j, node in enumerate(nodes)
            if affine(node.op)
        }

    @cached_property
    def reach(self) -> dict[int, tuple[Tensor, Tensor]]:
        """How far J takes what goes into each rectifier down and up at radius 1 [1, *shape]."""
        q, entries = self.norm.dual.p, self.x.numel()
        free = torch.ones(2, entries, dtype=torch.bool, device=self.x.device)
        if self.low is not None and self.high is not None:
            free = torch.stack([self.low.flatten() < 0, self.high.flatten() > 0])
        totals = {j: [torch.zeros_like(self.values[self.source(j)])] * 2 for j in self.rectifiers}
        ways = torch.stack([free[0] & free[1], free[0] & ~free[1], free[1] & ~free[0]])
        groups = [(way, group.nonzero().squeeze(1)) for way, group in enumerate(ways) if group.any()]
        for way, group in groups:
            for some in torch.split(group, self.few):
                unit = self.x.new_zeros(len(some), entries).scatter_(
                    1, some.unsqueeze(1), -1.0 if way == 1 else 1.0
                )
                start = Terms(some, unit.view(-1, *self.x.shape[1:]))
                for j, terms in self._forwards({0: start}):
                    z = terms.values
                    sides = (z.abs(),) * 2 if way == 0 else (-z.clamp(max=0), z.clamp(min=0))
                    totals[j] = [
                        _gathered(total, side, q) for total, side in zip(totals[j], sides, strict=True)
                    ]
        root = 0.5 if q == 2 else 1.0
        return {j: (down**root, up**root) for j, (down, up) in totals.items()}

    @cached_property
    def farthest(self) -> float:
        """The radius at which as many units change sides as may, by J alone; inf where fewer ever do."""
        radii = []
        for j, (down, up) in self.reach.items():
            z = self.values[self.source(j)]
            radii.append((z.abs() / torch.where(z > 0, down, up).clamp(min=TINY)).flatten())
        every = torch.cat(radii)
        return float(every.kthvalue(BENDING).values) if len(every) >= BENDING else torch.inf

    def intervals(self, radius: float) -> dict[int, Interval] | None:
        """Of what goes into the rectifiers, by that node; None for a ball in which too many units bend."""
        if ("reach" not in self.__dict__ and self.changing(radius) > BENDING) or radius > self.farthest:
            return None
        found = dict[int, Interval]()
        reached = [j for j, _ in self._forwards({}, found, radius)]
        return found if reached[-1] == max(self.rectifiers) else None

    def changing(self, radius: float) -> int:
        """Units that are on another side at one of a few points of the ball's rim: no bound decides them."""
        generator = torch.Generator().manual_seed(0)
        shape = (CORNERS, *self.x.shape[1:])
        directions = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.x)
        step = radius * self.norm.steepest(directions)
        there = values(self.graph, self.x + (step if self.low is None else step.clamp(self.low, self.high)))
        changed = ((there[k] > 0) != (self.values[k] > 0) for k in map(self.source, self.rectifiers))
        return sum(int(units.any(0).sum()) for units in changed)

    def _forwards(
        self, terms: dict[int, Terms], found: dict[int, Interval] | None = None, radius: float = 0.0
    ) -> Iterator[tuple[int, Terms]]:
        """What goes into each rectifier, in order.

        Args:
            terms: of the input.
            found: where intervals go; then units that bend add terms.
            radius: of the ball.
        """
        nodes = self.graph.nodes
        last = {k: j for j, node in enumerate(nodes) for k in node.inputs}
        final = max(self.rectifiers)
        for j, node in enumerate(nodes[1 : final + 1], 1):
            mine = [terms.get(k, self._none(k)) for k in node.inputs]
            for k in node.inputs:
                if last[k] == j:
                    terms.pop(k, None)
            if affine(node.op):
                terms[j] = self._affine(j, mine)
                continue
            yield j, mine[0]
            if (bent := self._bent(j, mine[0], found, radius)) is None:
                return
            terms[j] = bent

    def _bent(self, j: int, before: Terms, found: dict[int, Interval] | None, radius: float) -> Terms | None:
        """What rectifier j makes of terms; with `found`, and with what its units bend by as further ones."""
        op, z = self.rectifiers[j], self.values[self.source(j)]
        slope = torch.where(z > 0, 1.0, op.negative).to(z)
        after = Terms(before.which, before.values * slope)
        if found is None:
            return after
        found[self.source(j)] = interval = self._interval(j, before.values, radius)
        if j == max(self.rectifiers):
            return after
        over = (1 - op.negative) * torch.where(z > 0, -interval[0], interval[1]).clamp(min=0).flatten()
        where = over.nonzero().squeeze(1)
        if (len(before.which) + len(where)) * len(over) > NUMBERS:
            return None
        rows = over.new_zeros(len(where), len(over)).scatter_(1, where.unsqueeze(1), over[where].unsqueeze(1))
        which = self.first[j] + where
        return Terms(torch.cat([after.which, which]), torch.cat([after.values, rows.view(-1, *z.shape[1:])]))

    def _affine(self, j: int, mine: list[Terms]) -> Terms:
        """What an affine node makes of its inputs' terms, a few at a time: convolutions take some memory."""
        op, which = self.graph.nodes[j].op, torch.unique(torch.cat([terms.which for terms in mine]))
        assert affine(op)
        if not len(which):
            return self._none(j)
        pieces = zip(*(torch.split(terms.among(which), self.few) for terms in mine), strict=True)
        return Terms(which, torch.cat([op(*some) - self.offsets[j] for some in pieces]))

    def _interval(self, j: int, bent: Tensor, radius: float) -> Interval:
        """Of what goes into rectifier j, with the terms of units before it that bend."""
        z, (down, up) = self.values[self.source(j)], self.reach[j]
        low = z - radius * down + bent.clamp(max=0).sum(0, keepdim=True)
        return low, z + radius * up + bent.clamp(min=0).sum(0, keepdim=True)

    def _none(self, j: int) -> Terms:
        return Terms(torch.zeros(0, dtype=torch.long, device=self.x.device), self.values[j][:0])


def values(graph: Graph, x: Tensor) -> list[Tensor]:
    """Of every node [n, *shape]."""
    found = [x]
    for node in graph.nodes[1:]:
        assert affine(node.op) or nonlinear(node.op)
        found.append(node.op(*(found[k] for k in node.inputs)))
    return found


def _gathered(total: Tensor, sizes: Tensor, q: float) -> Tensor:
    """The q-norm's powers so far with more of them: sums, sums of squares, or the largest."""
    if q == torch.inf:
        return torch.maximum(total, sizes.amax(0, keepdim=True))
    return total + (sizes.square() if q == 2 else sizes).sum(0, keepdim=True)

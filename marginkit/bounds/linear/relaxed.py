"""Lower bounds of a network's linear functions over parts of a ball, in which some units are known.

The nonlinear operations are replaced by lines, and what remains is linear: its least value over the ball is a
bound. A unit known to be on one side adds its side as a constraint, with a multiplier (beta-CROWN; Wang et
al., arXiv 2103.06624). Every slope that a ReLU's lower line may have and every multiplier >= 0 gives a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, affine, nonlinear, rounded
from marginkit.bounds.graph.ops import Interval, LinearBounds, Nonlinear
from marginkit.bounds.graph.relaxations import LinearRelaxation, Rectifier
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.envelopes import Blend, Envelope
from marginkit.bounds.subdomains import Subdomains

LINES = ("lower_slope", "lower_offset", "upper_slope", "upper_offset")


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one nonlinear node that are not linear on the whole ball.

    Attributes:
        index: their positions among the node's entries.
        place: their columns among all nodes' undecided units.
        op: the node's.
    """

    index: Tensor
    place: slice
    op: Nonlinear

    def on(self, mine: Tensor, others: Tensor, values: Tensor) -> Tensor:
        """All entries' values times `others`, and of these units what is given [m, k]."""
        found = values * others
        found[:, self.index] = mine
        return found


@dataclass(frozen=True, eq=False)
class Relaxed:
    """One sample's network over a ball.

    Attributes:
        graph: of operations.
        ball: of the sample's inputs.
        start: the node that is bounded.
        targets: linear functions of that node [k, *shape].
        intervals: that hold every node's values in the ball [1, *shape].
        envelopes: by node, of all its undecided units.
    """

    graph: Graph
    ball: Ball
    start: int
    targets: Tensor
    intervals: Sequence[Interval]
    envelopes: Mapping[int, Envelope] = field(default_factory=dict)

    def single(self) -> Relaxed:
        """In float32: as good to climb with. What it finds is no proof before float64 has seen it."""
        x, radius, low, high = (
            None if t is None else t.float()
            for t in (self.ball.x, self.ball.radius, self.ball.low, self.ball.high)
        )
        assert x is not None
        assert radius is not None
        return Relaxed(
            rounded(self.graph, torch.float32), Ball(x, radius, self.ball.norm, low, high), self.start,
            self.targets.float(), [(low.float(), high.float()) for low, high in self.intervals],
            {j: envelope.single() for j, envelope in self.envelopes.items()},
        )  # fmt: skip

    @cached_property
    def base(self) -> Mapping[int, LinearBounds]:
        """Lines of every nonlinear node on the whole ball."""
        found = {}
        for j, node in enumerate(self.graph.nodes[: self.start + 1]):
            if nonlinear(node.op):
                found[j] = node.op.lines(*self.intervals[node.inputs[0]], False)
        return found

    @cached_property
    def undecided(self) -> Mapping[int, Units]:
        """By node; of a smooth activation all entries, of others that work entry by entry those around 0."""
        found, count = {}, 0
        for j, lines in self.base.items():
            op = self.graph.nodes[j].op
            if isinstance(lines, LinearRelaxation) and nonlinear(op):
                low, high = (end.flatten() for end in self.intervals[self.graph.nodes[j].inputs[0]])
                bent = (low < 0) & (high > 0) if op.piecewise else torch.ones_like(low, dtype=torch.bool)
                index = bent.nonzero().squeeze(1)
                found[j] = Units(index, slice(count, count + len(index)), op)
                count += len(index)
        return found

    @cached_property
    def units(self) -> int:
        """Undecided ones."""
        return sum(len(units.index) for units in self.undecided.values())

    def rectifying(self, parts: Subdomains) -> Tensor:
        """Units whose lower line may have any slope between the two pieces' own [m, units]."""
        return self.rectifiers & parts.undecided

    def bent(self, parts: Subdomains) -> Tensor:
        """Units that are not linear on a part's interval [m, units]."""
        return parts.undecided | ~self.rectifiers

    @cached_property
    def rectifiers(self) -> Tensor:
        """Which undecided units are ReLUs or leak [1, units]."""
        return (
            self._by_node([float(isinstance(units.op, Rectifier)) for units in self.undecided.values()]) > 0
        )

    @cached_property
    def least(self) -> Tensor:
        """The undecided rectifiers' slopes below 0 [1, units]."""
        return self._by_node([getattr(units.op, "negative", 0.0) for units in self.undecided.values()])

    def _by_node(self, values: Sequence[float]) -> Tensor:
        x = self.ball.x
        found = [x.new_full((len(u.index),), v) for u, v in zip(self.undecided.values(), values, strict=True)]
        return torch.cat([x.new_zeros(0), *found]).unsqueeze(0)

    def entering(self, intervals: Sequence[Interval]) -> Interval:
        """What goes into the undecided units, by intervals of all nodes [1, units]."""
        none = self.ball.x.new_zeros(1, 0)
        sources = [
            tuple(end.flatten(1)[:, units.index] for end in intervals[self.graph.nodes[j].inputs[0]])
            for j, units in self.undecided.items()
        ]
        low, high = (torch.cat([none, *(ends[side] for ends in sources)], 1) for side in (0, 1))
        return low, high

    def root(self) -> Subdomains:
        """The whole ball, once for each target."""
        k = len(self.targets)
        low, high = (end.expand(k, -1) for end in self.entering(self.intervals))
        alpha, zeros = torch.where(high > -low, 1.0, self.least).to(low), torch.zeros_like(low)
        nothing = torch.full((k,), -torch.inf, dtype=low.dtype, device=low.device)
        rival = torch.arange(k, device=low.device)
        weight, toward = zeros.clone(), zeros.new_zeros(k, self.ball.x.numel())
        for j, envelope in self.envelopes.items():
            weight[:, self.undecided[j].place] = float(envelope.first)
        pick = torch.full_like(rival, -1)
        return Subdomains(rival, low, high, zeros, alpha, zeros, weight, toward, nothing, pick)

    def blend(self, parts: Subdomains) -> Blend | None:
        """How the parts mix their lines with planes, where there are any."""
        return Blend(parts.weight, parts.undecided, parts.toward) if self.envelopes else None

    def lines(self, parts: Subdomains, alpha: Tensor | None = None) -> LinearRelaxation:
        """Of the undecided units [m, units]; the rectifiers' lower ones have the slopes alpha."""
        found = [
            u.op.lines(parts.low[:, u.place], parts.high[:, u.place], False) for u in self.undecided.values()
        ]
        none = parts.low[:, :0]
        lines = LinearRelaxation(
            *(torch.cat([none, *(getattr(f, name) for f in found)], 1) for name in LINES)
        )
        return lines if alpha is None else self.sloped(parts, lines, alpha)

    def sloped(self, parts: Subdomains, lines: LinearRelaxation, alpha: Tensor) -> LinearRelaxation:
        """With these slopes of the rectifiers' lower lines."""
        return replace(lines, lower_slope=torch.where(self.rectifying(parts), alpha, lines.lower_slope))

    @cached_property
    def constants(self) -> Mapping[int, Tensor]:
        """What affine nodes answer to zeros, where that is not zero."""
        found = {}
        for j, node in enumerate(self.graph.nodes[1 : self.start + 1], 1):
            if affine(node.op):
                zeros = [self.ball.x.new_zeros(1, *self.graph.nodes[k].shape) for k in node.inputs]
                found[j] = node.op(*zeros).flatten()
        return {j: values for j, values in found.items() if values.any()}

    def slopes(self, j: int) -> Tensor:
        """Of a node's entries on the whole ball, for those that are linear there [1, entries]."""
        base = self.base[j]
        assert isinstance(base, LinearRelaxation)
        return base.upper_slope.reshape(1, -1)

    def both(self, parts: Subdomains) -> tuple[Subdomains, Subdomains]:
        """Each unit by itself above its middle, and below it: intervals that splits would leave, no parts.

        A rectifier is split at 0, a smooth activation in the middle of its interval.
        """
        middle = torch.where(self.rectifiers, 0, (parts.low + parts.high) / 2)
        return (
            replace(parts, low=torch.maximum(parts.low, middle)),
            replace(parts, high=torch.minimum(parts.high, middle)),
        )

    def halves(self, parts: Subdomains) -> Subdomains:
        """Both halves of each at its `pick`: first all above the middle, then all below it."""
        none = torch.zeros_like(parts.low, dtype=torch.bool)
        picked = none.scatter(1, parts.pick.unsqueeze(1), True)
        known, (above, below) = picked & self.rectifiers, self.both(parts)
        low, high = above.low.where(picked, parts.low), below.high.where(picked, parts.high)
        return Subdomains.join([
            replace(parts, low=low, split=parts.split.masked_fill(known, 1)),
            replace(parts, high=high, split=parts.split.masked_fill(known, -1)),
        ])  # fmt: skip


def one_hot(index: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """Linear functions that are single entries of a node, and then their negatives [2 k, *shape]."""
    rows = like.new_zeros(len(index), prod(shape)).scatter(1, index.unsqueeze(1), 1)
    return torch.cat([rows, -rows]).view(-1, *shape)

"""Where a ball takes a graph's nodes: intervals, balls, and balls around the undecided units alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, nonlinear
from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.graph.pairs import moved_by
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.lipschitz import secant_slopes
from marginkit.bounds.reach import Secants, reach
from marginkit.bounds.spectral import ABOVE, row_lengths
from marginkit.norms import column

ROWS = 256  # undecided units of a layer that are carried back: more of them cost more than they gain
TINY = 1e-300  # of a width that divides


@dataclass(frozen=True, eq=False)
class Around:
    """What is known of a graph's nodes so far, over a ball; nodes are added in order.

    Attributes:
        graph: the operations.
        ball: of inputs.
        stretches: a Lipschitz constant of each node's own; None where intervals are all that is wanted.
        entries: coefficients at a time.
        carried: at most so many coefficients are carried back for one layer of one sample.
        intervals: that hold the nodes' values.
        centres: the values at the ball's centre [n, *shape].
        radii: of balls around them [n], in the ball's norm.
        secants: of the activations.
    """

    graph: Graph
    ball: Ball
    stretches: Sequence[float] | None = None
    entries: int = 2**22
    carried: int = 2**30
    intervals: list[Interval] = field(default_factory=list)
    centres: list[Tensor] = field(default_factory=list)
    radii: list[Float[Tensor, "n"]] = field(default_factory=list)
    secants: dict[int, Secants] = field(default_factory=dict)

    @cached_property
    def widest(self) -> int:
        """Entries of the largest node."""
        return max(prod(node.shape) for node in self.graph.nodes)

    def add(self, i: int) -> None:
        """The interval of node i by its rule, and the ball around its values.

        The interval meets what the balls before the node leave an entry.
        """
        node = self.graph.nodes[i]
        if node.op is None:
            self.intervals.append(self.ball.interval())
        else:
            self.intervals.append(node.op.interval(*(self.intervals[j] for j in node.inputs)))
        if self.stretches is None:
            return
        if node.op is None:
            self.centres.append(self.ball.x)
            self.radii.append(self.ball.radius)
            return
        norm, shapes = self.ball.norm, [self.graph.nodes[k].shape for k in node.inputs]
        centre = node.op(*(self.centres[k] for k in node.inputs))
        before: Tensor = sum((self.radii[k] for k in moved_by(node)), torch.zeros_like(self.ball.radius))
        low, high = self.intervals[i]
        if (lengths := row_lengths(node.op, shapes, norm)) is not None:
            moved = torch.where(lengths > 0, lengths * column(before, centre), 0)
            low, high = torch.maximum(low, centre - moved), torch.minimum(high, centre + moved)
            self.intervals[i] = low, high
        corner = norm.length(_rows(torch.maximum(high - centre, centre - low)))
        self.centres.append(centre)
        self.radii.append(torch.minimum(self.stretches[i] * before, corner))

    def decide(self, j: int) -> None:
        """What activation j makes of its inputs, whose interval meets what `reach` leaves them.

        With `stretches`; of one without secants to know there is nothing to say.
        """
        op, (k,) = self.graph.nodes[j].op, self.graph.nodes[j].inputs
        if secant_slopes(op) is None:
            return
        centre, (low, high) = self.centres[k], self.intervals[k]
        least, most = secants(op, centre, (low, high))
        among = least < most
        corner = torch.where(among, torch.maximum(high - centre, centre - low), 0)
        radius = torch.minimum(self.radii[k], self.ball.norm.length(_rows(corner)) * ABOVE)
        count = _rows(among).sum(1)
        few = ((count > 0) & (count <= min(ROWS, self.carried // self.widest))).nonzero().squeeze(1)
        widest = max(prod(node.shape) for node in self.graph.nodes[:j])
        each = torch.full_like(centre, torch.inf)
        at_once = max(1, self.entries // (widest * int(count[few].sum().clamp(min=1)) // max(1, len(few))))
        for some in torch.split(few, at_once) if len(few) else ():
            each[some], together = self._carried(k, among[some], some)
            radius[some] = torch.minimum(radius[some], together)
        interval = torch.maximum(low, centre - each), torch.minimum(high, centre + each)
        self.intervals[k] = interval
        self.secants[j] = Secants(*secants(op, centre, interval), radius)

    def _carried(self, k: int, among: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
        """How far these entries of node k move, the others by inf, and all of these together."""
        wanted = _rows(among)
        chosen = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        chosen = chosen[:, : int(wanted.sum(1).amax())]  # a sample with fewer has zeros for the rest
        mine = wanted.gather(1, chosen)
        rows = torch.zeros(*chosen.shape, wanted.shape[1], dtype=self.radii[0].dtype, device=chosen.device)
        rows = rows.scatter_(2, chosen.unsqueeze(2), mine.unsqueeze(2).to(rows))
        known = {i: secants.part(some) for i, secants in self.secants.items()}
        radii = [radius[some] for radius in self.radii]
        rows = rows.view(*chosen.shape, *among.shape[1:])
        each, together = reach(self.graph, radii, known, k, rows, self.ball.norm)
        every = torch.full_like(wanted, torch.inf, dtype=each.dtype)
        return every.scatter(1, chosen, torch.where(mine, each, torch.inf)).view(among.shape), together


def moved(
    graph: Graph, ball: Ball, stretches: Sequence[float], rows: Float[Tensor, "n rows _"], carried: int
) -> Float[Tensor, "n rows"]:
    """How far linear functions of the scores move within the ball, from above.

    Units that the ball leaves on one side of zero are as good as affine: they leave the norms.

    Args:
        graph: the operations.
        ball: of inputs.
        stretches: a Lipschitz constant of each node's own, in the ball's norm.
        rows: the functions.
        carried: as in `Around`.
    """
    around = Around(graph, ball, stretches, carried=carried)
    for i, node in enumerate(graph.nodes):
        around.add(i)
        if nonlinear(node.op):
            around.decide(i)
    return reach(graph, around.radii, around.secants, len(graph.nodes) - 1, rows, ball.norm)[0]


def _rows(values: Tensor) -> Tensor:
    """[n, entries], of single values too."""
    return values.reshape(len(values), -1)


def secants(op: object, centre: Tensor, interval: Interval) -> Interval:
    """The least and the largest slope of a secant from the centre to a point of the interval, entry by entry.

    Those of a ReLU grow with the point, for it is convex; of others the slopes anywhere are taken.
    """
    low, high = interval
    slopes = secant_slopes(op)
    assert slopes is not None
    least, most = (torch.full_like(centre, slope) for slope in slopes)
    if isinstance(op, Rectifier):
        down = (op(centre) - op(low)) / (centre - low).clamp(min=TINY)
        up = (op(high) - op(centre)) / (high - centre).clamp(min=TINY)
        down, up = down.maximum(least).minimum(most), up.maximum(least).minimum(most)
        lower = torch.where(low >= 0, most, torch.where(centre > 0, down, least))
        return lower, torch.where(high <= 0, least, torch.where(centre < 0, up, most))
    return least, most

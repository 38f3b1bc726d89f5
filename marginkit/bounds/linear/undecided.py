"""Balls in L2 around the units that a sample's intervals leave undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.lipschitz import secant_slopes
from marginkit.bounds.reach import Secants, reach
from marginkit.bounds.spectral import ABOVE
from marginkit.norms import L2

ROWS = 256  # undecided units of a layer that are carried back: more of them cost more than they gain
TINY = 1e-300  # of a width that divides


@dataclass(frozen=True, eq=False)
class Around:
    """A graph's nodes around their values at a ball's centre.

    Attributes:
        graph: the operations.
        centres: values of the nodes so far [n, *shape].
        radii: of balls in L2 around them [n].
        secants: of the activations so far.
    """

    graph: Graph
    centres: Sequence[Tensor]
    radii: Sequence[Float[Tensor, "n"]]
    secants: Mapping[int, Secants]

    def decide(self, j: int, interval: Interval, entries: int) -> tuple[Secants | None, Interval]:
        """What activation j makes of its inputs, and the interval of these met with what `reach` leaves them.

        Args:
            j: the activation; None where it has no secants to know.
            interval: of its inputs.
            entries: coefficients at a time.
        """
        op, (k,) = self.graph.nodes[j].op, self.graph.nodes[j].inputs
        if secant_slopes(op) is None:
            return None, interval
        centre, (low, high) = self.centres[k], interval
        least, most = secants(op, centre, interval)
        among = least < most
        corner = torch.where(among, torch.maximum(high - centre, centre - low), 0)
        radius = torch.minimum(self.radii[k], corner.flatten(1).norm(dim=1) * ABOVE)
        count = among.flatten(1).sum(1)
        few = ((count > 0) & (count <= ROWS)).nonzero().squeeze(1)
        widest = max(prod(node.shape) for node in self.graph.nodes[:j])
        each = torch.full_like(centre, torch.inf)
        at_once = max(1, entries // (widest * int(count[few].sum().clamp(min=1)) // max(1, len(few))))
        for some in torch.split(few, at_once) if len(few) else ():
            each[some], together = self._carried(k, among[some], some)
            radius[some] = torch.minimum(radius[some], together)
        interval = torch.maximum(low, centre - each), torch.minimum(high, centre + each)
        return Secants(*secants(op, centre, interval), radius), interval

    def _carried(self, k: int, among: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
        """How far these entries of node k move, the others by inf, and all of these together."""
        wanted = among.flatten(1)
        chosen = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        chosen = chosen[:, : int(wanted.sum(1).amax())]  # a sample with fewer has zeros for the rest
        mine = wanted.gather(1, chosen)
        rows = torch.zeros(*chosen.shape, wanted.shape[1], dtype=self.radii[0].dtype, device=chosen.device)
        rows = rows.scatter_(2, chosen.unsqueeze(2), mine.unsqueeze(2).to(rows))
        known = {i: secants.part(some) for i, secants in self.secants.items()}
        radii = [radius[some] for radius in self.radii]
        each, together = reach(self.graph, radii, known, k, rows.view(*chosen.shape, *among.shape[1:]), L2)
        every = torch.full_like(wanted, torch.inf, dtype=each.dtype)
        return every.scatter(1, chosen, torch.where(mine, each, torch.inf)).view(among.shape), together


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

"""Hidden intervals of parts, by lines over the parts' own intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marginkit.bounds.graph.relaxations import LinearRelaxation
from marginkit.bounds.linear.clipping import HalfSpaces, downwards, narrowed, on_cube
from marginkit.bounds.linear.passes import Planes, through
from marginkit.bounds.linear.relaxed import Relaxed, Units, one_hot
from marginkit.bounds.subdomains import Subdomains

CHUNK = 2**17  # coefficients at a time


@dataclass(frozen=True, eq=False)
class Layer:
    """Units that are undecided, and what comes before them.

    Attributes:
        units: of one nonlinear node.
        before: the network up to what goes into them.
    """

    units: Units
    before: Relaxed

    @property
    def first(self) -> bool:
        """Whether no activation comes before, so that the ball's own intervals are the best."""
        return self.before.graph.nodes[self.before.start].affine

    def targets(self, unit: Tensor) -> Tensor:
        """What goes into these of the units, and then the negatives, as functions of the last node."""
        node = self.before.graph.nodes[self.before.start]
        return one_hot(self.units.index[unit], node.shape, self.before.ball.x)


def layers(relaxed: Relaxed) -> list[Layer]:
    """Of a network, the first first."""
    sources = {j: relaxed.graph.nodes[j].inputs[0] for j in relaxed.undecided}
    return [
        Layer(units, replace(relaxed, start=sources[j], targets=relaxed.targets[:0]))
        for j, units in relaxed.undecided.items()
        if len(units.index)
    ]


def behind(some: Sequence[Layer], parts: Subdomains) -> Tensor:
    """Units of layers behind the one where a part was split last [m, units]."""
    found = torch.zeros_like(parts.low, dtype=torch.bool)
    for place in (layer.units.place for layer in some):
        found[:, place] = parts.pick.unsqueeze(1) < place.start
    return found


def refreshed(some: Sequence[Layer], parts: Subdomains, planes: Planes, wanted: Tensor) -> Subdomains:
    """The parts' intervals met with what CROWN (arXiv 1811.00866) finds over those of the units before.

    As in `clipped` only that side of a part's plane counts where it is at most 0.

    Args:
        some: of the network in float64, over a ball in Linf.
        parts: of the ball.
        planes: one a part.
        wanted: the units to be bounded [m, units].
    """
    if not some or not len(parts):
        return parts
    half_spaces = HalfSpaces(*on_cube(some[0].before.ball, planes))
    for layer in some:
        parts = _refreshed(layer, parts, half_spaces, wanted[:, layer.units.place])
    return parts


def _refreshed(layer: Layer, parts: Subdomains, half_spaces: HalfSpaces, wanted: Tensor) -> Subdomains:
    part, unit = wanted.nonzero(as_tuple=True)
    if not len(part):
        return parts
    before, low, high = layer.before, parts.low.clone(), parts.high.clone()
    lines = before.lines(parts.double())
    rows = max(1, CHUNK // max(before.units, before.ball.x.numel()) // 2)
    for of, which in zip(torch.split(part, rows), torch.split(unit, rows), strict=True):
        below, above = _least(layer, lines, of, which, half_spaces).chunk(2)
        at = of, which + layer.units.place.start
        low[at], high[at] = torch.maximum(low[at], below), torch.minimum(high[at], -above)
    return narrowed(parts, low, high)


def _least(
    layer: Layer, lines: LinearRelaxation, of: Tensor, unit: Tensor, half_spaces: HalfSpaces
) -> Tensor:
    """Lower bounds of units, and then of their negatives, in parts."""
    of = of.repeat(2)
    found = through(layer.before, layer.targets(unit), lines.part(lambda ends: ends[of]))
    return downwards(half_spaces.least_of(*on_cube(layer.before.ball, found), of))

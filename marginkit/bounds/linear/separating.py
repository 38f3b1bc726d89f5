"""Parts in which nothing is left to split: whether their constraints leave room for an adversarial input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.cube import on_cube
from marginkit.bounds.linear.passes import Planes, through
from marginkit.bounds.linear.relaxed import Relaxed, Units, one_hot
from marginkit.bounds.subdomains import Subdomains

MARGIN = 1e-9  # of a bound's terms, by which it has to be above 0


@dataclass(frozen=True, eq=False)
class Layer:
    """Units that are undecided, and what comes before them.

    Attributes:
        units: of one nonlinear node.
        before: the network up to what goes into them.
    """

    units: Units
    before: Relaxed

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


def separated(some: Sequence[Layer], ball: Ball, parts: Subdomains, planes: Planes) -> tuple[Tensor, Tensor]:
    """Which parts hold no point where their planes are at most 0 [m]; and each one's best point [m, *d].

    Where every unit is decided, what is left of a part is a polytope: its splits are linear functions, and
    ascent comes near their best multipliers without reaching them. A linear programme does. Its multipliers
    are checked as those of any bound are: whatever they are, their combination of planes has a least value
    over the ball, and where that is above 0 one of the planes is.

    Args:
        some: all of the network's layers with undecided units, in float64.
        ball: in Linf.
        parts: of the ball.
        planes: one a part.
    """
    empty, points = torch.zeros(len(parts), dtype=torch.bool), planes.point.clone()
    low, high = ball.interval()
    for i in range(len(parts)):
        every = Planes.join([planes[i : i + 1], *_constraints(some, parts[i : i + 1])])
        normal, level = on_cube(ball, every.normal, every.level)
        where, bound = _apart(normal.cpu().numpy(), level.cpu().numpy())
        empty[i] = bound > 0
        if where is not None:
            points[i] = (low + high)[0] / 2 + (high - low)[0] / 2 * torch.from_numpy(where).view_as(points[i])
    return empty.to(parts.bound.device), points


def _constraints(some: Sequence[Layer], part: Subdomains) -> list[Planes]:
    """Planes that are at most 0 where the part's split units are on their sides."""
    wide = part.double()
    return [_sides(layer, wide) for layer in some if wide.split[0, layer.units.place].any()]


def _sides(layer: Layer, part: Subdomains) -> Planes:
    side = part.split[0, layer.units.place]
    on, off = (side > 0).nonzero().squeeze(1), (side < 0).nonzero().squeeze(1)
    rows = torch.cat([layer.targets(on)[len(on) :], layer.targets(off)[: len(off)]])
    lines = layer.before.lines(part).part(lambda ends: ends.expand(len(rows), -1))
    return through(layer.before, rows, lines).planes


def _apart(normal: np.ndarray, level: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The point of the cube [-1, 1]^f where the largest of the planes is least, and a bound of that.

    The planes are in units of their normals. Each mixture's least value over the cube is a bound.
    """
    size = np.abs(normal).sum(1).clip(min=1e-30)
    normal, level = normal / size[:, None], level / size
    count, f = normal.shape
    solve: Any = optimize.linprog
    found = solve(
        np.r_[np.zeros(f), 1], np.c_[normal, -np.ones(count)], -level,
        bounds=np.c_[np.r_[-np.ones(f), -np.inf], np.r_[np.ones(f), np.inf]], method="highs",
    )  # fmt: skip
    if found.x is None:
        return None, -np.inf
    share = (-found.ineqlin.marginals).clip(min=0)
    reach = np.abs(share @ normal).sum()
    terms = share @ np.abs(level) + share.sum()
    return found.x[:-1], float(share @ level - reach - MARGIN * terms)

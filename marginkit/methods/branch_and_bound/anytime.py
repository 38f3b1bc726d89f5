"""Branch and bound in the whole ball, and in smaller ones where that takes too long."""

from __future__ import annotations

import time
from dataclasses import replace

from torch import Tensor

from marginkit.bounds.relu.relaxation import Relaxation
from marginkit.methods.branch_and_bound.best_first import Search

WHOLE, SLICE = 0.5, 0.3  # shares: of the time for the whole ball, of what is left for a smaller one
ROUNDS = 200  # balls; the clock ends most searches before
NEARLY = 0.95  # of the upper end: from there on the whole ball again


def search(
    relaxation: Relaxation, point: Tensor, tolerance: float, deadline: float, known: tuple[float, float]
) -> tuple[float, Tensor]:
    """The lower end and the nearest adversarial displacement known when the time is up.

    Args:
        relaxation: of the sample's network.
        point: the displacement to an adversarial input.
        tolerance: the lower end may be smaller by this share.
        deadline: by `time.monotonic`.
        known: both ends; an upper one below the length of `point` only ends the search sooner.
    """
    network = relaxation.network
    flat = relaxation.norm.p == 2 and relaxation.room == (None, None)
    if not flat or network.rows >= network.width:
        return _grow(relaxation, point, tolerance, deadline, known)
    narrow, basis = network.rotated()
    lower, point = _grow(replace(relaxation, network=narrow), point @ basis, tolerance, deadline, known)
    return lower, basis @ point


def _grow(
    relaxation: Relaxation, point: Tensor, tolerance: float, deadline: float, known: tuple[float, float]
) -> tuple[float, Tensor]:
    """A ball halfway between the ends takes less than the whole: units are bounded more tightly in it."""
    lower, ceiling = known
    share, now = 0.5, time.monotonic()
    found = Search(relaxation, point, tolerance, ceiling)
    found.run(now + WHOLE * (deadline - now))
    lower = max(lower, found.lower)
    for _ in range(ROUNDS):
        if lower >= found.enough or (now := time.monotonic()) >= deadline:
            break
        near = lower > NEARLY * found.radius
        limit = ceiling if near else lower + share * (found.radius - lower)
        inner = Search(relaxation, found.point, tolerance, limit)
        inner.run(now + (1 if near else SLICE) * (deadline - now))
        share = min(0.5, 2 * share) if inner.lower >= limit else share / 2
        lower, found.upper, found.point = max(lower, inner.lower), inner.upper, inner.point
    return lower, found.point

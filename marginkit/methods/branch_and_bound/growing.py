"""Both ends of one sample's distance by deciding balls, the smallest that is open first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from marginkit.activations import evaluating
from marginkit.methods.branch_and_bound.at_radius import EAGER, decide
from marginkit.methods.branch_and_bound.attack import Sample
from marginkit.methods.search.polishing import UNITS, polish

START, MOST = 0.25, 0.5  # shares of what is between both ends: the first ball, and the largest
SLICE = 0.6  # of the time that is left, for one ball
NEARLY = 0.95  # of the upper end: from there on all of it
FASTER, FARTHEST = 4.0, 0.02  # how a ball of the upper end shrinks while what it holds is hardly nearer
FEW = 200  # parts of a proof: with fewer it tells little of a larger ball's
ROUNDS = 200  # balls; the clock ends most searches before


@dataclass(frozen=True)
class Proof:
    """Of one ball: its radius, the parts it took and the seconds."""

    radius: float
    parts: int
    seconds: float


def expected(proofs: Sequence[Proof], radius: float) -> float:
    """Seconds that a larger ball's proof will take: the logarithm of its parts is a line in the radius."""
    if len(proofs) < 2 or proofs[-1].parts < FEW:
        return float("inf")
    before, last = proofs[-2:]
    steps = (radius - last.radius) / (last.radius - before.radius)
    return float(last.seconds * (last.parts / before.parts) ** steps)


def grown(
    sample: Sample, tolerance: float, witness: Tensor, known: tuple[float, float], deadline: float
) -> tuple[float, Tensor]:
    """The lower end and the nearest adversarial input known when the time is up.

    What is left of a ball when its time is up is all that is looked at in the smaller ones.

    Args:
        sample: whose distance is sought.
        tolerance: the lower end may be smaller by this share.
        witness: an adversarial input [1, *d].
        known: both ends.
        deadline: by `time.monotonic`.
    """
    (lower, upper), share, closer, left, proofs = known, START, tolerance / 2, None, list[Proof]()
    for _ in range(ROUNDS):
        now = time.monotonic()
        if lower >= upper * (1 - tolerance / 2) or now >= deadline:
            break
        near = lower > NEARLY * upper or expected(proofs, upper) < deadline - now
        radius = max(lower, upper * (1 - closer)) if near else lower + share * (upper - lower)
        radius = radius if left is None else min(radius, left.radius)
        until, eager = now + (1 if near else SLICE) * (deadline - now), 0 if proofs and not near else EAGER
        found = decide(sample, radius, until, left, eager)
        if found.proved:
            if left is None:  # the rest of a larger ball takes fewer parts than a whole one
                proofs.append(Proof(radius, found.parts, time.monotonic() - now))
            lower, left = radius, None if left is not None and left.radius == radius else left
        else:
            left = found.left
        if found.witness is not None:
            witness, upper = _nearer(sample, found.witness, (witness, upper))
        barely = near and found.witness is not None and upper > radius * (1 - tolerance)
        closer = min(FARTHEST, FASTER * closer) if barely else tolerance / 2
        share = min(MOST, 2 * share) if found.proved else share / 2
    return lower, witness


def _nearer(sample: Sample, found: Tensor, known: tuple[Tensor, float]) -> tuple[Tensor, float]:
    """The nearest of what was found, its linear region's nearest, and what is known; and its distance."""
    with evaluating(sample.model):
        region = polish(sample.model, sample.x, sample.y, sample.threat, found, UNITS)
    for point in (found, region):
        length = float(sample.threat.norm.length(point - sample.x))
        known = (point, length) if length < known[1] else known
    return known

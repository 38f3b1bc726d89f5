"""Both ends of one sample's distance by deciding balls, the smallest that is open first."""

from __future__ import annotations

import time

from torch import Tensor

from marginkit.methods.branch_and_bound.at_radius import Sample, decide

START, MOST = 0.1, 0.5  # shares of what is between both ends: the first ball, and the largest
SLICE = 0.6  # of the time that is left, for one ball
NEARLY = 0.95  # of the upper end: from there on all of it
ROUNDS = 200  # balls; the clock ends most searches before


def grown(
    sample: Sample, tolerance: float, witness: Tensor, known: tuple[float, float], deadline: float
) -> tuple[float, Tensor]:
    """The lower end and the nearest adversarial input known when the time is up.

    Args:
        sample: whose distance is sought.
        tolerance: the lower end may be smaller by this share.
        witness: an adversarial input [1, *d].
        known: both ends.
        deadline: by `time.monotonic`.
    """
    (lower, upper), share = known, START
    for _ in range(ROUNDS):
        now, enough = time.monotonic(), upper * (1 - tolerance / 2)
        if lower >= enough or now >= deadline:
            break
        near = lower > NEARLY * upper
        radius = enough if near else lower + share * (upper - lower)
        found = decide(sample, radius, now + (1 if near else SLICE) * (deadline - now))
        if found.proved:
            lower = radius
        if found.witness is not None:
            witness = found.witness
            upper = min(upper, float(sample.threat.norm.length(witness - sample.x)))
        share = min(MOST, 2 * share) if found.proved else share / 2
    return lower, witness

"""A little beyond a radius that is proved, by a few proofs that cost more."""

from __future__ import annotations

from collections.abc import Callable

STEP = 0.1  # of the radius: how much farther the first proof tries


def farther(proves: Callable[[float], bool], radius: float, limit: float, tries: int) -> float:
    """The largest radius proved, among a few that are tried.

    Steps grow by half while proofs hold; between one that holds and one that does not the middle is taken.

    Args:
        proves: whether it holds at a radius.
        radius: that is proved already.
        limit: no larger one is tried.
        tries: at most so many.
    """
    low, high, step = radius, float("inf"), STEP
    for _ in range(tries if 0 < radius < limit else 0):
        trial = min(limit, low * (1 + step) if high == float("inf") else (low * high) ** 0.5)
        if proves(trial):
            low, step = trial, 1.5 * step
            if trial >= limit:
                break
        else:
            high = trial
    return low

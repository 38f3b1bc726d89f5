"""The middle of differences."""

from __future__ import annotations

import numpy as np

THINNED_FROM = 20_000


def hodges_lehmann(differences: np.ndarray) -> float:
    """The median of all averages of two differences, each with itself too: the shift of Wilcoxon's test.

    Hodges and Lehmann 1963. The n (n + 1) / 2 averages are counted, not made: a bisection on their value.
    From 20,000 differences on, as many evenly spaced order statistics stand for them.
    """
    ordered = np.sort(differences)
    if len(ordered) > THINNED_FROM:
        ordered = ordered[np.linspace(0, len(ordered) - 1, THINNED_FROM).round().astype(int)]
    n = len(ordered)
    if not n:
        return np.nan
    pairs = n * (n + 1) // 2
    middle = {(pairs + 1) // 2, pairs // 2 + 1}
    return sum(_average(ordered, rank) for rank in middle) / len(middle)


def _average(ordered: np.ndarray, rank: int) -> float:
    """The average that is the rank-th smallest, by bisection to rounding."""
    low, high = float(ordered[0]), float(ordered[-1])
    precision = 1e-12 * max(abs(low), abs(high))
    if _at_most(ordered, low) >= rank:
        return low
    while high - low > precision and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if _at_most(ordered, middle) >= rank else (middle, high)
    return high


def _at_most(ordered: np.ndarray, value: float) -> int:
    """How many averages of two are at most `value`."""
    partners = np.searchsorted(ordered, 2 * value - ordered, side="right")
    on_the_diagonal = int((ordered <= value).sum())
    return (int(partners.sum()) + on_the_diagonal) // 2

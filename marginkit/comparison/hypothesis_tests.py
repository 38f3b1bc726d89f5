"""Tests of paired numbers and of an accuracy, and what many tests at once do to their p-values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def wilcoxon(differences: np.ndarray) -> float | None:
    """Two-sided p of the signed-rank test; zeros are ranked and then dropped (Pratt 1959).

    None where every difference is zero: there is nothing to test (scipy answers NaN).
    """
    if not differences.any():
        return None
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def mcnemar(baseline: np.ndarray, other: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two yes-or-no answers a sample.

    Returns:
        How many samples only the baseline has, how many only the other, and the two-sided p of a fair coin
        doing as much; 1 where they differ nowhere.
    """
    first, second = int((baseline & ~other).sum()), int((other & ~baseline).sum())
    p = 2 * stats.binom.cdf(min(first, second), first + second, 0.5)
    return first, second, min(1.0, float(p))


def above_chance(right: int, n: int, classes: int) -> float:
    """One-sided p of so many right answers or more, where each is guessed right once in `classes` times."""
    return float(stats.binom.sf(right - 1, n, 1 / classes))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of a family of tests (Holm 1979); None is no test, and stays None."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    ordered = sorted(tested, key=lambda i: p_values[i] or 0.0)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(ordered):
        largest = max(largest, min(1.0, (len(tested) - rank) * (p_values[i] or 0.0)))
        adjusted[i] = largest
    return adjusted

"""The difference of two shares of the same samples: an interval that has width where all of them agree."""

from __future__ import annotations

import numpy as np
from scipy import stats

from marginkit.comparison.bootstrap import LEVEL, NONE, Interval

HALVINGS = 60  # of [-1, 1]: to rounding


def score_limits(only_a: np.ndarray, only_b: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % score interval of share B minus share A (Tango, Statistics in Medicine 17, 1998).

    It holds the differences that McNemar's score test does not reject, each with the most likely shares that
    differ by so much. NaN for fewer than two samples.

    Args:
        only_a, only_b: [...], how many samples only A has, only B has.
        n: samples.
    """
    if n < 2:
        unknown = np.full(np.shape(only_a), np.nan)
        return unknown, unknown
    return -_upper(only_b, only_a, n), _upper(only_a, only_b, n)


def interval(only_a: int, only_b: int, n: int) -> Interval:
    """The same for one pair of counts."""
    low, high = score_limits(np.array([only_a]), np.array([only_b]), n)
    return Interval(float(low[0]), float(high[0]), "score") if n > 1 else NONE


def _upper(only_a: np.ndarray, only_b: np.ndarray, n: int) -> np.ndarray:
    """The largest difference not rejected, by bisection between the one found and 1."""
    z = stats.norm.ppf((1 + LEVEL) / 2)
    found = (only_b - only_a) / n
    low, high = found.astype(float), np.ones_like(found, dtype=float)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rejected = middle - found > z * np.sqrt(_variance(middle, only_a, only_b, n) / n)
        low, high = np.where(rejected, low, middle), np.where(rejected, middle, high)
    return np.asarray(high)


def _variance(delta: np.ndarray, only_a: np.ndarray, only_b: np.ndarray, n: int) -> np.ndarray:
    """Of one sample's difference, at the most likely shares that differ by delta.

    The likelihood's maximum over q, the share that only A has (B's is q + delta), is the larger root of
    2 n q^2 + b q - only_a delta (1 - delta) = 0 with b = delta (2 n + only_a - only_b) - only_a - only_b.
    """
    b = delta * (2 * n + only_a - only_b) - only_a - only_b
    q = (np.sqrt(np.maximum(b * b + 8 * n * only_a * delta * (1 - delta), 0)) - b) / (4 * n)
    return np.asarray(np.maximum(2 * q + delta * (1 - delta), 0))

"""Robust accuracy at chosen radii, for two models on the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from marginkit.comparison import paired_shares
from marginkit.comparison.hypothesis_tests import mcnemar
from marginkit.table.brackets import Ends
from marginkit.table.summary import mean

Band = tuple[float, float]


@dataclass(frozen=True)
class RobustAccuracy:
    """The share of samples farther than `radius`; pairs are (baseline, other).

    Attributes:
        norm, radius: of the ball, in raw input units.
        end: `found`: no search that both have found an adversarial input within the radius (at least the
            true robust accuracy); `certified`: a proof that there is none (at most the true one).
        baseline, other: the shares.
        difference, interval, interval_method: other minus baseline, and its 95 % interval: `score` (Tango's),
            or `none` for fewer than two samples.
        only_baseline, only_other: samples robust in one model only.
        mcnemar: two-sided p of McNemar's exact test; 1 where the models differ on no sample.
        adjusted: after Holm's adjustment for all tests of the run.
    """

    norm: str
    radius: float
    end: str
    baseline: float
    other: float
    difference: float
    interval: tuple[float, float]
    interval_method: str
    only_baseline: int
    only_other: int
    mcnemar: float
    adjusted: float | None = None


@dataclass(frozen=True)
class Robust:
    """Which samples are farther than the radius, in both models."""

    norm: str
    radius: float
    end: str
    a: np.ndarray
    b: np.ndarray


def at_radii(norm: str, both: Sequence[Ends], radii: Sequence[float] | None) -> list[Robust]:
    """By both ends that both models have; by default at `usual_radii`."""
    return [
        Robust(norm, radius, end, beyond[:, 0], beyond[:, 1])
        for end, radius, beyond in both_ends(both, radii)
    ]


def both_ends(
    models: Sequence[Ends], radii: Sequence[float] | None
) -> Iterator[tuple[str, float, np.ndarray]]:
    """Of ends that all models have: which, the radius, and whether it is farther [samples, models]."""
    radii = usual_radii(models, [m.upper for m in models]) if radii is None else radii
    for end, key in (("found", "upper"), ("certified", "lower")):
        if all(m.searched if end == "found" else m.certified for m in models):
            values = np.column_stack([getattr(m, key) for m in models])
            yield from ((end, float(radius), values > radius) for radius in radii)


def describe(found: Robust) -> RobustAccuracy:
    """The shares, their difference with its interval, and McNemar's test."""
    first, second, p = mcnemar(found.a, found.b)
    interval = paired_shares.interval(first, second, len(found.a))
    return RobustAccuracy(
        norm=found.norm,
        radius=found.radius,
        end=found.end,
        baseline=mean(found.a),
        other=mean(found.b),
        difference=mean(found.b.astype(float) - found.a),
        interval=(interval.low, interval.high),
        interval_method=interval.method,
        only_baseline=first,
        only_other=second,
        mcnemar=p,
    )


def usual_radii(models: Sequence[Ends], distances: Sequence[np.ndarray]) -> list[float]:
    """Those at which a method was asked to decide, else round numbers near the quartiles."""
    asked = sorted({radius for model in models for radius in model.radii})
    return asked or round_quartiles(np.concatenate(distances))


def round_quartiles(distances: np.ndarray) -> list[float]:
    """Round numbers near the quartiles of the positive finite distances; none where there are none."""
    reached = distances[np.isfinite(distances) & (distances > 0)]
    quartiles = np.quantile(reached, [0.25, 0.5, 0.75]) if len(reached) else []
    return sorted({float(f"{q:.1g}") for q in quartiles})


def bands(robust: Sequence[RobustAccuracy]) -> list[tuple[str, float, Band, Band, Band]]:
    """Norm, radius, the true shares' bands of the baseline and the other, and of the difference.

    Where both ends are known in both models: certified <= true robust accuracy <= found.
    """
    ends = {(r.norm, r.radius, r.end): r for r in robust}
    rows = []
    for (norm, radius, end), found in ends.items():
        proved = ends.get((norm, radius, "certified"))
        if end == "found" and proved is not None:
            a, b = (proved.baseline, found.baseline), (proved.other, found.other)
            rows.append((norm, radius, a, b, (b[0] - a[1], b[1] - a[0])))
    return rows

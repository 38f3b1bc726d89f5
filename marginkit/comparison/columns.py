"""One column of two tables: how far apart are the distances, and is that more than chance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from marginkit.comparison.alignment import Aligned
from marginkit.comparison.bootstrap import Interval
from marginkit.comparison.hodges_lehmann import hodges_lehmann
from marginkit.comparison.hypothesis_tests import wilcoxon
from marginkit.kinds import INPUT, Kind, Status
from marginkit.table.brackets import SILENT, answered, at_input, has_end, limit, unclosed
from marginkit.table.summary import mean, median
from marginkit.table.table import Column

Pair = tuple[float, float]
ROUNDING = 1e-9  # of tau: differences that small are none


def bounds_input(kind: Kind, place: str) -> bool:
    """Whether a column of that kind bounds a distance at the input; `place` is its layer, or its end."""
    return kind is Kind.EXACT or (kind is not Kind.ESTIMATE and place == INPUT)


@dataclass(frozen=True)
class ColumnComparison:
    """One column of two tables over the samples they share; pairs are (baseline, other).

    Attributes:
        name, kind, norm, layer: of the column. Distances are in the layer's raw units.
        n: samples with a number in both.
        misclassified, exhausted: how many samples have that status.
        statuses: how many have each status there is, by its name.
        unclosed: on how many samples the two ends of an `exact` column do not meet.
        median: of the distances as they stand, inf included.
        tau: where distances are cut for all that follows.
        tau_is: where tau comes from: `given`, `search limit`, or `largest found`.
        mean: of min(d, tau): the area under the robust-accuracy curve up to tau.
        difference: the means', other minus baseline.
        interval: its 95 % paired bootstrap interval.
        interval_method: `BCa`, `percentile` (where BCa degenerates), `normal` (50,000 samples and more) or
            `none` (fewer than two samples).
        extremes: the least and the largest difference that any fate of the exhausted searches allows.
        shift: the Hodges-Lehmann median of the differences.
        rope: differences up to it count as ties.
        wins, ties, losses: samples farther from the other model's boundary, equally far, nearer.
        wilcoxon: two-sided p of the signed-rank test, zeros ranked as by Pratt; None where all are zero.
        adjusted: the same p after Holm's adjustment for all tests of the run.
    """

    name: str
    kind: Kind
    norm: str
    layer: str
    n: int
    misclassified: tuple[int, int]
    exhausted: tuple[int, int]
    statuses: Mapping[str, tuple[int, int]]
    unclosed: tuple[int, int]
    median: Pair
    tau: float
    tau_is: str
    mean: Pair
    difference: float
    interval: Pair
    interval_method: str
    extremes: Pair
    shift: float
    rope: float
    wins: int
    ties: int
    losses: int
    wilcoxon: float | None
    adjusted: float | None = None

    @property
    def bounding(self) -> bool:
        """Whether it bounds the distance at the input, or the smoothed classifier's."""
        return bounds_input(self.kind, self.layer)

    @property
    def answer(self) -> Kind:
        """What its distances are: those of `exact` are exact where all brackets are closed, else one end."""
        return Kind(self.name.rpartition(".")[2]) if any(self.unclosed) else self.kind

    @property
    def not_ok(self) -> tuple[int, int]:
        """How many samples are neither misclassified nor OK, whatever the reason."""
        other = [status for status in self.statuses if status not in ("ok", "misclassified")]
        return sum(self.statuses[s][0] for s in other), sum(self.statuses[s][1] for s in other)

    @property
    def silent(self) -> str:
        """Which of A and B has no answer for any sample that it had to look at."""
        asked = [sum(n[i] for n in self.statuses.values()) - self.misclassified[i] for i in (0, 1)]
        mute = [sum(self.statuses[status.name.lower()][i] for status in SILENT) for i in (0, 1)]
        return "".join(name for name, n, none in zip("AB", asked, mute, strict=True) if none == n > 0)


@dataclass(frozen=True)
class Cut:
    """Two columns cut at tau: `delta` is b - a for every sample, NaN where either is unknown.

    Where a method has answered for no sample, nothing is known of any: its vacuous ends are no distances.
    """

    a: Column
    b: Column
    unclosed: tuple[int, int]
    tau: float
    tau_is: str
    delta: np.ndarray
    known: np.ndarray = field(repr=False)


def cut(pair: Aligned, name: str, taus: Mapping[str, float]) -> Cut:
    """Cuts both at one tau: given for the norm, else the smaller search limit, else the largest found."""
    a, b = pair.columns(name)
    known = ~(np.isnan(a.distance) | np.isnan(b.distance))
    known &= answered(a) and answered(b)
    first, second = (int(unclosed(table, table[name]).sum()) for table in pair.tables)
    tau, tau_is = _tau(a, b, known, taus)
    delta = np.where(known, np.clip(b.distance, -tau, tau) - np.clip(a.distance, -tau, tau), np.nan)
    delta[np.abs(delta) <= ROUNDING * tau] = 0
    return Cut(a, b, (first, second), tau, tau_is, delta, known)


def _tau(a: Column, b: Column, known: np.ndarray, taus: Mapping[str, float]) -> tuple[float, str]:
    if at_input(a) and a.norm in taus:
        return float(taus[a.norm]), "given"
    stated = [found for column in (a, b) if (found := limit(column)) is not None]
    if stated:
        return min(stated), "search limit"
    sizes = np.abs(np.concatenate([a.distance[known], b.distance[known]]))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0)), "largest found"


def describe(found: Cut, interval: Interval, rope: float) -> ColumnComparison:
    """The statistics of a cut pair."""
    a, b, tau = found.a, found.b, found.tau
    delta = found.delta[found.known]
    first, second = a.distance[found.known], b.distance[found.known]
    rope = rope if at_input(a) else 0.0
    return ColumnComparison(
        name=a.name,
        kind=a.kind,
        norm=a.norm,
        layer=a.place,
        n=len(delta),
        misclassified=_count(a, b, Status.MISCLASSIFIED),
        exhausted=_count(a, b, Status.EXHAUSTED),
        statuses={status.name.lower(): _count(a, b, status) for status in Status},
        unclosed=found.unclosed,
        median=(median(first), median(second)),
        tau=tau,
        tau_is=found.tau_is,
        mean=(mean(np.clip(first, -tau, tau)), mean(np.clip(second, -tau, tau))),
        difference=mean(delta),
        interval=(interval.low, interval.high),
        interval_method=interval.method,
        extremes=_extremes(found),
        shift=hodges_lehmann(delta),
        rope=rope,
        wins=int((delta > rope).sum()),
        ties=int((np.abs(delta) <= rope).sum()),
        losses=int((delta < -rope).sum()),
        wilcoxon=wilcoxon(delta),
    )


def _extremes(found: Cut) -> Pair:
    """Where a search found nothing, the true distance may be anything from its limit (or 0) to tau."""
    if found.a.kind is not Kind.UPPER and not has_end(found.a, "upper"):
        return mean(found.delta[found.known]), mean(found.delta[found.known])
    worst = [
        np.where(np.isinf(c.distance), min(limit(c) or 0.0, found.tau), c.distance)
        for c in (found.a, found.b)
    ]
    best = [c.distance for c in (found.a, found.b)]
    low, high = (
        mean((np.minimum(b, found.tau) - np.minimum(a, found.tau))[found.known])
        for a, b in ((best[0], worst[1]), (worst[0], best[1]))
    )
    return low, high


def _count(a: Column, b: Column, status: Status) -> tuple[int, int]:
    return int((a.status == status).sum()), int((b.status == status).sum())

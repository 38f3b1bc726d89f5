"""Does one model have larger margins than another, sample by sample? Imports no torch.

Distances are pairs: both models saw the same samples. A search that found nothing leaves inf, which is
never subtracted or averaged: statistics use min(d, tau), the area under the robust-accuracy curve up to tau
when averaged. A misclassified sample counts with distance 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from marginkit.errors import IncompatibleError
from marginkit.kinds import Kind, Status
from marginkit.table import INPUT, Column, MarginTable, names

Pair = tuple[float, float]
RESAMPLES = 2000


@dataclass(frozen=True)
class ColumnComparison:
    """One column of two tables over the samples they share; pairs are (baseline, other).

    Attributes:
        name, kind, norm: of the column.
        n: samples with a number in both.
        misclassified, exhausted: how many samples have that status.
        median: of the distances as they stand, inf included.
        tau: where distances are cut for all that follows: the largest finite one in either table.
        mean: of min(d, tau).
        difference: the means', other minus baseline.
        interval: its 95 % paired percentile bootstrap interval.
        wins, ties, losses: samples farther from the other model's boundary, equally far, nearer.
        wilcoxon: two-sided p of the signed-rank test, zeros ranked as by Pratt; None where all are ties.
    """

    name: str
    kind: Kind
    norm: str
    n: int
    misclassified: tuple[int, int]
    exhausted: tuple[int, int]
    median: Pair
    tau: float
    mean: Pair
    difference: float
    interval: Pair
    wins: int
    ties: int
    losses: int
    wilcoxon: float | None


@dataclass(frozen=True)
class RobustAccuracy:
    """The share of samples with no adversarial input found within `radius`, by the best search of both.

    `certified` is the share, (baseline, other), proved to have none; None where no proof is in both.
    """

    norm: str
    radius: float
    baseline: float
    other: float
    certified: Pair | None = None


@dataclass(frozen=True)
class Faithfulness:
    """How a layer's first-order estimate goes with the distance found at the input.

    Attributes:
        norm, layer: of the estimate.
        spearman: rank correlation, (baseline, other); NaN where undefined.
        ratio: median of estimate / found, (baseline, other); 1 is faithful at the input, while a hidden
            layer has units of its own.
    """

    norm: str
    layer: str
    spearman: Pair
    ratio: Pair


@dataclass(frozen=True)
class Comparison:
    """All that is said of two tables.

    Attributes:
        baseline, other: their names.
        n: samples in both.
        only: how many samples only (the baseline, the other) has.
        accuracy: on the shared samples.
        columns, robust, faithfulness: the statistics.
        left_out: columns that only one table has.
    """

    baseline: str
    other: str
    n: int
    only: tuple[int, int]
    accuracy: Pair
    columns: tuple[ColumnComparison, ...]
    robust: tuple[RobustAccuracy, ...]
    faithfulness: tuple[Faithfulness, ...]
    left_out: tuple[str, ...]


def compare(
    baseline: MarginTable,
    other: MarginTable,
    *,
    labels: tuple[str, str] = ("baseline", "other"),
    radii: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compares two models' distances on the samples they share.

    Args:
        baseline, other: tables of the same data set under the same threat.
        labels: what to call them.
        radii: for each norm, where to tell the robust accuracy; by default round numbers near the
            quartiles of the baseline's distances.
        seed: of the bootstrap.

    Raises:
        IncompatibleError: the tables differ in data set, threat, or the options of a shared column, or
            share no sample or no column; the field and both values are named.
    """
    a, b = _paired(baseline, other)
    shared = names([a, b])
    if not shared:
        raise IncompatibleError(f"the tables share no column: {_listed(a)} against {_listed(b)}")
    for name in shared:
        _same(f"the options of {name}", a[name].options, b[name].options)
    found = {norm: (_found(a, norm, shared), _found(b, norm, shared)) for norm in _searched(a, shared)}
    return Comparison(
        baseline=labels[0],
        other=labels[1],
        n=len(a),
        only=(len(baseline) - len(a), len(other) - len(b)),
        accuracy=(_accuracy(a), _accuracy(b)),
        columns=tuple(_compare_column(a[name], b[name], seed) for name in shared),
        robust=tuple(
            replace(row, certified=_certified(a, b, row, shared))
            for norm in found
            for row in _robust(norm, found[norm], (radii or {}).get(norm))
        ),
        faithfulness=tuple(
            _faithfulness(a[name], b[name], found[a[name].norm])
            for name in shared
            if a[name].kind is Kind.ESTIMATE and a[name].norm in found
        ),
        left_out=tuple(sorted({c.name for t in (a, b) for c in t.columns} - set(shared))),
    )


def _paired(a: MarginTable, b: MarginTable) -> tuple[MarginTable, MarginTable]:
    for field in ("fingerprint", "split", "name"):
        _same(
            f"the data set's {field}",
            a.meta.get("dataset", {}).get(field),
            b.meta.get("dataset", {}).get(field),
        )
    _same("the threat", a.meta.get("threat"), b.meta.get("threat"))
    _, in_a, in_b = np.intersect1d(a.index, b.index, return_indices=True)
    if not len(in_a):
        raise IncompatibleError("the tables share no sample: measure the same part of the data set")
    a, b = a.rows(in_a), b.rows(in_b)
    if not np.array_equal(a.label, b.label):
        raise IncompatibleError("the tables give the same samples different labels")
    return a, b


def _same(what: str, a: Any, b: Any) -> None:
    if a != b:
        raise IncompatibleError(f"{what} differ: {a} against {b}; measure both models alike")


def _compare_column(a: Column, b: Column, seed: int) -> ColumnComparison:
    known = ~(np.isnan(a.distance) | np.isnan(b.distance))
    first, second = a.distance[known], b.distance[known]
    finite = np.abs(np.concatenate([first, second]))
    tau = float(finite[np.isfinite(finite)].max(initial=0.0))
    cut_a, cut_b = np.clip(first, -tau, tau), np.clip(second, -tau, tau)
    delta = cut_b - cut_a
    delta[np.abs(delta) <= 1e-9 * tau] = 0
    return ColumnComparison(
        name=a.name,
        kind=a.kind,
        norm=a.norm,
        n=int(known.sum()),
        misclassified=_count(a, b, Status.MISCLASSIFIED),
        exhausted=_count(a, b, Status.EXHAUSTED),
        median=(median(first), median(second)),
        tau=tau,
        mean=(_mean(cut_a), _mean(cut_b)),
        difference=_mean(delta),
        interval=bootstrap_interval(delta, seed),
        wins=int((delta > 0).sum()),
        ties=int((delta == 0).sum()),
        losses=int((delta < 0).sum()),
        wilcoxon=float(stats.wilcoxon(delta, zero_method="pratt").pvalue) if delta.any() else None,
    )


def bootstrap_interval(delta: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Pair:
    """The 95 % percentile bootstrap interval of the mean; resampling pairs is resampling differences."""
    if not len(delta):
        return (np.nan, np.nan)
    generator = np.random.default_rng(seed)
    at_once = max(1, 5_000_000 // len(delta))
    means = [
        delta[generator.integers(len(delta), size=(min(at_once, resamples - done), len(delta)))].mean(1)
        for done in range(0, resamples, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def _searched(table: MarginTable, shared: Sequence[str]) -> list[str]:
    """The norms in which both tables have a search's distances at the input."""
    found = [table[name] for name in shared]
    return list(
        dict.fromkeys(c.norm for c in found if c.kind in (Kind.UPPER, Kind.EXACT) and c.layer == INPUT)
    )


def _found(table: MarginTable, norm: str, shared: Sequence[str]) -> np.ndarray:
    """Each sample's smallest distance over all searches."""
    found = [table[name] for name in shared]
    distances = [c.distance for c in found if c.kind in (Kind.UPPER, Kind.EXACT) and c.norm == norm]
    return np.asarray(np.min(distances, axis=0))


def _robust(
    norm: str, pair: tuple[np.ndarray, np.ndarray], radii: Sequence[float] | None
) -> list[RobustAccuracy]:
    if radii is None:
        reached = pair[0][np.isfinite(pair[0]) & (pair[0] > 0)]
        quartiles = np.quantile(reached, [0.25, 0.5, 0.75]) if len(reached) else []
        radii = sorted({float(f"{q:.1g}") for q in quartiles})
    return [RobustAccuracy(norm, float(r), _mean(pair[0] > r), _mean(pair[1] > r)) for r in radii]


def _certified(a: MarginTable, b: MarginTable, row: RobustAccuracy, shared: Sequence[str]) -> Pair | None:
    first, second = (ends(table, row.norm, shared)[0] for table in (a, b))
    if first is None or second is None:
        return None
    return _mean(first > row.radius), _mean(second > row.radius)


def ends(
    table: MarginTable, norm: str, columns: Sequence[str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Each sample's bracket: the largest proved distance and the smallest found; None for no column."""
    here = [c for c in map(table.__getitem__, columns) if c.norm == norm and c.layer == INPUT]
    proved = [c.distance for c in here if c.kind is Kind.LOWER]
    found = [c.distance for c in here if c.kind in (Kind.UPPER, Kind.EXACT)]
    return (np.max(proved, axis=0) if proved else None), (np.min(found, axis=0) if found else None)


def _faithfulness(a: Column, b: Column, found: tuple[np.ndarray, np.ndarray]) -> Faithfulness:
    rows = []
    for column, distance in zip((a, b), found, strict=True):
        right = (column.status == Status.OK) & np.isfinite(distance) & (distance > 0)
        estimate, distance = column.distance[right], distance[right]
        varied = len(distance) > 2 and np.ptp(estimate) > 0 and np.ptp(distance) > 0
        rank = float(stats.spearmanr(estimate, distance).statistic) if varied else np.nan
        rows.append((rank, median(estimate / distance)))
    return Faithfulness(a.norm, a.layer, (rows[0][0], rows[1][0]), (rows[0][1], rows[1][1]))


def _count(a: Column, b: Column, status: Status) -> tuple[int, int]:
    return int((a.status == status).sum()), int((b.status == status).sum())


def _accuracy(table: MarginTable) -> float:
    return _mean(table.predicted == table.label)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def median(values: np.ndarray) -> float:
    """The middle value; infinities are never averaged with anything but themselves."""
    if not len(values):
        return np.nan
    ordered = np.sort(values)  # np.median would subtract infinities
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(middle[0] if middle[0] == middle[1] else (middle[0] + middle[1]) / 2)


def _listed(table: MarginTable) -> str:
    return ", ".join(column.name for column in table.columns) or "none"

"""What the first-order distances say layer by layer, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from marginkit.comparison.alignment import Aligned
from marginkit.kinds import INPUT, Kind, Status
from marginkit.table.summary import median
from marginkit.table.table import Column, MarginTable

Pair = tuple[float, float]
RANKED = 100_000  # samples that a rank correlation is computed from, evenly spaced
FENCES = ("lower_fence", "q1", "median", "q3", "upper_fence")


@dataclass(frozen=True)
class Signature:
    """A layer's margin distribution in five numbers and five moments (Jiang et al. 2019, arXiv 1810.00113).

    Of the correctly classified samples' first-order distances, each divided by sqrt(total variance of the
    layer's activations): that takes out the layer's scale, which training is free to change.

    Attributes:
        norm, layer: of the distances.
        n: correctly classified samples with a distance.
        variance: total variance of the activations (their features' variances, summed); None where the file
            does not say, and then the distances are in the layer's raw units.
        fences: quartiles, and the outermost values within 1.5 interquartile ranges of them.
        moments: mean, standard deviation, and the third to fifth standardised central moments.
    """

    norm: str
    layer: str
    n: int
    variance: float | None
    fences: tuple[float, ...]
    moments: tuple[float, ...]


@dataclass(frozen=True)
class Faithfulness:
    """How a layer's first-order estimate goes with the distance really found.

    Attributes:
        norm, layer: of the estimate.
        against: where the distance was found: `input`, or the same layer.
        n: samples it is computed from, (baseline, other).
        spearman: rank correlation, (baseline, other); NaN where undefined.
        ratio: median of estimate / found, (baseline, other); 1 is faithful at the same layer, while a hidden
            layer has other units than the input.
    """

    norm: str
    layer: str
    against: str
    n: tuple[int, int]
    spearman: Pair
    ratio: Pair


def normalised(table: MarginTable, column: Column) -> tuple[np.ndarray, float | None]:
    """The correctly classified samples' distances over sqrt(total variance), and that variance."""
    right = (column.status == Status.OK) & np.isfinite(column.distance)
    variance = variances(table).get(column.layer)
    return column.distance[right] / np.sqrt(variance or 1.0), variance


def variances(table: MarginTable) -> dict[str, float]:
    """Each layer's total activation variance, where the file has it."""
    return {layer: float(v) for layer, v in table.provenance.activation_variance.items() if v > 0}


def signatures(table: MarginTable) -> list[Signature]:
    """Of every first-order column that has an answer."""
    found = []
    for column in table.columns:
        if column.kind is Kind.ESTIMATE and _answers(column):
            margins, variance = normalised(table, column)
            found.append(
                Signature(
                    column.norm, column.layer, len(margins), variance, fences(margins), moments(margins)
                )
            )
    return found


def _answers(column: Column) -> bool:
    return bool((column.status != Status.UNSUPPORTED).any())


def fences(values: np.ndarray) -> tuple[float, ...]:
    """Lower fence, quartiles, upper fence; NaN of nothing."""
    if not len(values):
        return (np.nan,) * 5
    q1, middle, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 1.5 * (q3 - q1)
    low, high = values[values >= q1 - reach].min(), values[values <= q3 + reach].max()
    return tuple(float(value) for value in (low, q1, middle, q3, high))


def moments(values: np.ndarray) -> tuple[float, ...]:
    """Mean, standard deviation, standardised central moments three to five (0 where nothing varies)."""
    if not len(values):
        return (np.nan,) * 5
    mean, deviation = float(values.mean()), float(values.std())
    spread = deviation > 1e-12 * abs(mean)
    if not spread:
        return (mean, deviation, 0.0, 0.0, 0.0)
    z = (values - mean) / deviation
    square = z * z
    higher = ((square * z).mean(), (square * square).mean(), (square * square * z).mean())
    return (mean, deviation, *map(float, higher))


def faithfulness(pair: Aligned) -> list[Faithfulness]:
    """Of every shared estimate: against the input's best search, and against a search at the same layer."""
    found = []
    for name in pair.shared:
        estimates = pair.columns(name)
        first = estimates[0]
        if first.kind is not Kind.ESTIMATE or not all(map(_answers, estimates)):
            continue
        for against in dict.fromkeys((INPUT, first.layer)):
            if distances := _found(pair, first.norm, against):
                found.append(_faithful(estimates, distances, against))
    return found


def _found(pair: Aligned, norm: str, layer: str) -> list[np.ndarray]:
    """Every table's distances found there; empty where nobody searched."""
    if layer == INPUT:
        return [e.upper for e in pair.searched().get(norm, ())]
    names = [
        name
        for name in pair.shared
        if (c := pair.tables[0][name]).kind is Kind.UPPER and (c.norm, c.layer) == (norm, layer)
    ]
    return [np.min([table[name].distance for name in names], axis=0) for table in pair.tables if names]


def _faithful(columns: Sequence[Column], distances: Sequence[np.ndarray], against: str) -> Faithfulness:
    rows = []
    for column, distance in zip(columns, distances, strict=True):
        right = np.flatnonzero((column.status == Status.OK) & np.isfinite(distance) & (distance > 0))
        right = right[:: -(-len(right) // RANKED) or 1]
        estimate, there = column.distance[right], distance[right]
        varied = len(there) > 2 and np.ptp(estimate) > 0 and np.ptp(there) > 0
        rank = float(stats.spearmanr(estimate, there).statistic) if varied else np.nan
        rows.append((len(there), rank, median(estimate / there)))
    (n_a, rank_a, ratio_a), (n_b, rank_b, ratio_b) = rows
    column = columns[0]
    return Faithfulness(column.norm, column.layer, against, (n_a, n_b), (rank_a, rank_b), (ratio_a, ratio_b))

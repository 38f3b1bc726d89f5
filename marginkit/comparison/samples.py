"""Which samples and which classes: per-class figures, and the samples that changed most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marginkit.comparison.alignment import Aligned
from marginkit.table.summary import accuracy, mean, median

Pair = tuple[float, float]
MOST = 8


@dataclass(frozen=True)
class ClassRow:
    """One class in one norm, by the smallest distances found, cut at tau for means; (baseline, other)."""

    norm: str
    label: int
    n: int
    accuracy: Pair
    median: Pair
    mean: Pair
    difference: float


@dataclass(frozen=True)
class Sample:
    """One sample in one norm; pairs are (baseline, other).

    Attributes:
        norm: of the distances.
        why: `gained` or `lost` most by the other model, or `nearest` to its boundary (correct ones only).
        index: its position in the data set.
        row: its position among the shared samples.
        label, predicted: classes.
        distance: the smallest found; inf where none was.
    """

    norm: str
    why: str
    index: int
    row: int
    label: int
    predicted: tuple[int, int]
    distance: Pair


def by_class(norm: str, pair: Aligned, tau: float) -> list[ClassRow]:
    """A row for every label."""
    a, b = pair.tables
    uppers = [e.upper for e in pair.brackets[norm]]
    order = np.argsort(a.label, kind="stable")
    labels, starts = np.unique(a.label[order], return_index=True)
    rows = []
    for label, members in zip(labels, np.split(order, starts[1:]), strict=True):
        means = [mean(np.minimum(upper[members], tau)) for upper in uppers]
        rows.append(
            ClassRow(
                norm=norm,
                label=int(label),
                n=len(members),
                accuracy=(accuracy(a, members), accuracy(b, members)),
                median=(median(uppers[0][members]), median(uppers[1][members])),
                mean=(means[0], means[1]),
                difference=means[1] - means[0],
            )
        )
    return rows


def notable(norm: str, pair: Aligned, tau: float, most: int = MOST) -> list[Sample]:
    """Samples whose distance, cut at tau, grew or shrank most, and those nearest to the other's boundary."""
    first, second = (e.upper for e in pair.brackets[norm])
    delta = np.minimum(second, tau) - np.minimum(first, tau)
    order = np.argsort(delta, kind="stable")
    correct = np.flatnonzero(second > 0)
    near = correct[np.argsort(second[correct], kind="stable")]
    chosen = {
        "gained": order[delta[order] > 0][::-1][:most],
        "lost": order[delta[order] < 0][:most],
        "nearest": near[np.isfinite(second[near])][:most],
    }
    return [_sample(norm, why, int(row), pair) for why, rows in chosen.items() for row in rows]


def _sample(norm: str, why: str, row: int, pair: Aligned) -> Sample:
    (a, b), (first, second) = pair.tables, pair.brackets[norm]
    return Sample(
        norm=norm,
        why=why,
        index=int(a.index[row]),
        row=row,
        label=int(a.label[row]),
        predicted=(int(a.predicted[row]), int(b.predicted[row])),
        distance=(float(first.upper[row]), float(second.upper[row])),
    )

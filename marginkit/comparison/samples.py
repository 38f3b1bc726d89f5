"""Which samples and which classes: per-class figures, and the samples that changed most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marginkit.table.brackets import Ends
from marginkit.table.summary import mean, median
from marginkit.table.table import MarginTable

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


def by_class(
    norm: str, a: MarginTable, b: MarginTable, found: tuple[Ends, Ends], tau: float
) -> list[ClassRow]:
    """A row for every label."""
    order = np.argsort(a.label, kind="stable")
    labels, starts = np.unique(a.label[order], return_index=True)
    rows = []
    for label, members in zip(labels, np.split(order, starts[1:]), strict=True):
        means = [mean(np.minimum(e.upper[members], tau)) for e in found]
        rows.append(
            ClassRow(
                norm=norm,
                label=int(label),
                n=len(members),
                accuracy=(_accuracy(a, members), _accuracy(b, members)),
                median=(median(found[0].upper[members]), median(found[1].upper[members])),
                mean=(means[0], means[1]),
                difference=means[1] - means[0],
            )
        )
    return rows


def notable(
    norm: str, a: MarginTable, b: MarginTable, found: tuple[Ends, Ends], tau: float, most: int = MOST
) -> list[Sample]:
    """Samples whose distance, cut at tau, grew or shrank most, and those nearest to the other's boundary."""
    delta = np.minimum(found[1].upper, tau) - np.minimum(found[0].upper, tau)
    order = np.argsort(delta, kind="stable")
    correct = np.flatnonzero(found[1].upper > 0)
    near = correct[np.argsort(found[1].upper[correct], kind="stable")]
    chosen = {
        "gained": order[delta[order] > 0][::-1][:most],
        "lost": order[delta[order] < 0][:most],
        "nearest": near[np.isfinite(found[1].upper[near])][:most],
    }
    return [_sample(norm, why, int(row), a, b, found) for why, rows in chosen.items() for row in rows]


def _sample(
    norm: str, why: str, row: int, a: MarginTable, b: MarginTable, found: tuple[Ends, Ends]
) -> Sample:
    return Sample(
        norm=norm,
        why=why,
        index=int(a.index[row]),
        row=row,
        label=int(a.label[row]),
        predicted=(int(a.predicted[row]), int(b.predicted[row])),
        distance=(float(found[0].upper[row]), float(found[1].upper[row])),
    )


def _accuracy(table: MarginTable, members: np.ndarray) -> float:
    return mean(table.predicted[members] == table.label[members])

"""Does one model have larger margins than another, sample by sample? Imports no torch.

Distances are pairs: both models saw the same samples. A search that found nothing leaves inf, which is
never subtracted or averaged: statistics use min(d, tau), the area under the robust-accuracy curve up to tau
when averaged. A misclassified sample counts with distance 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from marginkit.artifacts import located
from marginkit.comparison import columns as of_columns
from marginkit.comparison import radii as of_radii
from marginkit.comparison.bootstrap import intervals
from marginkit.comparison.columns import ColumnComparison, cut
from marginkit.comparison.decided import Decided, decided
from marginkit.comparison.flags import Flag, pair_flags, table_flags
from marginkit.comparison.hypothesis_tests import holm
from marginkit.comparison.layers import Faithfulness, Signature, faithfulness, signatures
from marginkit.comparison.pairing import paired
from marginkit.comparison.radii import RobustAccuracy, at_radii
from marginkit.comparison.samples import ClassRow, Sample, by_class, notable
from marginkit.table.attacks import Attacked, attacked
from marginkit.table.brackets import ends, norms
from marginkit.table.reading import read
from marginkit.table.summary import mean
from marginkit.table.table import MarginTable, names

Pair = tuple[float, float]


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    Attributes:
        radii: for each norm, where to tell the robust accuracy; by default round numbers near the quartiles
            of the distances.
        taus: for each norm, where to cut distances; by default the smaller search limit where searches have
            one, else the largest distance found.
        ropes: for each norm, how large a difference of distances still counts as none.
        seed: of the bootstrap.
    """

    radii: Mapping[str, Sequence[float]] | None = None
    taus: Mapping[str, float] | None = None
    ropes: Mapping[str, float] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """All that is said of two tables; pairs are (baseline, other), differences other minus baseline.

    Attributes:
        baseline, other: their names.
        n: samples in both.
        only: how many samples only (the baseline, the other) has.
        accuracy: on the shared samples.
        columns, robust, brackets, faithfulness, classes, samples: the statistics.
        signatures: each table's margin distributions by layer.
        tests: how many p-values the adjusted ones are adjusted for.
        attacks: what each attack at given radii left standing, in each table.
        left_out: columns that only one table has.
        flags: what to know before believing it.
    """

    baseline: str
    other: str
    n: int
    only: tuple[int, int]
    accuracy: Pair
    columns: tuple[ColumnComparison, ...]
    robust: tuple[RobustAccuracy, ...]
    brackets: tuple[Decided, ...]
    faithfulness: tuple[Faithfulness, ...]
    classes: tuple[ClassRow, ...]
    samples: tuple[Sample, ...]
    signatures: tuple[tuple[Signature, ...], tuple[Signature, ...]]
    attacks: tuple[tuple[Attacked, ...], tuple[Attacked, ...]]
    left_out: tuple[str, ...]
    flags: tuple[Flag, ...]
    tests: int = 0


def compare(
    baseline: MarginTable | str | Path,
    other: MarginTable | str | Path,
    *,
    labels: tuple[str, str] = ("baseline", "other"),
    settings: Settings | None = None,
) -> Comparison:
    """Compares two models' distances on the samples they share.

    Args:
        baseline, other: tables of the same data under the same threat, or their files; `artifact:NAME`
            names a table that comes with marginkit.
        labels: what to call them.
        settings: radii, cuts, ties, seed.

    Raises:
        IncompatibleError: the tables differ in data set, threat, or the options of a shared column, or
            share no sample or no column; the field and both values are named.
        MarginkitError: a file is no table.
    """
    baseline, other = (t if isinstance(t, MarginTable) else read(located(t)) for t in (baseline, other))
    return compare_all([baseline, other], labels, settings)[0]


def compare_all(
    tables: Sequence[MarginTable], labels: Sequence[str], settings: Settings | None = None
) -> list[Comparison]:
    """Compares every table with the first; p-values are adjusted for all tests together (Holm)."""
    settings = settings or Settings()
    found = [
        _compare(tables[0], table, (labels[0], label), settings)
        for table, label in zip(tables[1:], labels[1:], strict=True)
    ]
    return _adjusted(found)


def _compare(
    baseline: MarginTable, other: MarginTable, labels: tuple[str, str], settings: Settings
) -> Comparison:
    a, b = paired([baseline, other])
    shared = names([a, b])
    both = {norm: (ends(a, norm, shared), ends(b, norm, shared)) for norm in norms(a, shared)}
    cuts = [cut(a[name], b[name], settings.taus or {}) for name in shared]
    robust = [
        r for norm, (e, f) in both.items() for r in at_radii(norm, e, f, (settings.radii or {}).get(norm))
    ]
    found = intervals(np.column_stack([*(c.delta for c in cuts), *(r.delta for r in robust)]), settings.seed)
    ropes = settings.ropes or {}
    columns = [
        of_columns.describe(c, i, ropes.get(c.a.norm, 0.0))
        for c, i in zip(cuts, found[: len(cuts)], strict=True)
    ]
    searched = {norm: e for norm, e in both.items() if e[0].searched and e[1].searched}
    taus = {norm: _tau(norm, columns) for norm in searched}
    brackets = tuple(decided(norm, *e) for norm, e in both.items() if e[0].certified or e[1].certified)
    faithful = tuple(faithfulness(a, b, shared))
    return Comparison(
        baseline=labels[0],
        other=labels[1],
        n=len(a),
        only=(len(baseline) - len(a), len(other) - len(b)),
        accuracy=(_accuracy(a), _accuracy(b)),
        columns=tuple(columns),
        robust=tuple(of_radii.describe(r, i) for r, i in zip(robust, found[len(cuts) :], strict=True)),
        brackets=brackets,
        faithfulness=faithful,
        classes=tuple(row for norm, e in searched.items() for row in by_class(norm, a, b, e, taus[norm])),
        samples=tuple(row for norm, e in searched.items() for row in notable(norm, a, b, e, taus[norm])),
        signatures=(tuple(signatures(a)), tuple(signatures(b))),
        attacks=(tuple(attacked(a, shared)), tuple(attacked(b, shared))),
        left_out=tuple(sorted({c.name for t in (a, b) for c in t.columns} - set(shared))),
        flags=(
            *table_flags(a, labels[0]),
            *table_flags(b, labels[1]),
            *pair_flags(columns, brackets, faithful, len(a), labels[1]),
        ),
    )


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's adjustment over every p-value of the run."""
    family = [row.wilcoxon for c in comparisons for row in c.columns]
    family += [row.mcnemar for c in comparisons for row in c.robust]
    adjusted = iter(holm(family))
    tests = sum(p is not None for p in family)
    columns = [tuple(replace(row, adjusted=next(adjusted)) for row in c.columns) for c in comparisons]
    robust = [tuple(replace(row, adjusted=next(adjusted)) for row in c.robust) for c in comparisons]
    return [
        replace(c, columns=first, robust=second, tests=tests)
        for c, first, second in zip(comparisons, columns, robust, strict=True)
    ]


def _tau(norm: str, columns: Sequence[ColumnComparison]) -> float:
    """Where the best search's distances are cut: the smallest tau of the searches in that norm."""
    return min(
        (
            c.tau
            for c in columns
            if c.norm == norm and str(c.kind) in ("upper", "exact") and c.layer == "input"
        ),
        default=np.inf,
    )


def _accuracy(table: MarginTable) -> float:
    return mean(table.predicted == table.label)

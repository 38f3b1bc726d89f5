"""Does one model have larger margins than another, sample by sample? Imports no torch.

Distances are pairs: both models saw the same samples. A search that found nothing leaves inf, which is
never subtracted or averaged: statistics use min(d, tau), the area under the robust-accuracy curve up to tau
when averaged. A misclassified sample counts with distance 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from marginkit.artifacts import located
from marginkit.comparison import columns as of_columns
from marginkit.comparison import radii as of_radii
from marginkit.comparison.alignment import Aligned, align
from marginkit.comparison.bootstrap import intervals
from marginkit.comparison.columns import ColumnComparison, cut
from marginkit.comparison.decided import Decided, decided
from marginkit.comparison.flags import Flag, pair_flags, table_flags
from marginkit.comparison.hypothesis_tests import holm
from marginkit.comparison.layers import Faithfulness, Signature, faithfulness, signatures
from marginkit.comparison.radii import RobustAccuracy, at_radii
from marginkit.comparison.samples import ClassRow, Sample, by_class, notable
from marginkit.comparison.settings import Settings
from marginkit.kinds import Kind
from marginkit.table.attacks import Attacked, attacked
from marginkit.table.notebook import cell, html_table
from marginkit.table.reading import read
from marginkit.table.summary import accuracy
from marginkit.table.table import MarginTable

Pair = tuple[float, float]


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
    only: tuple[int, ...]
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

    def _repr_html_(self) -> str:
        """For notebooks: a row a column that bounds something."""
        title = (
            f"{self.other} (B) against {self.baseline} (A), {self.n} samples, accuracy {self.accuracy[0]:.1%}"
            f" and {self.accuracy[1]:.1%}"
        )
        headings = ("column", "mean A", "mean B", "B - A", "95 % from", "to", "p after Holm")
        rows = (
            (
                r.name,
                *map(cell, (*r.mean, r.difference, *r.interval)),
                "same" if r.adjusted is None else cell(r.adjusted),
            )
            for r in self.bounding
        )
        return html_table(title, headings, rows)

    @property
    def bounding(self) -> list[ColumnComparison]:
        """The columns that bound the distance at the input, in units that mean something."""
        return [row for row in self.columns if row.bounding]


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
    tables = [t if isinstance(t, MarginTable) else read(located(t)) for t in (baseline, other)]
    return compare_all([align(labels, tables)], settings)[0]


def compare_all(pairs: Sequence[Aligned], settings: Settings | None = None) -> list[Comparison]:
    """Compares each pair's second table with its first; all p-values are adjusted together (Holm).

    Raises:
        UsageError: a setting is given for a norm in which no pair has distances at the input.
    """
    settings = settings or Settings()
    settings.require_norms({norm for pair in pairs for norm in pair.norms})
    return _adjusted([_compare(pair, settings) for pair in pairs])


def _compare(pair: Aligned, settings: Settings) -> Comparison:
    a, b = pair.tables
    cuts = [cut(pair, name, settings.taus) for name in pair.shared]
    robust = [
        r for norm, both in pair.brackets.items() for r in at_radii(norm, both, settings.radii.get(norm))
    ]
    found = intervals(np.column_stack([c.delta for c in cuts]), settings.seed)
    columns = [
        of_columns.describe(c, i, settings.ropes.get(c.a.norm, 0.0)) for c, i in zip(cuts, found, strict=True)
    ]
    taus = {norm: _tau(norm, columns) for norm in pair.searched()}
    brackets = tuple(decided(n, *both) for n, both in pair.brackets.items() if any(e.certified for e in both))
    faithful = tuple(faithfulness(pair))
    return Comparison(
        baseline=pair.labels[0],
        other=pair.labels[1],
        n=len(pair),
        only=pair.only,
        accuracy=(accuracy(a), accuracy(b)),
        columns=tuple(columns),
        robust=tuple(of_radii.describe(r) for r in robust),
        brackets=brackets,
        faithfulness=faithful,
        classes=tuple(row for norm, tau in taus.items() for row in by_class(norm, pair, tau)),
        samples=tuple(row for norm, tau in taus.items() for row in notable(norm, pair, tau)),
        signatures=(tuple(signatures(a)), tuple(signatures(b))),
        attacks=(tuple(attacked(a, pair.shared)), tuple(attacked(b, pair.shared))),
        left_out=pair.left_out,
        flags=(
            *table_flags(a, pair.labels[0]),
            *table_flags(b, pair.labels[1]),
            *pair_flags(columns, faithful, len(pair), pair.labels[1]),
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
    searches = (c for c in columns if c.norm == norm and c.bounding and c.kind in (Kind.UPPER, Kind.EXACT))
    return min((c.tau for c in searches if c.n), default=np.inf)

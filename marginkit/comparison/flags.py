"""What a reader should know before believing a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from marginkit.comparison.columns import ColumnComparison
from marginkit.comparison.decided import Decided
from marginkit.comparison.layers import Faithfulness
from marginkit.kinds import Kind, Status
from marginkit.table.brackets import limit
from marginkit.table.table import MarginTable
from marginkit.table.verdicts import verdicts

FEW = 30
OFTEN = 0.01
DOUBTFUL = (Status.EXHAUSTED, Status.NONFINITE, Status.UNSUPPORTED, Status.TIMEOUT, Status.ZERO_GRADIENT)


@dataclass(frozen=True)
class Flag:
    """A doubt about the measurements: a code for machines, a sentence for people."""

    code: str
    text: str


def table_flags(table: MarginTable, label: str) -> Iterator[Flag]:
    """Doubts about one table."""
    n = max(len(table), 1)
    if not table.complete:
        yield Flag("incomplete", f"{label} is incomplete: not every sample asked for was measured.")
    for column in table.columns:
        for status in DOUBTFUL:
            if status is Status.EXHAUSTED and limit(column) is not None:
                continue  # within its radii an attack is meant to fail
            share = float((column.status == status).sum()) / n
            if share > OFTEN or (share and status is Status.NONFINITE):
                yield Flag(status.name.lower(), f"{label}: {column.name} is {status.name} on {share:.1%}.")
    yield from (Flag(v.check, f"{label}: {v.text}") for v in verdicts(table.meta) if v.raised)


def pair_flags(
    columns: Sequence[ColumnComparison],
    brackets: Sequence[Decided],
    faithful: Sequence[Faithfulness],
    n: int,
    other: str,
) -> Iterator[Flag]:
    """Doubts about the comparison of a table, `other`, with the baseline."""
    if n < FEW:
        yield Flag(
            "few-samples",
            f"{other} shares only {n} samples with the baseline: intervals of so few are rough.",
        )
    for row in columns:
        low, high = row.extremes
        if row.kind is not Kind.ESTIMATE and low < 0 < high and row.difference:
            yield Flag(
                "exhausted-decides",
                f"{other}: {row.name}: what the exhausted searches missed could turn the difference round"
                f" (from {low:.3g} to {high:.3g}).",
            )
    for found in brackets:
        if any(found.contradictions):
            yield Flag(
                "contradiction",
                f"{other}: {found.norm}: adversarial inputs were found inside certified radii"
                f" ({found.contradictions[0]} in A, {found.contradictions[1]} in B): a method is wrong.",
            )
    for line in faithful:
        if line.layer == line.against and min(line.spearman) < 0.5:
            yield Flag(
                "unfaithful-first-order",
                f"{other}: first_order.{line.norm}.{line.layer} hardly ranks samples as distances found there"
                f" (rank correlations {line.spearman[0]:.2f}, {line.spearman[1]:.2f}).",
            )

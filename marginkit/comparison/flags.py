"""What a reader should know before believing a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from marginkit.comparison.columns import ColumnComparison
from marginkit.comparison.hypothesis_tests import above_chance
from marginkit.comparison.layers import Faithfulness
from marginkit.kinds import NORM_NAMES, Kind, Status
from marginkit.table.brackets import contradictory, ends, limit, norms
from marginkit.table.summary import accuracy
from marginkit.table.table import Column, MarginTable
from marginkit.table.verdicts import verdicts

FEW = 30
OFTEN = 0.01
RANKS = 0.5
SIGNIFICANT = 0.05
DOUBTFUL = (
    Status.EXHAUSTED,
    Status.NONFINITE,
    Status.UNSUPPORTED,
    Status.TIMEOUT,
    Status.ZERO_GRADIENT,
    Status.FAILED,
)
NEVER = (Status.NONFINITE, Status.FAILED)  # one sample is a doubt


@dataclass(frozen=True)
class Flag:
    """A doubt about the measurements: a code for machines, a sentence for people."""

    code: str
    text: str


def table_flags(table: MarginTable, label: str) -> Iterator[Flag]:
    """Doubts about one table."""
    if not table.complete:
        yield Flag("incomplete", f"{label} is incomplete: not every sample asked for was measured.")
    yield from _chance(table, label)
    for column in table.columns:
        yield from _statuses(column, f"{label}: {column.name}")
    for norm in norms(table, [column.name for column in table.columns]):
        if wrong := int(contradictory(ends(table, norm)).sum()):
            yield Flag(
                "contradiction",
                f"{label}: {norm}: adversarial inputs were found inside certified radii on {wrong} samples: a"
                " method is wrong.",
            )
    yield from _checks(table, label)


def _chance(table: MarginTable, label: str) -> Iterator[Flag]:
    """Raised where the accuracy is not above chance, unless so few samples could not show it."""
    n, classes = len(table), max(2, len(np.unique(table.label)))
    right = int((table.predicted == table.label).sum())
    telling = above_chance(n, n, classes) < SIGNIFICANT
    if n and (right * classes <= n or (telling and above_chance(right, n, classes) >= SIGNIFICANT)):
        yield Flag(
            "at-chance",
            f"{label}: an accuracy of {accuracy(table):.1%} on {n} samples is not above chance, which is"
            f" {1 / classes:.1%} for {classes} classes: look at the labels, the preprocessing and the"
            " checkpoint; distances of a model that knows nothing say nothing.",
        )


def _statuses(column: Column, what: str) -> Iterator[Flag]:
    n = max(len(column.status), 1)
    for status in DOUBTFUL:
        if status is Status.EXHAUSTED and limit(column) is not None:
            continue  # within its radii an attack is meant to fail
        if status is Status.UNSUPPORTED and column.norm not in NORM_NAMES:
            continue  # most methods have no answer in L0, and say so
        share = float((column.status == status).sum()) / n
        if share > OFTEN or (share and status in NEVER):
            yield Flag(status.name.lower(), f"{what} is {status.name} on {share:.1%}.")
    if unknown := int((np.isnan(column.distance) & ~np.isin(column.status, DOUBTFUL)).sum()):
        yield Flag("unknown", f"{what} has no number on {unknown} samples, and no status says why.")


def _checks(table: MarginTable, label: str) -> Iterator[Flag]:
    """What the checks doubt; those that crashed in the same way, together."""
    raised = [verdict for verdict in verdicts(table.provenance) if verdict.raised]
    yield from (Flag(v.check, f"{label}: {v.text}") for v in raised if not v.crashed)
    for error in dict.fromkeys(v.note for v in raised if v.crashed):
        names = [v.check for v in raised if v.crashed and v.note == error]
        yield Flag(
            "check-failed",
            f"{label}: {', '.join(names)}: the check gave no answer ({error or 'no reason is told'}), so that"
            " nobody knows whether the measurement can be believed there.",
        )


def few_samples(n: int, what: str) -> Iterator[Flag]:
    """Raised where fewer than 30 samples are compared."""
    if n < FEW:
        yield Flag(
            "few-samples", f"{what} only {n} samples with the baseline: intervals of so few are rough."
        )


def pair_flags(
    columns: Sequence[ColumnComparison], faithful: Sequence[Faithfulness], n: int, other: str
) -> Iterator[Flag]:
    """Doubts about the comparison of a table, `other`, with the baseline."""
    yield from few_samples(n, f"{other} shares")
    for row in columns:
        low, high = row.extremes
        if row.kind is not Kind.ESTIMATE and low < 0 < high and row.difference:
            yield Flag(
                "exhausted-decides",
                f"{other}: {row.name}: what the exhausted searches missed could turn the difference round"
                f" (from {low:.3g} to {high:.3g}).",
            )
    for line in faithful:
        if line.layer == line.against and any(rank < RANKS for rank in line.spearman):
            yield Flag(
                "unfaithful-first-order",
                f"{other}: first_order.{line.norm}.{line.layer} hardly ranks samples as distances found there"
                f" (rank correlations {line.spearman[0]:.2f}, {line.spearman[1]:.2f}).",
            )

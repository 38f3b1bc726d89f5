"""What a terminal shows of everything: as wide as it is, and readable without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import RenderableType

from marginkit.comparison.compare import Comparison
from marginkit.comparison.flags import Flag, table_flags
from marginkit.comparison.groups import GroupComparison
from marginkit.comparison.standing import of_table
from marginkit.comparison.summary import figures
from marginkit.kinds import Status
from marginkit.report import rows as of
from marginkit.report.rows import Rows, number, of_groups
from marginkit.report.sheet import Sheet
from marginkit.table.brackets import DECIDED
from marginkit.table.table import Column, MarginTable


def overview(comparison: Comparison) -> Iterator[RenderableType]:
    """Tables at most 80 columns wide, each with a heading; all numbers are for the shared samples."""
    c = comparison
    yield f"A (baseline): {c.baseline}\nB:            {c.other}"
    yield f"{c.n} samples in both; accuracy A {c.accuracy[0]:.2%}, B {c.accuracy[1]:.2%}"
    if any(c.only):
        yield f"left out: {c.only[0]} samples only in A, {c.only[1]} only in B"
    if c.left_out:
        yield f"left out: columns of one file only: {', '.join(c.left_out)}"
    for rows in of.of_comparison(c):
        yield from _shown(rows)
    yield from flags(c.flags)


def in_depth(comparison: Comparison) -> Iterator[RenderableType]:
    """The longer tables: layers and classes."""
    for rows in of.in_depth(comparison):
        yield from _shown(rows)


def group_overview(c: GroupComparison) -> Iterator[RenderableType]:
    """The table of two groups."""
    for letter, name, files, right in zip("AB", (c.baseline, c.other), c.files, c.accuracy, strict=True):
        yield f"{letter}: {name}, {len(files)} models, accuracy {np.mean(right):.2%}: {', '.join(files)}"
    yield f"{c.n} samples in all"
    for rows in of_groups(c):
        yield from _shown(rows)


def several(comparisons: Sequence[Comparison]) -> Iterator[RenderableType]:
    """The table against the baseline."""
    yield from _shown(of.against_baseline(comparisons))


def flags(found: Sequence[Flag]) -> Iterator[RenderableType]:
    """The doubts, if any."""
    if found:
        yield "\nBefore you believe it:"
        yield from (f"- {flag.text}" for flag in found)


def summary(table: MarginTable) -> Iterator[RenderableType]:
    """What was measured: a row a column."""
    found = figures(table)
    counted = ("ok", "misclassified", "exhausted")
    rows = [
        (name, _answer(name, column), number(column["median"]), *(str(column[key]) for key in counted))
        for name, column in found["columns"].items()
    ]
    yield f"{found['n']} samples, accuracy {found['accuracy']:.2%}"
    headings = ("column", "kind", "median", "ok", "misclassified", "exhausted")
    yield Sheet(Rows("", "", headings, tuple(rows)))
    yield from _shown(of.of_attacks(table))
    yield from _shown(of.of_brackets(table))
    if any(DECIDED in column.options for column in table.columns):
        yield from _shown(of.of_verified(of_table("model", table)))
    yield from filter(None, map(_others, table.columns))
    if lost := int((table.predicted < 0).sum()):
        yield f"on {lost} samples the model's scores are NaN or infinite"


def _answer(name: str, column: dict[str, Any]) -> str:
    """What its distances are: those of `exact` are exact where all brackets are closed, else one end."""
    return name.rpartition(".")[2] if column["unclosed"] else str(column["kind"])


def _others(column: Column) -> str:
    """How many samples have each status that the columns do not show, and why; empty where none."""
    shown = (Status.OK, Status.MISCLASSIFIED, Status.EXHAUSTED)
    counts = {status: int((column.status == status).sum()) for status in Status if status not in shown}
    words = ", ".join(f"{n} {status.name.lower().replace('_', ' ')}" for status, n in counts.items() if n)
    said = ", ".join(filter(None, (words, column.note)))
    return f"{column.name}: {said}" if said else ""


def contents(table: MarginTable) -> Iterator[RenderableType]:
    """What is in a file: provenance, columns, brackets and flags."""
    yield from _provenance(table)
    yield from summary(table)
    yield from doubts(table)


def doubts(table: MarginTable) -> Iterator[RenderableType]:
    """What to know before believing a table; nothing where there is no doubt."""
    yield from flags(list(table_flags(table, "the table")))


def _provenance(table: MarginTable) -> Iterator[str]:
    of = table.provenance
    yield f"data:    {of.dataset.name or 'unknown'} {of.dataset.split or ''}".rstrip()
    yield f"box:     {of.threat.low} to {of.threat.high}"
    yield f"model:   {of.checkpoint.file or 'unknown'} {(of.checkpoint.sha256 or '')[:12]}".rstrip()
    if of.command:
        yield f"command: {' '.join(of.command)}"


def _shown(rows: Rows) -> Iterator[RenderableType]:
    if rows.rows:
        yield ""
        yield rows.title
        if rows.note:
            yield f"({rows.note})"
        yield Sheet(rows)

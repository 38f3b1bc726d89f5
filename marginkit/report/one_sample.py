"""What every method says of one sample, in both tables: its bracket, method by method."""

from __future__ import annotations

from collections.abc import Sequence

from marginkit.comparison.samples import Sample
from marginkit.kinds import Status
from marginkit.report.rows import Rows, number
from marginkit.table.brackets import at_input
from marginkit.table.table import Column, MarginTable


def by_method(sample: Sample, tables: Sequence[MarginTable]) -> Rows:
    """A row a column in the sample's norm at the input: each table's distance, its status where not OK."""
    first = [c for c in tables[0].columns if c.norm == sample.norm and at_input(c)]
    there = [{c.name: c for c in table.columns} for table in tables]
    rows = [(c.name, str(c.kind), *(_said(named.get(c.name), sample.row) for named in there)) for c in first]
    return Rows("By method", "", ("column", "kind", "A", "B"), tuple(rows))


def _said(column: Column | None, row: int) -> str:
    if column is None:
        return "-"
    status = int(column.status[row])
    known = status < len(Status)
    word = "" if status == Status.OK else f" {Status(status).name.lower()}" if known else " ?"
    return f"{number(float(column.distance[row]))}{word}"

"""What a comparison looks like on a terminal, and in plain words. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from marginkit.compare import ColumnComparison, Comparison, ends, median
from marginkit.kinds import Kind, Status
from marginkit.table import MarginTable


def overview(comparison: Comparison) -> Iterator[RenderableType]:
    """Tables at most 80 columns wide, each with a heading; all numbers are for the shared samples."""
    c = comparison
    yield f"A (baseline): {c.baseline}\nB:            {c.other}"
    yield f"{c.n} samples in both; accuracy A {c.accuracy[0]:.2%}, B {c.accuracy[1]:.2%}"
    if any(c.only):
        yield f"left out: {c.only[0]} samples only in A, {c.only[1]} only in B"
    if c.left_out:
        yield f"left out: columns of one file only: {', '.join(c.left_out)}"

    rows = _table("column", "kind", "n", "wrong", "median A", "median B", "tau")
    for row in c.columns:
        wrong = "/".join(map(str, row.misclassified))
        rows.add_row(row.name, str(row.kind), str(row.n), wrong, *map(_number, (*row.median, row.tau)))
    yield from ("", "Distances; wrong: misclassified by A/by B", rows)

    rows = _table("column", "difference", "95 % interval", "win/tie/loss", "p")
    for row in c.columns:
        interval = f"[{row.interval[0]:.3g}, {row.interval[1]:.3g}]"
        p = "identical" if row.wilcoxon is None else f"{row.wilcoxon:.1e}"
        rows.add_row(row.name, f"{row.difference:.3g}", interval, f"{row.wins}/{row.ties}/{row.losses}", p)
    yield from ("", "Mean of min(d, tau), B minus A: paired bootstrap; Wilcoxon (Pratt's zeros)", rows)

    if c.robust:
        proved = any(point.certified for point in c.robust)
        rows = _table("norm", "radius", "A", "B", *(["certified A", "certified B"] if proved else []))
        for point in c.robust:
            shares = (point.baseline, point.other, *(point.certified or ()))
            rows.add_row(point.norm, _number(point.radius), *(f"{share:.1%}" for share in shares))
        yield from ("", "Robust accuracy: no search found an adversarial input within the radius", rows)
    if c.faithfulness:
        rows = _table("norm", "layer", "rank corr. A", "rank corr. B", "ratio A", "ratio B")
        for line in c.faithfulness:
            ranks = [f"{rank:.3f}" for rank in line.spearman]
            rows.add_row(line.norm, line.layer, *ranks, *map(_number, line.ratio))
        yield from ("", "First-order estimates against the distance found at the input", rows)


def sentences(comparison: Comparison) -> Iterator[str]:
    """Plain words that claim no more than the intervals do."""
    c = comparison
    for row in c.columns:
        if row.kind is not Kind.ESTIMATE:
            yield _sentence(row)
    yield "This compares two checkpoints, not two ways of training: that would take several seeds of each."


def figures(table: MarginTable) -> dict[str, Any]:
    """What `summary` shows, for machines."""
    columns = {
        column.name: {
            "kind": str(column.kind),
            "median": median(column.distance),
            **{status.name.lower(): int((column.status == status).sum()) for status in Status},
        }
        for column in table.columns
    }
    accuracy = float((table.predicted == table.label).mean())
    return {"n": len(table), "accuracy": accuracy, "columns": columns, "brackets": _brackets(table)}


def _brackets(table: MarginTable) -> dict[str, dict[str, float]]:
    """For each norm with proofs and searches: the median ends, and the median share lower / upper."""
    found = {}
    for norm in dict.fromkeys(column.norm for column in table.columns):
        lower, upper = ends(table, norm, [column.name for column in table.columns])
        if lower is None or upper is None:
            continue
        right = np.isfinite(upper) & (upper > 0)
        share = median(lower[right] / upper[right])
        found[norm] = {"proved": median(lower[right]), "found": median(upper[right]), "closed": share}
    return found


def summary(table: MarginTable) -> Iterator[RenderableType]:
    """What was measured: a row a column."""
    found = figures(table)
    rows = _table("column", "kind", "median", "ok", "misclassified", "exhausted")
    for name, column in found["columns"].items():
        counts = [str(column[key]) for key in ("ok", "misclassified", "exhausted")]
        rows.add_row(name, column["kind"], _number(column["median"]), *counts)
    yield from (f"{found['n']} samples, accuracy {found['accuracy']:.2%}", rows)
    if found["brackets"]:
        rows = _table("norm", "median proved", "median found", "closed")
        for norm, bracket in found["brackets"].items():
            ends_ = (_number(bracket["proved"]), _number(bracket["found"]))
            rows.add_row(norm, *ends_, f"{bracket['closed']:.1%}")
        yield from (
            "",
            "Brackets where a search found something; closed: median of proved / found",
            rows,
        )
    yield from (f"{column.name}: unsupported, {column.note}" for column in table.columns if column.note)


def _sentence(row: ColumnComparison) -> str:
    low, high = row.interval
    if row.wilcoxon is None:
        return f"{row.name}: the two models' distances are identical."
    verb = "larger" if low > 0 else "smaller" if high < 0 else None
    numbers = f"{_number(row.mean[0])} for A, {_number(row.mean[1])} for B"
    if verb is None:
        return (
            f"{row.name}: no difference is established (mean distance {numbers}; the interval"
            f" [{_number(low)}, {_number(high)}] holds 0)."
        )
    share = f" ({row.difference / row.mean[0]:+.0%})" if row.mean[0] > 0 else ""
    won = f"farther on {row.wins} of {row.n} samples"
    return f"{row.name}: B's distances are {verb} on average: {numbers}{share}; {won}."


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")
    return table


def _number(value: float) -> str:
    return f"{value:.4g}"

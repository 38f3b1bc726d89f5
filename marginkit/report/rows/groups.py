"""Two groups of models."""

from __future__ import annotations

from collections.abc import Iterator

from marginkit.comparison.groups import GroupColumn, GroupComparison, GroupRobust
from marginkit.report.rows.cells import Rows, interval, number, p_value, percent, percents


def of_groups(c: GroupComparison) -> Iterator[Rows]:
    """Two groups of models."""
    note = (
        "95 %: cluster bootstrap over models and samples; p: Welch's t-test on the models' means, after Holm"
    )
    yield Rows(
        f"{c.other} (B) minus {c.baseline} (A): {len(c.files[1])} and {len(c.files[0])} models",
        note,
        ("column", "mean A", "mean B", "difference", "95 %", "p"),
        tuple(
            (r.name, *map(number, r.mean), number(r.difference, 3), interval(r.interval), _welch(r))
            for r in c.columns
        ),
    )
    if c.robust:
        yield Rows(
            "Robust accuracy of the groups",
            f"found, certified: as for two tables; {note}",
            ("norm", "radius", "end", "A", "B", "B - A, 95 %", "p"),
            tuple(
                (r.norm, number(r.radius), r.end, *map(percent, r.mean), percents(r.interval), _welch(r))
                for r in c.robust
            ),
        )


def _welch(row: GroupColumn | GroupRobust) -> str:
    return "-" if row.welch is None else p_value(row.adjusted)

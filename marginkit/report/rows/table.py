"""One table: attacks and brackets."""

from __future__ import annotations

import numpy as np

from marginkit.report.rows.cells import Rows, number, percent
from marginkit.report.rows.comparison import ATTACKS
from marginkit.table.attacks import attacked
from marginkit.table.brackets import closed, ends, norms, robust
from marginkit.table.summary import median
from marginkit.table.table import MarginTable


def of_attacks(table: MarginTable) -> Rows:
    """Of one table."""
    rows = ((a.name, number(a.radius), percent(a.robust), percent(a.zero_gradient)) for a in attacked(table))
    return Rows(*ATTACKS, ("attack", "eps", "robust", "stuck"), tuple(rows))


def of_brackets(table: MarginTable) -> Rows:
    """Of one table: what all methods together know, where there are proofs."""
    rows = []
    for norm in norms(table, [column.name for column in table.columns]):
        known = ends(table, norm)
        if known.certified and known.searched:
            middle = np.array([median(known.upper)])
            shares = [percent(float(robust(end, middle)[0])) for end in (known.lower, known.upper)]
            row = (number(median(known.lower)), number(middle[0]), percent(closed(known)), *shares)
            rows.append((norm, *row))
    return Rows(
        "Brackets: the distance is at least what is certified, at most what was found",
        "closed: median of certified / found; the last two: share of samples certified, and not broken, at"
        " the median found",
        ("norm", "median certified", "median found", "closed", "certified", "unbroken"),
        tuple(rows),
    )

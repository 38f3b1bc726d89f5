"""Robust accuracy as three shares: proved, broken, and what nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

from marginkit.comparison.standing import Standing
from marginkit.report.rows.cells import Rows, number, percent


def of_verified(standings: Sequence[Standing]) -> Rows:
    """A row a model, norm and radius at which something is proved; no rows where nothing is."""
    rows = [
        (
            s.model,
            s.norm,
            number(r.radius, 3),
            *map(percent, (r.certified, 1 - r.found, r.found - r.certified)),
        )
        for s in standings
        for r in s.robust
        if r.certified is not None and r.found is not None
    ]
    return Rows(
        "Verified, attacked, open",
        "verified: proved to be right and to stay so within the radius; attacked: wrong, or an adversarial"
        " input was found; open: neither, so that nobody knows; the three add up to all samples",
        ("model", "norm", "radius", "verified", "attacked", "open"),
        tuple(rows),
    )

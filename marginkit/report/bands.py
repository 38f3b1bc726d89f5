"""Robust accuracy as the band between what is certified and what no search broke."""

from __future__ import annotations

from marginkit.statistics.radii import RobustAccuracy

Band = tuple[float, float]


def bands(robust: tuple[RobustAccuracy, ...]) -> list[tuple[str, float, Band, Band, Band]]:
    """Norm, radius, the true shares' bands of the baseline and the other, and of the difference.

    Where both ends are known in both models: certified <= true robust accuracy <= found.
    """
    ends = {(r.norm, r.radius, r.end): r for r in robust}
    rows = []
    for (norm, radius, end), found in ends.items():
        proved = ends.get((norm, radius, "certified"))
        if end == "found" and proved is not None:
            a, b = (proved.baseline, found.baseline), (proved.other, found.other)
            rows.append((norm, radius, a, b, (b[0] - a[1], b[1] - a[0])))
    return rows

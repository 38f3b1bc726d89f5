"""The first table: a row a model and norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from marginkit.comparison.standing import AtRadius, Standing
from marginkit.report.rows.cells import Rows, number, percent

FOUND = "found: how large a change fooled the model (median)."
PROVED = "found: how large a change fooled the model; proved: no smaller one can (medians)."


def of_standings(standings: Sequence[Standing], names: Sequence[str] | None = None) -> Rows:
    """Accuracy, medians of distances, robust accuracy at two radii; columns that nobody has are left out.

    Args:
        standings: the figures.
        names: what to call each one's model, where not by its name.
    """
    standings = [replace(s, robust=(*s.robust[:1], *s.robust[1:][-1:])) for s in standings]
    bounded = any(s.norm for s in standings)
    proved = any(s.certified is not None for s in standings)
    columns = [("model", list(names or (s.model for s in standings)))]
    columns.append(("accuracy", [percent(s.accuracy) for s in standings]))
    if bounded:
        columns.append(("norm", [s.norm for s in standings]))
        columns.append(("found", [number(s.found, 3) for s in standings]))
        columns += [("proved", [number(s.certified, 3) for s in standings])] if proved else []
        columns.append(("robust accuracy", [", ".join(map(at_radius, s.robust)) or "-" for s in standings]))
    headings, cells = zip(*columns, strict=True)
    return Rows(
        "In short",
        _legend(standings, proved) if bounded else "",
        tuple(headings),
        tuple(zip(*cells, strict=True)),
    )


def _legend(standings: Sequence[Standing], proved: bool) -> str:
    """How to read it, by an entry of the table itself."""
    told = [at for s in standings for at in s.robust]
    at = next((at for at in told if "-" in at_radius(at)), told[0] if told else None)
    lines = [PROVED if proved else FOUND]
    if at is not None:
        share = "at least so many by proof, at most so many by attack," if "-" in at_radius(at) else "so many"
        lines.append(f"robust accuracy {at_radius(at)}: {share} stay right under every change up to there.")
    return "\n".join(lines)


def at_radius(at: AtRadius) -> str:
    """`0.4: 73%`; `0.4: 50-73%` from proved to found, if they differ; `0.4: 50% proved` without a search."""
    if at.found is None:
        share = f"{at.certified:.0%} proved"
    elif at.certified is None or f"{at.certified:.0%}" == f"{at.found:.0%}":
        share = f"{at.found:.0%}"
    else:
        share = f"{100 * at.certified:.0f}-{at.found:.0%}"
    return f"{at.radius:.3g}: {share}"

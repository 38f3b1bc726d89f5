"""A distance that was found and is shorter than one that was proved: one of the two is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marginkit.events import Failed, OnEvent
from marginkit.kinds import Kind, Status
from marginkit.methods.certify.faithful import REPORT
from marginkit.table.brackets import ROUNDING, has_end
from marginkit.table.table import Column


def without_contradicted(columns: Sequence[Column], on_event: OnEvent) -> list[Column]:
    """The columns of a batch; a method one of whose proofs reaches beyond a found distance is FAILED there.

    Args:
        columns: of all methods, in all norms.
        on_event: hears of each that failed.
    """
    found = list(columns)
    for norm in dict.fromkeys(column.norm for column in found):
        mine = [column for column in found if column.norm == norm]
        searches = [c for c in mine if has_end(c, "upper")]
        nearest = np.min([c.distance for c in searches], axis=0) if searches else np.inf
        for proof in (c for c in mine if has_end(c, "lower")):
            with np.errstate(invalid="ignore"):
                above = np.flatnonzero(proof.distance > nearest * (1 + ROUNDING) + 1e-12)
            if len(above):
                shown = min(searches, key=lambda c: float(c.distance[above[0]]))
                note = (
                    f"{proof.method} proves {proof.distance[above[0]]:.6g} where {shown.method} found"
                    f" {shown.distance[above[0]]:.6g}: {REPORT}"
                )
                on_event(Failed(proof.method, norm, note))
                found = [_failed(c, note) if (c.method, c.norm) == (proof.method, norm) else c for c in found]
    return found


def _failed(column: Column, note: str) -> Column:
    proved = column.kind is Kind.LOWER or column.end == "lower"
    settled = np.isin(column.status, (Status.MISCLASSIFIED, Status.NONFINITE))
    nothing = np.where(settled, column.distance, 0.0 if proved else np.inf)
    witness = None if column.witness is None else np.full_like(column.witness, np.nan)
    return replace(
        column,
        distance=nothing,
        status=np.where(settled, column.status, int(Status.FAILED)).astype(column.status.dtype),
        rival=np.full_like(column.rival, -1),
        witness=witness,
        note=note,
    )

"""What a table knows of every sample, as `exact` takes it and leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from marginkit.kinds import INPUT, Kind, Status
from marginkit.methods.exact import Exact
from marginkit.table.brackets import ends, has_end
from marginkit.table.table import Column, MarginTable
from marginkit.types import Bracket, Threat

SETTLED = (Status.MISCLASSIFIED, Status.NONFINITE)


@dataclass(eq=False)
class Known:
    """What is known of all samples in one norm; changed in place as the work goes on.

    Attributes:
        threat: with that norm.
        lower, upper, status, rival: as in `Bracket`.
        witness: [n, *d] float64, NaN where none is known.
        note: why `exact` does not apply to the model; else empty.
    """

    threat: Threat
    lower: np.ndarray
    upper: np.ndarray
    status: np.ndarray
    rival: np.ndarray
    witness: np.ndarray
    note: str = ""

    @staticmethod
    def of(table: MarginTable, threat: Threat, shape: tuple[int, ...]) -> Known:
        """The intersection of all the table's brackets in the threat's norm, and the nearest witness kept."""
        norm, n = threat.norm.name, len(table)
        found = ends(table, norm)
        rival, witness = np.full(n, -1), np.full((n, *shape), np.nan)
        for column in (c for c in table.columns if c.norm == norm and has_end(c, "upper")):
            best = column.distance == found.upper
            rival[best] = column.rival[best]
            if column.witness is not None:
                witness[best] = column.witness[best]
        status = np.where(table.predicted == table.label, int(Status.TIMEOUT), int(Status.MISCLASSIFIED))
        wrong = status == Status.MISCLASSIFIED
        lower, upper = (np.where(wrong, 0.0, end) for end in (found.lower, found.upper))
        return Known(threat, lower, upper, status, rival, witness)

    def open(self, tolerance: float) -> np.ndarray:
        """Which brackets are not closed."""
        with np.errstate(invalid="ignore"):
            near = np.isfinite(self.upper) & (self.upper - self.lower <= tolerance * self.upper)
        return np.asarray(~(near | (self.lower == self.upper)) & ~np.isin(self.status, SETTLED))

    def bracket(self, rows: list[int]) -> Bracket:
        """Of some samples."""
        parts = (self.lower, self.upper, self.status, self.rival, self.witness)
        lower, upper, status, rival, witness = (torch.from_numpy(part[rows]) for part in parts)
        return Bracket(lower, upper, status, rival, witness)

    def blank(self) -> np.ndarray:
        """Which samples lack a proof or a witness."""
        return np.asarray((self.lower <= 0) | np.isnan(self.witness.reshape(len(self.lower), -1)).any(1))

    def keep(self, rows: list[int], found: Bracket) -> None:
        """Takes narrower brackets over."""
        self.lower[rows] = np.maximum(self.lower[rows], found.lower.cpu().numpy())
        self.upper[rows] = np.minimum(self.upper[rows], found.upper.cpu().numpy())
        self.lower[rows] = np.minimum(self.lower[rows], self.upper[rows])
        self.status[rows], self.rival[rows] = found.status.cpu().numpy(), found.rival.cpu().numpy()
        assert found.witness is not None
        self.witness[rows] = found.witness.double().cpu().numpy()
        self.note = found.note

    def columns(self, options: dict[str, Any], origin: np.ndarray | None) -> list[Column]:
        """Both ends; with the witnesses where the inputs were kept and the upper end is theirs."""
        undone = Status.UNSUPPORTED if self.note else Status.TIMEOUT
        status = np.where(self.open(Exact().tolerance), int(undone), int(Status.OK))
        status = np.where(np.isin(self.status, SETTLED), self.status, status)
        witness = None
        if origin is not None:
            witness = self.witness.astype(np.float32)
            moved = (witness.astype(float) - origin).reshape(len(origin), -1)
            farther = np.linalg.norm(moved, self.threat.norm.p, axis=1) > self.upper * (1 + 1e-5)
            witness[farther & (self.upper > 0)] = np.nan
        about = ("exact", self.threat.norm.name, INPUT, Kind.EXACT, options)
        parts = (status.astype(np.uint8), self.rival.astype(np.int32))
        return [
            Column(*about, self.lower.copy(), *parts, None, self.note, end="lower"),
            Column(*about, self.upper.copy(), *parts, witness, self.note, end="upper"),
        ]

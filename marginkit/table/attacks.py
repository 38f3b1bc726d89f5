"""What attacks at given radii left standing, each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from marginkit.kinds import Status
from marginkit.table.brackets import LIMIT, limit
from marginkit.table.summary import mean
from marginkit.table.table import MarginTable


@dataclass(frozen=True)
class Attacked:
    """One attack at one radius on one model.

    Attributes:
        name, norm: of the column.
        radius: eps, in raw input units.
        robust: the share of samples that are classified correctly and on which it failed at every radius up
            to this one.
        zero_gradient: the share on which it failed and its gradient at the input was exactly zero: where it
            is large, `robust` means nothing.
    """

    name: str
    norm: str
    radius: float
    robust: float
    zero_gradient: float


def attacked(table: MarginTable, among: Iterable[str] | None = None) -> Iterator[Attacked]:
    """Every attack at every radius, of the named columns only where `among` is given."""
    chosen = None if among is None else set(among)
    for column in table.columns:
        if limit(column) is None or (chosen is not None and column.name not in chosen):
            continue
        for radius in sorted(np.atleast_1d(column.options[LIMIT]).tolist()):
            robust, stuck = column.distance > radius, column.status == Status.ZERO_GRADIENT
            yield Attacked(column.name, column.norm, radius, mean(robust), mean(stuck))


def record(table: MarginTable) -> dict[str, Any]:
    """What a file's `meta` says of its attacks; nothing where it has none."""
    rows = [asdict(row) for row in attacked(table)]
    return {"robust_accuracy": rows} if rows else {}

"""What no measurement can have produced is not read from a file either. Imports no torch."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.kinds import DISTANCE_NAMES, Kind, Status
from marginkit.table.schema import present
from marginkit.table.table import Column, MarginTable

LONGEST = 1000  # of a name
CONTROLS = ("Cc", "Zl", "Zp")  # characters that no name has: escapes, line ends


def require_sensible(table: MarginTable, path: Path) -> MarginTable:
    """The table, if it says nothing impossible.

    Raises:
        MarginkitError: a name that is none, a status that does not exist, a distance below 0 or NaN without
            a reason, or two columns of one name; the file and place are named.
    """
    _require_least(table, str(path))
    for column in table.columns:
        _check(column, path)
    names = [column.name for column in table.columns]
    if twice := {name for name in names if names.count(name) > 1}:
        raise MarginkitError(f"{path} has two columns {min(twice)!r}; expected one")
    return table


def _check(column: Column, path: Path) -> None:
    for name in ("method", "norm", "layer"):
        given = getattr(column, name)
        if not 0 < len(given) <= LONGEST or any(unicodedata.category(c) in CONTROLS for c in given):
            raise MarginkitError(f"{path}: a column's {name} is {given[:40]!r}; expected a name")
    where = f"{path}: {column.name}"
    if column.norm not in DISTANCE_NAMES:
        raise MarginkitError(f"{where} has norm {column.norm!r}; expected one of {', '.join(DISTANCE_NAMES)}")
    if unknown := set(np.unique(column.status).tolist()) - {int(status) for status in Status}:
        raise MarginkitError(
            f"{where} has the status {min(unknown)}; expected {min(Status)} to {max(Status)}"
        )
    _require_least(column, where)
    if np.isnan(column.distance[column.status == Status.OK]).any():
        raise MarginkitError(f"{where} has NaN with status OK; expected a distance")
    if column.kind is not Kind.ESTIMATE and (column.distance < 0).any():
        raise MarginkitError(f"{where} has the distance {np.nanmin(column.distance):g}; expected 0 or more")
    if not _radii(column.options.get("eps")):
        raise MarginkitError(f"{where} has eps = {str(column.options['eps'])[:40]!r}; expected radii above 0")


def _radii(given: Any) -> bool:
    values = given if isinstance(given, list) else [] if given is None else [given]
    return given != [] and all(_number(value) and value > 0 for value in values)


def _require_least(holder: MarginTable | Column, where: str) -> None:
    for spec, values in present(holder):
        if spec.least is not None and values.size and values.min() < spec.least:
            raise MarginkitError(f"{where}: {spec.name} has {values.min()}; expected {spec.least} or more")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

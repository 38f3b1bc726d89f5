"""What no measurement can have produced is not read from a file either. Imports no torch."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status
from marginkit.table.table import Column, MarginTable

NORMS = ("l1", "l2", "linf")
LONGEST = 1000  # of a name
CONTROLS = ("Cc", "Zl", "Zp")  # characters that no name has: escapes, line ends
OBJECTS = ("dataset", "threat", "checkpoint", "activation_variance")  # of meta


def require_sensible(table: MarginTable, path: Path) -> MarginTable:
    """The table, if it says nothing impossible.

    Raises:
        MarginkitError: a name that is none, a status that does not exist, a distance below 0 or NaN without
            a reason, two columns of one name, or provenance of another form; the file and place are named.
    """
    for name, least in (("index", 0), ("label", 0), ("predicted", -1)):  # -1 where scores are not finite
        if (values := getattr(table, name)).size and values.min() < least:
            raise MarginkitError(f"{path}: {name} has {values.min()}; expected {least} or more")
    for column in table.columns:
        _check(column, path)
    names = [column.name for column in table.columns]
    if twice := {name for name in names if names.count(name) > 1}:
        raise MarginkitError(f"{path} has two columns {min(twice)!r}; expected one")
    _check_meta(table.meta, path)
    return table


def _check(column: Column, path: Path) -> None:
    for name in ("method", "norm", "layer"):
        given = getattr(column, name)
        if not 0 < len(given) <= LONGEST or any(unicodedata.category(c) in CONTROLS for c in given):
            raise MarginkitError(f"{path}: a column's {name} is {given[:40]!r}; expected a name")
    where = f"{path}: {column.name}"
    if column.norm not in NORMS:
        raise MarginkitError(f"{where} has norm {column.norm!r}; expected one of {', '.join(NORMS)}")
    if unknown := set(np.unique(column.status).tolist()) - {int(status) for status in Status}:
        raise MarginkitError(
            f"{where} has the status {min(unknown)}; expected {min(Status)} to {max(Status)}"
        )
    if column.rival.size and column.rival.min() < -1:
        raise MarginkitError(f"{where} has the rival {column.rival.min()}; expected a class, or -1")
    if np.isnan(column.distance[column.status == Status.OK]).any():
        raise MarginkitError(f"{where} has NaN with status OK; expected a distance")
    if column.kind is not Kind.ESTIMATE and (column.distance < 0).any():
        raise MarginkitError(f"{where} has the distance {np.nanmin(column.distance):g}; expected 0 or more")
    if not _radii(column.options.get("eps")):
        raise MarginkitError(f"{where} has eps = {str(column.options['eps'])[:40]!r}; expected radii above 0")


def _radii(given: Any) -> bool:
    values = given if isinstance(given, list) else [] if given is None else [given]
    return given != [] and all(_number(value) and value > 0 for value in values)


def _check_meta(meta: dict[str, Any], path: Path) -> None:
    for name in OBJECTS:
        if not isinstance(meta.get(name, {}), dict):
            raise MarginkitError(f"{path}: meta's {name} is {str(meta[name])[:40]!r}; expected an object")
    if not isinstance(meta.get("command", []), list):
        raise MarginkitError(f"{path}: meta's command is {str(meta['command'])[:40]!r}; expected a list")
    for layer, variance in meta.get("activation_variance", {}).items():
        if not _number(variance):
            raise MarginkitError(
                f"{path}: the variance of {layer[:40]!r} is {str(variance)[:40]!r}; expected a number"
            )
    for end in ("low", "high"):
        if not _number(given := meta.get("threat", {}).get(end) or 0.0) and not isinstance(given, list):
            raise MarginkitError(
                f"{path}: the box's {end} end is {str(given)[:40]!r}; expected a number or null"
            )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Which samples two tables share, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from marginkit.errors import IncompatibleError
from marginkit.table.table import MarginTable, names


def paired(tables: Sequence[MarginTable]) -> list[MarginTable]:
    """The tables' shared samples, in the same order.

    Samples are the same where their inputs are (by hash; the first of equal inputs with the first, and so
    on). Tables without hashes must be of one data set, and are paired by index.

    Raises:
        IncompatibleError: another data set, threat, labels, or options of a shared column; or no shared
            sample or column. The field and both values are named.
    """
    first, *others = tables
    for other in others:
        _require_alike(first, other)
    if _in_step(tables):
        return list(tables)
    keys = _keys(tables)
    shared = reduce(np.intersect1d, keys)
    if not len(shared):
        for other in others:
            _require_same_data(first, other)
        raise IncompatibleError(
            "the tables share no sample: measure the same part of the data set, prepared alike"
        )
    places = [_places(key, shared) for key in keys]
    in_order = np.argsort(first.index[places[0]], kind="stable")
    found = [table.rows(place[in_order]) for table, place in zip(tables, places, strict=True)]
    if any(not np.array_equal(found[0].label, table.label) for table in found):
        raise IncompatibleError("the tables give the same samples different labels")
    return found


def _require_alike(a: MarginTable, b: MarginTable) -> None:
    if a.hash is None or b.hash is None:
        _require_same_data(a, b)
    same("the threat", a.provenance.threat.plain(), b.provenance.threat.plain())
    shared = names([a, b])
    if not shared:
        raise IncompatibleError(f"the tables share no column: {_listed(a)} against {_listed(b)}")
    for name in shared:
        same(f"the kind of {name}", str(a[name].kind), str(b[name].kind))
        same(f"the options of {name}", a[name].measured_with, b[name].measured_with)


def _require_same_data(a: MarginTable, b: MarginTable) -> None:
    for field in ("fingerprint", "split", "name"):
        values = [getattr(table.provenance.dataset, field) for table in (a, b)]
        same(f"the data set's {field}", *values)


def same(what: str, a: Any, b: Any) -> None:
    """Refuses two values that differ, and names them."""
    if a != b:
        raise IncompatibleError(f"{what} differ: {a} against {b}; measure both models alike")


def _keys(tables: Sequence[MarginTable]) -> list[np.ndarray]:
    """What identifies each sample: its hash and how many equal inputs came before it, or its index."""
    hashes = [table.hash for table in tables if table.hash is not None]
    if len(hashes) < len(tables):
        return [table.index for table in tables]
    codes = np.unique(np.concatenate(hashes), return_inverse=True)[1]
    parts = np.split(codes, np.cumsum([len(table) for table in tables])[:-1])
    copies = [_copies(code, table.index) for code, table in zip(parts, tables, strict=True)]
    most = max((int(copy.max(initial=0)) for copy in copies), default=0) + 1
    return [code * most + copy for code, copy in zip(parts, copies, strict=True)]


def _copies(codes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """For each sample, how many of the same code have a smaller index."""
    order = np.lexsort((index, codes))
    position = np.arange(len(codes))
    new = np.r_[True, codes[order][1:] != codes[order][:-1]]
    found = np.empty(len(codes), np.int64)
    found[order] = position - np.maximum.accumulate(np.where(new, position, 0))
    return found


def _in_step(tables: Sequence[MarginTable]) -> bool:
    """Whether all have the same samples in the same order already."""
    first = tables[0]
    alike = all(np.array_equal(getattr(first, n), getattr(t, n)) for t in tables for n in ("index", "label"))
    return alike and all(t.hash is first.hash is None or _equal(t.hash, first.hash) for t in tables)


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _places(keys: np.ndarray, shared: np.ndarray) -> np.ndarray:
    order = np.argsort(keys)
    return np.asarray(order[np.searchsorted(keys[order], shared)])


def _listed(table: MarginTable) -> str:
    return ", ".join(column.name for column in table.columns) or "none"

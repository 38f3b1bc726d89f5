"""The shards of one measurement put together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from marginkit.errors import IncompatibleError
from marginkit.table.attacks import record
from marginkit.table.provenance import Meta, difference
from marginkit.table.reading import read
from marginkit.table.table import MarginTable
from marginkit.table.writing import BLOCK, write_tables

OWN = ("shard", "activation_variance", "robust_accuracy")  # what shards need not have in common


def merge(out: Path, paths: Sequence[Path]) -> MarginTable:
    """Writes the file that one run over all samples would have written.

    Args:
        out: the file to write.
        paths: every shard, in any order.

    Returns:
        The whole, without inputs and witnesses.

    Raises:
        IncompatibleError: a file is no shard, a shard is missing or given twice, samples are, or the
            shards' provenance or columns differ; the field is named.
        MarginkitError: a file can't be read or written.
    """
    tables = {path: read(path, light=True) for path in paths}
    ordered = _ordered(tables)
    first = tables[ordered[0]]
    for path in ordered[1:]:
        if found := difference(_common(ordered[0], first), _common(path, tables[path])):
            raise IncompatibleError(f"{ordered[0]} has {found.replace('this run has', f'{path} has')}")
    index = np.concatenate([tables[path].index for path in ordered])
    if "choice" in first.meta:
        wanted = first.meta["choice"].get("samples")
        if len(index) != wanted or not (np.diff(index) > 0).all():
            raise IncompatibleError(f"the shards have {len(index)} samples, not {wanted} in order")
    elif not np.array_equal(index, np.arange(len(index))):
        place = int((index != np.arange(len(index))).argmax())
        raise IncompatibleError(f"the shards have sample {index[place]} where {place} should be")
    meta = {key: value for key, value in first.meta.items() if key not in ("shard", "robust_accuracy")}
    return write_tables(_rows(tables, ordered), len(index), out, lambda whole: {**meta, **record(whole)})


def _ordered(tables: dict[Path, MarginTable]) -> list[Path]:
    """The shards' files in the order of their samples."""
    found: dict[int, Path] = {}
    counts = set()
    for path, table in tables.items():
        shard = table.meta.get("shard")
        if not (isinstance(shard, list) and len(shard) == 2 and all(isinstance(i, int) for i in shard)):
            raise IncompatibleError(f"{path} is no shard: give files that measure --shard I/N wrote")
        which, count = shard
        counts.add(count)
        if which in found:
            raise IncompatibleError(f"{found[which]} and {path} are both shard {which}/{count}")
        found[which] = path
    if len(counts) > 1:
        raise IncompatibleError(f"shards of {' and of '.join(map(str, sorted(counts)))}: merge one set")
    missing = sorted(set(range(1, counts.pop() + 1)) - set(found))
    if missing:
        raise IncompatibleError(f"shard {', '.join(map(str, missing))} is missing: give every shard")
    return [found[which] for which in sorted(found)]


def _common(path: Path, table: MarginTable) -> Meta:
    """What all shards of one measurement have in common."""
    columns = {c.name: {"kind": str(c.kind), **c.options} for c in table.columns}
    kept = {key: value for key, value in table.meta.items() if key not in OWN}
    keeps = read(path, slice(1)).input is not None
    return {**kept, "columns": columns, "order of columns": list(columns), "witnesses": keeps}


def _rows(tables: dict[Path, MarginTable], ordered: list[Path]) -> Iterator[MarginTable]:
    for path in ordered:
        for start in range(0, len(tables[path]), BLOCK):
            yield read(path, slice(start, start + BLOCK))

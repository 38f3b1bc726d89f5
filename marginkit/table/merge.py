"""The shards of one measurement put together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marginkit.errors import IncompatibleError
from marginkit.table.attacks import record
from marginkit.table.provenance import OWN, difference
from marginkit.table.reading import opened_table
from marginkit.table.records import Meta
from marginkit.table.table import MarginTable
from marginkit.table.writing import BLOCK, write_tables


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
    found = {path: _opened(path) for path in paths}
    ordered = _ordered({path: shard.table for path, shard in found.items()})
    first = found[ordered[0]]
    for path in ordered[1:]:
        if differs := difference(first.common, found[path].common):
            raise IncompatibleError(f"{ordered[0]} has {differs.replace('this run has', f'{path} has')}")
    index = np.concatenate([found[path].table.index for path in ordered])
    if (choice := first.table.provenance.choice) is not None:
        if len(index) != choice.samples or not (np.diff(index) > 0).all():
            raise IncompatibleError(f"the shards have {len(index)} samples, not {choice.samples} in order")
    elif not np.array_equal(index, np.arange(len(index))):
        place = int((index != np.arange(len(index))).argmax())
        raise IncompatibleError(f"the shards have sample {index[place]} where {place} should be")
    about = first.table.provenance.without(("shard", "robust_accuracy"))
    return write_tables(_rows(ordered), len(index), out, lambda whole: about.updated(record(whole)))


@dataclass(frozen=True)
class _Shard:
    """A shard without its inputs and witnesses, and what all shards of its measurement have in common."""

    table: MarginTable
    common: Meta


def _opened(path: Path) -> _Shard:
    with opened_table(path) as file:
        table = file.rows(light=True)
        columns = {c.name: {"kind": str(c.kind), **c.measured_with} for c in table.columns}
        kept = table.provenance.without(OWN).plain()
        names = {"columns": columns, "order of columns": list(columns), "witnesses": file.keeps_inputs}
    return _Shard(table, kept | names)


def _ordered(tables: dict[Path, MarginTable]) -> list[Path]:
    """The shards' files in the order of their samples."""
    found: dict[int, Path] = {}
    counts = set()
    for path, table in tables.items():
        if table.provenance.shard is None:
            raise IncompatibleError(f"{path} is no shard: give files that measure --shard I/N wrote")
        which, count = table.provenance.shard
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


def _rows(ordered: list[Path]) -> Iterator[MarginTable]:
    for path in ordered:
        with opened_table(path) as file:
            for start in range(0, len(file), BLOCK):
                yield file.rows(slice(start, start + BLOCK))

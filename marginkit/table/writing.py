"""Writes tables into one HDF5 file (docs/format.md), a block of rows at a time. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from marginkit.errors import MarginkitError
from marginkit.files.atomic import replacing
from marginkit.files.hdf5_sink import Unfailing, unfailing
from marginkit.kinds import Status
from marginkit.table.provenance import Provenance
from marginkit.table.schema import PerSample, Role, present
from marginkit.table.table import FORMAT, VERSION, Column, MarginTable

BLOCK = 1024  # rows in a chunk: whole chunks are written, each once


def write_tables(
    tables: Iterable[MarginTable],
    count: int,
    path: Path,
    describe: Callable[[MarginTable], Provenance],
) -> MarginTable:
    """Writes tables of the same columns as one, whole or not at all.

    Holds no more than a block of inputs and witnesses in memory. The bytes do not depend on how the rows
    are spread over tables.

    Args:
        tables: one after the other; at least one.
        count: their rows.
        path: of the file.
        describe: its provenance, from the whole.

    Returns:
        The whole, without inputs and witnesses.

    Raises:
        MarginkitError: the file can't be written.
    """
    with (
        replacing(path) as temporary,
        unfailing(temporary) as raw,
        h5py.File(raw, "w", track_order=True) as file,
    ):
        return _write(file, tables, count, describe, raw)


def _write(
    file: h5py.File,
    tables: Iterable[MarginTable],
    count: int,
    describe: Callable[[MarginTable], Provenance],
    raw: Unfailing,
) -> MarginTable:
    light: list[MarginTable] = []
    rows, start = _Rows(file, count), 0
    for block in _blocks(tables):
        end = start + len(block)
        rows.write(block, slice(start, end))
        light.append(block.light())
        start = end
        if raw.error is not None:
            break
    if start != count and raw.error is None:
        raise MarginkitError(f"{start} rows to write where {count} were announced")
    whole = light[0].join(light)
    for column in whole.columns:
        if column.note:
            file[_name(column)].attrs["note"] = column.note
    file.attrs.update(
        {
            "format": FORMAT,
            "version": VERSION,
            "Conventions": "CF-1.11",
            "complete": int(whole.complete),
            "meta": json.dumps(describe(whole).plain(), sort_keys=True),
        }
    )
    return whole


def _blocks(tables: Iterable[MarginTable]) -> Iterator[MarginTable]:
    """The same rows in tables of BLOCK rows, and a last one of the rest."""
    held: list[MarginTable] = []
    begun = False
    for table in tables:
        held.append(table)
        rows = sum(map(len, held))
        if rows < BLOCK:
            continue
        joined = held[0].join(held)
        full = rows - rows % BLOCK
        for start in range(0, full, BLOCK):
            yield joined.rows(slice(start, start + BLOCK))
        begun, held = True, [joined.rows(slice(full, None))] if rows > full else []
    if held or not begun:
        yield held[0].join(held)


class _Rows:
    """A file's datasets, each made when a block first has it."""

    def __init__(self, file: h5py.File, count: int) -> None:
        """Of so many rows."""
        self._file, self._count = file, count
        self._made: dict[str, PerSample] = {}
        self._scales = {"sample": _scale(file, "sample", count)}

    def write(self, block: MarginTable, rows: slice) -> None:
        """Puts a block in its place; a field that only some blocks have says nothing of the others' rows."""
        arrays = {name: (spec, values) for spec, name, values in _arrays(block)}
        new = {name: spec for name, (spec, _) in arrays.items() if name not in self._made}
        for name, spec in new.items():
            self._make(name, arrays[name][1])
            if rows.start:
                self._file[name][: rows.start] = spec.nothing
        for column in block.columns if not self._made else ():
            _describe(self._file, column)
        self._made |= new
        for name, spec in self._made.items():
            if rows.stop > rows.start:
                self._file[name][rows] = arrays[name][1] if name in arrays else spec.nothing

    def _make(self, name: str, values: np.ndarray) -> None:
        for axis, size in enumerate(values.shape[1:]):
            if f"axis{axis}" not in self._scales:
                self._scales[f"axis{axis}"] = _scale(self._file, f"axis{axis}", size)
        _dataset(self._file, name, (self._count, *values.shape[1:]), values.dtype, self._scales)


def _arrays(table: MarginTable) -> Iterator[tuple[PerSample, str, np.ndarray]]:
    """Every field, its dataset's name, and its rows, in the order of the file."""
    for holder, name in ((table, ""), *((column, _name(column)) for column in table.columns)):
        for spec, values in present(holder):
            yield spec, spec.named(name), values.astype(spec.dtype, copy=False)


def _describe(file: h5py.File, column: Column) -> None:
    """What holds for the whole column; the file has an end where the layer of others stands."""
    name = _name(column)
    about = {"kind": str(column.kind), "method": column.method, "norm": column.norm, "layer": column.place}
    file[name].attrs.update(about | {"options": json.dumps(column.options, sort_keys=True)})
    for spec, _ in present(column):
        if spec.role is Role.STATUS:
            status = file[spec.named(name)]
            status.attrs["flag_values"] = np.array([int(s) for s in Status], np.uint8)
            status.attrs["flag_meanings"] = " ".join(s.name for s in Status)


def _name(column: Column) -> str:
    """Of its dataset, where others are named after it."""
    return column.name.replace("/", "_")


def _scale(file: h5py.File, name: str, size: int) -> Any:
    scale = file.create_dataset(name, data=np.arange(size))
    scale.make_scale(name)
    return scale


def _dataset(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, scales: dict[str, Any]) -> None:
    chunks = (min(shape[0], BLOCK), *shape[1:]) if all(shape) else None
    packed = {"chunks": chunks, "compression": "gzip", "shuffle": True, "fletcher32": True} if chunks else {}
    dataset = file.create_dataset(name, shape, dtype, **packed)
    for axis in range(len(shape)):
        dataset.dims[axis].attach_scale(scales["sample" if axis == 0 else f"axis{axis - 1}"])


def write(table: MarginTable, path: str | Path) -> None:
    """Writes the table to `path`, whole or not at all."""
    write_tables([table], len(table), Path(path), lambda _: table.provenance)

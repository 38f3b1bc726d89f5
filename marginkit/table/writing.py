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
from marginkit.table.table import FORMAT, OPTIONAL, PER_SAMPLE, VERSION, Column, MarginTable

BLOCK = 1024  # rows in a chunk: whole chunks are written, each once


def write_tables(
    tables: Iterable[MarginTable],
    count: int,
    path: Path,
    describe: Callable[[MarginTable], dict[str, Any]],
) -> MarginTable:
    """Writes tables of the same columns as one, whole or not at all.

    Holds no more than a block of inputs and witnesses in memory. The bytes do not depend on how the rows
    are spread over tables.

    Args:
        tables: one after the other; at least one.
        count: their rows.
        path: of the file.
        describe: its `meta`, from the whole.

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
    describe: Callable[[MarginTable], dict[str, Any]],
    raw: Unfailing,
) -> MarginTable:
    light: list[MarginTable] = []
    start = 0
    for block in _blocks(tables):
        end = start + len(block)
        for name, values in _arrays(block) if light else _create(file, block, count):
            if len(values):
                file[name][start:end] = values
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
            "meta": json.dumps(describe(whole), sort_keys=True),
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


def _arrays(table: MarginTable) -> Iterator[tuple[str, np.ndarray]]:
    """Every dataset's name and rows, in the order of the file."""
    for name, dtype in (PER_SAMPLE | OPTIONAL).items():
        if (values := getattr(table, name)) is not None:
            yield name, values.astype(dtype, copy=False)
    for column in table.columns:
        name = _name(column)
        yield name, column.distance.astype(np.float64, copy=False)
        yield f"{name}.status", column.status.astype(np.uint8, copy=False)
        yield f"{name}.rival", column.rival.astype(np.int32, copy=False)
        if column.witness is not None:
            yield f"witness.{name}", column.witness.astype(np.float32, copy=False)


def _create(file: h5py.File, table: MarginTable, count: int) -> list[tuple[str, np.ndarray]]:
    """Makes the datasets for `count` rows like the table's; returns its own."""
    scales = {"sample": _scale(file, "sample", count)}
    arrays = list(_arrays(table))
    for name, values in arrays:
        for axis, size in enumerate(values.shape[1:]):
            if f"axis{axis}" not in scales:
                scales[f"axis{axis}"] = _scale(file, f"axis{axis}", size)
        _dataset(file, name, (count, *values.shape[1:]), values.dtype, scales)
    for column in table.columns:
        _describe(file, column)
    return arrays


def _describe(file: h5py.File, column: Column) -> None:
    name = _name(column)
    about = {"kind": str(column.kind), "method": column.method, "norm": column.norm, "layer": column.layer}
    file[name].attrs.update(about | {"options": json.dumps(column.options, sort_keys=True)})
    status = file[f"{name}.status"]
    status.attrs["flag_values"] = np.array([int(s) for s in Status], np.uint8)
    status.attrs["flag_meanings"] = " ".join(s.name for s in Status)


def _name(column: Column) -> str:
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
    write_tables([table], len(table), Path(path), lambda _: table.meta)

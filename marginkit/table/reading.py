"""Reads tables from files that anybody may have made (docs/format.md). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from marginkit.errors import MarginkitError
from marginkit.files import hdf5
from marginkit.files.untrusted import json_object
from marginkit.kinds import INPUT, Kind
from marginkit.table.provenance import Provenance
from marginkit.table.schema import PerSample, Role, per_sample_fields
from marginkit.table.table import ENDS, FORMAT, VERSION, Column, MarginTable
from marginkit.table.validation import require_sensible

Datasets = dict[PerSample, h5py.Dataset]


def read(path: str | Path, rows: slice = slice(None), *, light: bool = False) -> MarginTable:
    """Reads a table and refuses whatever is not one.

    Args:
        path: of the file.
        rows: only these.
        light: leave inputs and witnesses away.

    Raises:
        MarginkitError: as `opened_table` and `OpenTable.rows`.
    """
    with opened_table(path) as table:
        return table.rows(rows, light=light)


@contextmanager
def opened_table(path: str | Path) -> Iterator[OpenTable]:
    """A table's file, opened and checked once, to read rows from again and again.

    Whoever replaces the file meanwhile, as marginkit does, in one rename, does not disturb its readers.

    Raises:
        MarginkitError: missing, not HDF5, another format, a newer version, or contents that a table never
            has: links, groups, external or virtual storage, objects, wrong shapes. The message names the
            file, what was found and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise MarginkitError(f"no such table: {path}")
    with hdf5.opened(path) as file:
        with hdf5.readable(path):
            found = OpenTable(file, path)
        yield found


class OpenTable:
    """Serves the rows of a table that is open for reading.

    Attributes:
        path: of the file.
        provenance: what the file says of itself.
        keeps_inputs: whether it has the inputs, and with them the witnesses.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        """Checks all of the file but its numbers."""
        self.path = path
        _require_format(file, path)
        datasets = hdf5.datasets(file, path)
        if "sample" not in datasets:
            raise MarginkitError(f"{path} has no dimension 'sample'")
        self._count = len(datasets["sample"])
        self._own = self._found(MarginTable, datasets, "")
        self._columns = [
            (_about(dataset, name, path), self._found(Column, datasets, name))
            for name, dataset in datasets.items()
            if "kind" in dataset.attrs
        ]
        meta = json_object(hdf5.text(file, "meta", path), "meta", path)
        self.provenance = Provenance.of(meta, f"{path}: meta")
        self._complete = bool(file.attrs.get("complete", 0))
        self.keeps_inputs = any(spec.role is Role.INPUT for spec in self._own)

    def __len__(self) -> int:
        return self._count

    def rows(self, chosen: slice = slice(None), *, light: bool = False) -> MarginTable:
        """The chosen samples, without inputs and witnesses where it is to be light.

        Raises:
            MarginkitError: damaged, or numbers that a table never has.
        """

        def arrays(found: Datasets) -> dict[str, Any]:
            wanted = {s: d for s, d in found.items() if not (light and s.role is Role.INPUT)}
            return {spec.name: np.asarray(dataset[chosen]) for spec, dataset in wanted.items()}

        with hdf5.readable(self.path):
            columns = tuple(Column(**about, **arrays(found)) for about, found in self._columns)
            table = MarginTable(
                **arrays(self._own), columns=columns, provenance=self.provenance, complete=self._complete
            )
            return require_sensible(table, self.path)

    def _found(self, cls: type, datasets: dict[str, h5py.Dataset], column: str) -> Datasets:
        """A table's or a column's datasets, if all that it needs are there and fit."""
        specs = {spec.named(column): spec for spec in per_sample_fields(cls)}
        if missing := [name for name, spec in specs.items() if spec.required and name not in datasets]:
            raise MarginkitError(f"{self.path} lacks {', '.join(missing)}")
        found = {spec: datasets[name] for name, spec in specs.items() if name in datasets}
        for spec, dataset in found.items():
            if not spec.fits(dataset.shape, dataset.dtype.kind, self._count):
                each = "{} inputs" if spec.role is Role.INPUT else "one number for each of {}"
                raise MarginkitError(
                    f"{self.path}: {spec.named(column)} is {dataset.dtype} {dataset.shape}; expected "
                    + each.format(self._count)
                )
        return found


def _require_format(file: h5py.File, path: Path) -> None:
    if file.attrs.get("format") != FORMAT:
        raise MarginkitError(f"{path} has format {file.attrs.get('format')!r}; expected {FORMAT!r}")
    if file.attrs.get("version") != VERSION:
        raise MarginkitError(
            f"{path} has version {file.attrs.get('version')}; this marginkit reads {VERSION}"
        )


def _about(dataset: h5py.Dataset, name: str, path: Path) -> dict[str, Any]:
    """What a column says of itself; the file has the end of an `exact` column where others have the layer."""
    text = {key: hdf5.text(dataset, key, path) for key in ("method", "norm", "layer", "kind", "options")}
    if text["kind"] not in set(Kind):
        raise MarginkitError(f"{path}: {name} has kind {text['kind']!r}; expected one of {', '.join(Kind)}")
    ends = text["kind"] == Kind.EXACT and text["layer"] in ENDS
    return {
        "method": text["method"],
        "norm": text["norm"],
        "layer": INPUT if ends else text["layer"],
        "kind": Kind(text["kind"]),
        "options": json_object(text["options"], f"options of {name}", path),
        "note": hdf5.text(dataset, "note", path) if "note" in dataset.attrs else "",
        "end": text["layer"] if ends else "",
    }

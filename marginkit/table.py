"""Per-sample distances, and the HDF5 file that keeps them (docs/format.md). Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from marginkit import untrusted
from marginkit.errors import MarginkitError
from marginkit.files import replacing
from marginkit.kinds import Kind, Status

if TYPE_CHECKING:
    import pandas

FORMAT = "marginkit.margins"
VERSION = 1
INPUT = "input"
PER_SAMPLE = {"index": np.int64, "label": np.int32, "predicted": np.int32, "logit_margin": np.float64}
OPTIONAL = {"hash": np.uint64, "input": np.float32}


@dataclass(frozen=True)
class Column:
    """One method's answer in one norm at one layer, a row a sample.

    Attributes:
        method, norm, layer: where the numbers come from; the layer is `input` or a module's name.
        kind: what a distance is.
        options: the method's.
        distance: float64, in the layer's raw units; 0 or inf where nothing was learned (see status).
        status: `Status` codes.
        rival: the class across the boundary; -1 where none is known.
        witness: float32 [n, *d], the adversarial inputs; None where they were not kept.
        note: why the method does not apply to the model; else empty.
    """

    method: str
    norm: str
    layer: str
    kind: Kind
    options: dict[str, Any]
    distance: np.ndarray
    status: np.ndarray
    rival: np.ndarray
    witness: np.ndarray | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """`method.norm`, and the layer for methods that answer at several."""
        at_layer = self.kind is Kind.ESTIMATE or self.layer != INPUT
        return f"{self.method}.{self.norm}.{self.layer}" if at_layer else f"{self.method}.{self.norm}"


@dataclass(frozen=True)
class MarginTable:
    """What was measured of a model on a data set.

    Attributes:
        index: each sample's position in its data set.
        label, predicted: classes.
        logit_margin: f_y - max_{j != y} f_j at the clean input.
        columns: the distances.
        meta: plain data: what was measured, with what, on what.
        complete: whether every sample asked for is here.
        hash: uint64, of each input's bytes: tells which samples are the same; None in older tables.
        input: float32 [n, *d], the clean inputs; None where they were not kept.
    """

    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    logit_margin: np.ndarray
    columns: tuple[Column, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    hash: np.ndarray | None = None
    input: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: str) -> Column:
        """The column of that name."""
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise MarginkitError(
                f"no column {name!r}; this table has {', '.join(c.name for c in self.columns)}"
            )
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """A row a sample, labelled by its index; see `marginkit.frames.frame`."""
        from marginkit.frames import frame

        return frame(self)

    def rows(self, chosen: np.ndarray) -> MarginTable:
        """The chosen samples (a mask or positions), in that order."""
        return self._map([self], lambda arrays: arrays[0][chosen])

    @staticmethod
    def join(tables: Sequence[MarginTable]) -> MarginTable:
        """Tables of the same columns, one after the other."""
        return MarginTable._map(tables, np.concatenate)

    @staticmethod
    def _map(tables: Sequence[MarginTable], combine: Any) -> MarginTable:
        first = tables[0]
        per_sample = {name: combine([getattr(table, name) for table in tables]) for name in PER_SAMPLE}
        columns = []
        for parts in zip(*(table.columns for table in tables), strict=True):
            arrays = {n: combine([getattr(p, n) for p in parts]) for n in ("distance", "status", "rival")}
            if parts[0].witness is not None:
                arrays["witness"] = combine([part.witness for part in parts])
            note = next((part.note for part in parts if part.note), "")
            columns.append(replace(parts[0], **arrays, note=note))
        kept = {
            n: combine([getattr(t, n) for t in tables]) for n in OPTIONAL if getattr(first, n) is not None
        }
        return replace(first, **per_sample, **kept, columns=tuple(columns))


def write(table: MarginTable, path: str | Path) -> None:
    """Writes the table to `path`, whole or not at all."""
    with replacing(Path(path)) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        file.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "Conventions": "CF-1.11",
                "complete": int(table.complete),
                "meta": json.dumps(table.meta, sort_keys=True),
            }
        )
        scales = {"sample": _scale(file, "sample", len(table))}
        for name, dtype in PER_SAMPLE.items():
            _dataset(file, name, getattr(table, name).astype(dtype), scales)
        for name, dtype in OPTIONAL.items():
            if (values := getattr(table, name)) is not None:
                _add_axes(file, values, scales)
                _dataset(file, name, values.astype(dtype), scales)
        for column in table.columns:
            _write_column(file, column, scales)


def read(path: str | Path) -> MarginTable:
    """Reads a table and refuses whatever is not one.

    Raises:
        MarginkitError: missing, not HDF5, another format, a newer version, or contents that a table never
            has: links, groups, external or virtual storage, objects, wrong shapes. The message names the
            file, what was found and what was expected.
    """
    from marginkit.sanity import require_sensible

    path = Path(path)
    if not path.is_file():
        raise MarginkitError(f"no such table: {path}")
    with untrusted.opened(path) as file:
        return require_sensible(_read(file, path), path)


# Writing ----------------------------------------------------------------------------------------------


def _write_column(file: h5py.File, column: Column, scales: dict[str, Any]) -> None:
    name = column.name.replace("/", "_")
    about = {"kind": str(column.kind), "method": column.method, "norm": column.norm, "layer": column.layer}
    main = _dataset(file, name, column.distance.astype(np.float64), scales)
    main.attrs.update(about | {"options": json.dumps(column.options, sort_keys=True)})
    if column.note:
        main.attrs["note"] = column.note
    status = _dataset(file, f"{name}.status", column.status.astype(np.uint8), scales)
    status.attrs["flag_values"] = np.array([int(s) for s in Status], np.uint8)
    status.attrs["flag_meanings"] = " ".join(s.name for s in Status)
    _dataset(file, f"{name}.rival", column.rival.astype(np.int32), scales)
    if column.witness is not None:
        _add_axes(file, column.witness, scales)
        _dataset(file, f"witness.{name}", column.witness.astype(np.float32), scales)


def _add_axes(file: h5py.File, values: np.ndarray, scales: dict[str, Any]) -> None:
    for axis, size in enumerate(values.shape[1:]):
        if f"axis{axis}" not in scales:
            scales[f"axis{axis}"] = _scale(file, f"axis{axis}", size)


def _scale(file: h5py.File, name: str, size: int) -> Any:
    scale = file.create_dataset(name, data=np.arange(size))
    scale.make_scale(name)
    return scale


def _dataset(file: h5py.File, name: str, values: np.ndarray, scales: dict[str, Any]) -> Any:
    chunks = (min(len(values), 1024), *values.shape[1:]) if values.size else None
    packed = {"chunks": chunks, "compression": "gzip", "shuffle": True, "fletcher32": True} if chunks else {}
    dataset = file.create_dataset(name, data=values, **packed)
    for axis in range(values.ndim):
        dataset.dims[axis].attach_scale(scales["sample" if axis == 0 else f"axis{axis - 1}"])
    return dataset


# Reading ----------------------------------------------------------------------------------------------


def _read(file: h5py.File, path: Path) -> MarginTable:
    if file.attrs.get("format") != FORMAT:
        raise MarginkitError(f"{path} has format {file.attrs.get('format')!r}; expected {FORMAT!r}")
    if file.attrs.get("version") != VERSION:
        raise MarginkitError(
            f"{path} has version {file.attrs.get('version')}; this marginkit reads {VERSION}"
        )
    datasets = untrusted.datasets(file, path)
    if "sample" not in datasets:
        raise MarginkitError(f"{path} has no dimension 'sample'")
    n = len(datasets["sample"])
    missing = [name for name in PER_SAMPLE if name not in datasets]
    if missing:
        raise MarginkitError(f"{path} lacks {', '.join(missing)}")

    def values(name: str, expected: str) -> np.ndarray:
        if name not in datasets:
            raise MarginkitError(f"{path} lacks {name}")
        found = datasets[name]
        if found.shape != (n,) or found.dtype.kind not in expected:
            raise MarginkitError(
                f"{path}: {name} is {found.dtype} {found.shape}; expected one number for each of {n}"
            )
        return np.asarray(found[()])

    def inputs(name: str) -> np.ndarray | None:
        found = datasets.get(name)
        if found is None:
            return None
        if found.ndim < 2 or len(found) != n or found.dtype.kind != "f":
            raise MarginkitError(f"{path}: {name} is {found.dtype} {found.shape}; expected {n} inputs")
        return np.asarray(found[()])

    columns = []
    for name, dataset in datasets.items():
        if "kind" not in dataset.attrs:
            continue
        about = {
            key: untrusted.text(dataset, key, path) for key in ("method", "norm", "layer", "kind", "options")
        }
        if about["kind"] not in set(Kind):
            raise MarginkitError(
                f"{path}: {name} has kind {about['kind']!r}; expected one of {', '.join(Kind)}"
            )
        columns.append(
            Column(
                method=about["method"],
                norm=about["norm"],
                layer=about["layer"],
                kind=Kind(about["kind"]),
                options=untrusted.json_object(about["options"], f"options of {name}", path),
                distance=values(name, "f"),
                status=values(f"{name}.status", "iu"),
                rival=values(f"{name}.rival", "iu"),
                witness=inputs(f"witness.{name}"),
                note=untrusted.text(dataset, "note", path) if "note" in dataset.attrs else "",
            )
        )
    return MarginTable(
        **{name: values(name, "f" if name == "logit_margin" else "iu") for name in PER_SAMPLE},
        columns=tuple(columns),
        meta=untrusted.json_object(untrusted.text(file, "meta", path), "meta", path),
        complete=bool(file.attrs.get("complete", 0)),
        hash=values("hash", "u") if "hash" in datasets else None,
        input=inputs("input"),
    )


def names(tables: Iterable[MarginTable]) -> list[str]:
    """The columns that every table has, in the first one's order."""
    tables = list(tables)
    shared = set.intersection(*({column.name for column in table.columns} for table in tables))
    return [column.name for column in tables[0].columns if column.name in shared]

"""Per-sample distances, and the HDF5 file that keeps them (docs/format.md). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from marginkit import untrusted
from marginkit.errors import MarginkitError
from marginkit.kinds import Kind
from marginkit.writing import FORMAT, OPTIONAL, PER_SAMPLE, VERSION, write_tables

if TYPE_CHECKING:
    import pandas

INPUT = "input"
ARRAYS = ("distance", "status", "rival", "witness")
NOTES = 5  # a method may fail on every batch in other words


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

    @staticmethod
    def join(parts: Sequence[Column]) -> Column:
        """Columns of one name, one after the other."""
        return Column.map(parts, np.concatenate)

    @staticmethod
    def map(parts: Sequence[Column], combine: Any) -> Column:
        """The first column with its arrays, and the others', combined; notes are joined."""
        names = [name for name in ARRAYS if getattr(parts[0], name) is not None]
        arrays = {name: combine([getattr(part, name) for part in parts]) for name in names}
        notes = dict.fromkeys(part.note for part in parts if part.note)
        return replace(parts[0], **arrays, note="; ".join(list(notes)[:NOTES]))


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

    def rows(self, chosen: np.ndarray | slice) -> MarginTable:
        """The chosen samples (a mask, positions or a slice), in that order."""
        return self._map([self], lambda arrays: arrays[0][chosen])

    def light(self) -> MarginTable:
        """The table without inputs and witnesses."""
        return replace(self, input=None, columns=tuple(replace(c, witness=None) for c in self.columns))

    @staticmethod
    def join(tables: Sequence[MarginTable]) -> MarginTable:
        """Tables of the same columns, one after the other."""
        return MarginTable._map(tables, np.concatenate)

    @staticmethod
    def _map(tables: Sequence[MarginTable], combine: Any) -> MarginTable:
        first = tables[0]
        per_sample = {name: combine([getattr(table, name) for table in tables]) for name in PER_SAMPLE}
        columns = [
            Column.map(parts, combine) for parts in zip(*(table.columns for table in tables), strict=True)
        ]
        kept = {
            n: combine([getattr(t, n) for t in tables]) for n in OPTIONAL if getattr(first, n) is not None
        }
        return replace(first, **per_sample, **kept, columns=tuple(columns))


def write(table: MarginTable, path: str | Path) -> None:
    """Writes the table to `path`, whole or not at all."""
    write_tables([table], len(table), Path(path), lambda _: table.meta)


def read(path: str | Path, rows: slice = slice(None), *, light: bool = False) -> MarginTable:
    """Reads a table and refuses whatever is not one.

    Args:
        path: of the file.
        rows: only these.
        light: leave inputs and witnesses away.

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
        return require_sensible(_read(file, path, rows, light), path)


# Reading ----------------------------------------------------------------------------------------------


def _read(file: h5py.File, path: Path, rows: slice, light: bool) -> MarginTable:
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
        return np.asarray(found[rows])

    def inputs(name: str) -> np.ndarray | None:
        found = datasets.get(name)
        if found is None or light:
            return None
        if found.ndim < 2 or len(found) != n or found.dtype.kind != "f":
            raise MarginkitError(f"{path}: {name} is {found.dtype} {found.shape}; expected {n} inputs")
        return np.asarray(found[rows])

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

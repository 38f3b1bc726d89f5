"""Per-sample distances, and the HDF5 file that keeps them (docs/format.md). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status

if TYPE_CHECKING:
    import pandas

FORMAT = "marginkit.margins"
VERSION = 1
PER_SAMPLE = {"index": np.int64, "label": np.int32, "predicted": np.int32, "logit_margin": np.float64}
OPTIONAL = {"hash": np.uint64, "input": np.float32}
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
        """A row a sample, labelled by its index in the data set.

        Columns are `label`, `predicted`, `logit_margin`, and for each distance `<name>` (inf where a search
        found nothing), `<name>.status` (its name, a category) and `<name>.rival`. `attrs` holds the
        provenance (`meta`) and each column's `kind`. Witnesses and inputs stay in the file: they are no
        columns.
        """
        import pandas

        found: dict[str, Any] = {name: getattr(self, name) for name in ("label", "predicted", "logit_margin")}
        names = pandas.Index([status.name for status in Status])
        for column in self.columns:
            found[column.name] = column.distance
            codes = np.where(column.status < len(Status), column.status.astype(int), -1)  # -1: no such status
            found[f"{column.name}.status"] = pandas.Categorical.from_codes(codes, names)
            found[f"{column.name}.rival"] = column.rival
        rows = pandas.DataFrame(found, index=pandas.Index(self.index, name="index"))
        rows.attrs = {"meta": self.meta, "kinds": {c.name: str(c.kind) for c in self.columns}}
        return rows

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


def names(tables: Iterable[MarginTable]) -> list[str]:
    """The columns that every table has, in the first one's order."""
    tables = list(tables)
    shared = set.intersection(*({column.name for column in table.columns} for table in tables))
    return [column.name for column in tables[0].columns if column.name in shared]

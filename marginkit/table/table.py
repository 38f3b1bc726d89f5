"""Per-sample distances, and the HDF5 file that keeps them (docs/format.md). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.kinds import INPUT, Kind, Status
from marginkit.table.notebook import cell, html_table
from marginkit.table.provenance import Provenance
from marginkit.table.schema import Role, combined, per_sample, per_sample_fields, present
from marginkit.table.summary import accuracy, median

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")

FORMAT = "marginkit.margins"
VERSION = 1
ENDS = ("lower", "upper")  # of a bracket
NOTES = 5  # a method may fail on every batch in other words
LATER: dict[str, dict[str, Any]] = {  # options that were once absent
    "nearest": {"slow": 0, "l1_stages": [], "memory": 0.0},
    "lipschitz": {"local": False},
    "crown": {"planes": 0},
}


@dataclass(frozen=True)
class Column:
    """One method's answer in one norm at one layer, a row a sample.

    Attributes:
        method, norm, layer: where the numbers come from; the layer is `input` or a module's name.
        kind: what a distance is.
        options: the method's.
        distance: in the layer's raw units; 0 or inf where nothing was learned (see status).
        status: `Status` codes.
        rival: the class across the boundary; -1 where none is known.
        witness: [n, *d], the adversarial inputs; None where they were not kept.
        note: why the method does not apply to the model; else empty.
        end: which end of a bracket it is, `lower` or `upper`, where a method closes both; else empty.
    """

    method: str
    norm: str
    layer: str
    kind: Kind
    options: dict[str, Any]
    distance: np.ndarray = field(metadata=per_sample(np.float64, "{}"))
    status: np.ndarray = field(metadata=per_sample(np.uint8, "{}.status", Role.STATUS))
    rival: np.ndarray = field(metadata=per_sample(np.int32, "{}.rival", least=-1))
    witness: np.ndarray | None = field(
        default=None, metadata=per_sample(np.float32, "witness.{}", Role.INPUT)
    )
    note: str = ""
    end: str = ""

    @property
    def name(self) -> str:
        """`method.norm`, and the layer for methods that answer at several, or the end for those of both."""
        at_layer = self.kind is Kind.ESTIMATE or self.place != INPUT
        return f"{self.method}.{self.norm}.{self.place}" if at_layer else f"{self.method}.{self.norm}"

    @property
    def measured_with(self) -> dict[str, Any]:
        """The options, with those that came after the file was written as they were without being asked."""
        return LATER.get(self.method, {}) | self.options

    @property
    def place(self) -> str:
        """The end, where it is one of two; else the layer."""
        return self.end or self.layer

    def with_rows(self, rows: np.ndarray, found: Column) -> Column:
        """This column with another's entries, and its note, at some rows."""
        whole = replace(self, **combined([self, found], lambda pair: _put(pair[0], pair[1], rows)))
        return replace(whole, note=found.note)

    @staticmethod
    def join(parts: Sequence[Column]) -> Column:
        """Columns of one name, one after the other."""
        return Column.map(parts, np.concatenate)

    @staticmethod
    def map(parts: Sequence[Column], combine: Any) -> Column:
        """The first column with its arrays, and the others', combined; notes are joined."""
        notes = dict.fromkeys(part.note for part in parts if part.note)
        return replace(parts[0], **combined(parts, combine), note="; ".join(list(notes)[:NOTES]))


@dataclass(frozen=True)
class MarginTable:
    """What was measured of a model on a data set.

    Attributes:
        index: each sample's position in its data set.
        label, predicted: classes.
        logit_margin: f_y - max_{j != y} f_j at the clean input.
        columns: the distances.
        provenance: what was measured, with what, on what.
        complete: whether every sample asked for is here.
        hash: of each input's bytes: tells which samples are the same; None in older tables.
        input: [n, *d], the clean inputs; None where they were not kept.
    """

    index: np.ndarray = field(metadata=per_sample(np.int64, "index", Role.IDENTITY, least=0))
    label: np.ndarray = field(metadata=per_sample(np.int32, "label", least=0))
    predicted: np.ndarray = field(metadata=per_sample(np.int32, "predicted", least=-1))
    logit_margin: np.ndarray = field(metadata=per_sample(np.float64, "logit_margin"))
    columns: tuple[Column, ...]
    provenance: Provenance = field(default_factory=Provenance)
    complete: bool = True
    hash: np.ndarray | None = field(default=None, metadata=per_sample(np.uint64, "hash", Role.IDENTITY))
    input: np.ndarray | None = field(default=None, metadata=per_sample(np.float32, "input", Role.INPUT))

    def __len__(self) -> int:
        return len(self.index)

    def _repr_html_(self) -> str:
        """For notebooks: a row a column, with its median distance and on how many samples it is OK."""
        rows = (
            (c.name, str(c.kind), cell(median(c.distance)), str(int((c.status == Status.OK).sum())))
            for c in self.columns
        )
        title = f"{len(self)} samples, accuracy {accuracy(self):.1%}"
        return html_table(title, ("column", "kind", "median distance", "ok"), rows)

    def __getitem__(self, name: str) -> Column:
        """The column of that name."""
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise MarginkitError(
                f"no column {name!r}; this table has {', '.join(c.name for c in self.columns)}"
            )
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """The provenance as plain data, as it stands in the file."""
        return self.provenance.plain()

    def with_meta(self, meta: Mapping[str, Any]) -> MarginTable:
        """The table with this provenance, given as plain data."""
        return replace(self, provenance=Provenance.of(meta))

    def to_pandas(self) -> pandas.DataFrame:
        """A row a sample, labelled by its index in the data set.

        Columns are `label`, `predicted`, `logit_margin`, and for each distance `<name>` (inf where a search
        found nothing), `<name>.status` (its name, a category) and `<name>.rival`. `attrs` holds the
        provenance (`meta`) and each column's `kind`. Witnesses and inputs stay in the file: they are no
        columns.
        """
        import pandas

        found = dict(_numbers(self, ""))
        for column in self.columns:
            found |= _numbers(column, column.name)
        rows = pandas.DataFrame(found, index=pandas.Index(self.index, name="index"))
        rows.attrs = {"meta": self.meta, "kinds": {c.name: str(c.kind) for c in self.columns}}
        return rows

    def rows(self, chosen: np.ndarray | slice) -> MarginTable:
        """The chosen samples (a mask, positions or a slice), in that order."""
        return self._map([self], lambda arrays: arrays[0][chosen])

    def light(self) -> MarginTable:
        """The table without inputs and witnesses."""
        return replace(_light(self), columns=tuple(map(_light, self.columns)))

    @staticmethod
    def join(tables: Sequence[MarginTable]) -> MarginTable:
        """Tables of the same columns, one after the other."""
        return MarginTable._map(tables, np.concatenate)

    @staticmethod
    def _map(tables: Sequence[MarginTable], combine: Any) -> MarginTable:
        together = zip(*(table.columns for table in tables), strict=True)
        columns = tuple(Column.map(parts, combine) for parts in together)
        return replace(tables[0], **combined(tables, combine), columns=columns)


def names(tables: Iterable[MarginTable]) -> list[str]:
    """The columns that every table has, in the first one's order."""
    tables = list(tables)
    shared = set.intersection(*({column.name for column in table.columns} for table in tables))
    return [column.name for column in tables[0].columns if column.name in shared]


def _light(holder: T) -> T:
    inputs = [spec.name for spec in per_sample_fields(type(holder)) if spec.role is Role.INPUT]
    return replace(holder, **dict.fromkeys(inputs))  # type: ignore[type-var]


def _put(before: np.ndarray, found: np.ndarray, rows: np.ndarray) -> np.ndarray:
    whole = before.copy()
    whole[rows] = found
    return whole


def _numbers(holder: MarginTable | Column, name: str) -> Iterator[tuple[str, Any]]:
    """What a frame has of a table, or of a column of that name."""
    import pandas

    for spec, values in present(holder):
        if spec.role is Role.NUMBER:
            yield spec.named(name), values
        elif spec.role is Role.STATUS:
            codes = np.where(values < len(Status), values.astype(int), -1)  # -1: no such status
            names = pandas.Index([status.name for status in Status])
            yield spec.named(name), pandas.Categorical.from_codes(codes, names)

"""Tables as pandas frames, and as the files that spreadsheets and data tools read. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.files import replacing
from marginkit.kinds import Status

if TYPE_CHECKING:
    import pandas

    from marginkit.table import MarginTable


def frame(table: MarginTable) -> pandas.DataFrame:
    """A row a sample, labelled by its index in the data set.

    Columns are `label`, `predicted`, `logit_margin`, and for each distance `<name>` (inf where a search
    found nothing), `<name>.status` (its name, a category) and `<name>.rival`. `attrs` holds the provenance
    (`meta`) and each column's `kind`. Witnesses and inputs stay in the file: they are no columns.
    """
    import pandas

    found: dict[str, Any] = {name: getattr(table, name) for name in ("label", "predicted", "logit_margin")}
    names = pandas.Index([status.name for status in Status])
    for column in table.columns:
        found[column.name] = column.distance
        codes = np.where(column.status < len(Status), column.status.astype(int), -1)  # -1: no such status
        found[f"{column.name}.status"] = pandas.Categorical.from_codes(codes, names)
        found[f"{column.name}.rival"] = column.rival
    rows = pandas.DataFrame(found, index=pandas.Index(table.index, name="index"))
    rows.attrs = {"meta": table.meta, "kinds": {c.name: str(c.kind) for c in table.columns}}
    return rows


def write_csv(table: MarginTable, path: Path) -> None:
    """The frame as CSV, whole or not at all: every digit; infinities as `inf`."""
    with replacing(path) as temporary:
        frame(table).to_csv(temporary)


def write_parquet(table: MarginTable, path: Path) -> None:
    """The frame as Parquet, whole or not at all: types, categories and `attrs` come back.

    Raises:
        MarginkitError: pyarrow is not installed; or the folder can't be written to.
    """
    with replacing(path) as temporary:
        try:
            frame(table).to_parquet(temporary, engine="pyarrow")
        except ImportError as error:
            raise MarginkitError(
                "Parquet needs pyarrow: pip install 'marginkit[parquet]', or write --csv"
            ) from error

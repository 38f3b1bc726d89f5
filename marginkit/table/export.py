"""Tables as the files that spreadsheets and data tools read. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from marginkit.errors import MarginkitError
from marginkit.files.atomic import replacing
from marginkit.table.table import MarginTable


def write_csv(table: MarginTable, path: Path) -> None:
    """`to_pandas` as CSV, whole or not at all: every digit; infinities as `inf`."""
    with replacing(path) as temporary:
        table.to_pandas().to_csv(temporary)


def write_parquet(table: MarginTable, path: Path) -> None:
    """`to_pandas` as Parquet, whole or not at all: types, categories and `attrs` come back.

    Raises:
        MarginkitError: pyarrow is not installed; or the folder can't be written to.
    """
    with replacing(path) as temporary:
        try:
            table.to_pandas().to_parquet(temporary, engine="pyarrow")
        except ImportError as error:
            raise MarginkitError(
                "Parquet needs pyarrow: pip install 'marginkit[parquet]', or write --csv"
            ) from error

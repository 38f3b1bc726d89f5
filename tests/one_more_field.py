"""Run by test_schema.py with a marginkit whose tables and columns have one more field each.

Prints, as JSON, which of STEPS the new fields come through.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from made_up import column, exact, table

from marginkit.errors import MarginkitError
from marginkit.measurement.parts import Parts
from marginkit.table.export import write_csv
from marginkit.table.merge import merge
from marginkit.table.reading import read
from marginkit.table.table import MarginTable
from marginkit.table.writing import BLOCK, write, write_tables

GOLDEN = Path(__file__).parent / "golden" / "margins-1.h5"


def made(n: int = 6, start: int = 0, steps: bool = True, **meta: object) -> MarginTable:
    index = np.arange(start, start + n)
    inputs = np.random.default_rng(0).random((n, 2)).astype(np.float32)
    columns = [column(1.0 + index, witness=inputs), *exact(1.0 + index, 2.0 + index)]
    if steps:
        columns[0] = replace(columns[0], steps=(index * 7).astype(np.int32))
    weight = index / 4
    return table(*columns, index=index, input=inputs, weight=weight).with_meta(meta)


def right(found: MarginTable, index: np.ndarray | None = None) -> bool:
    index = np.arange(6) if index is None else index
    steps = found["deepfool.l2"].steps
    assert steps.tolist() == (index * 7).tolist(), steps
    assert found.weight.tolist() == (index / 4).tolist(), found.weight
    assert found["exact.l2.lower"].steps is None
    return True


def written_and_read(folder: Path) -> None:
    write(made(), folder / "a.h5")
    assert right(read(folder / "a.h5"))
    with h5py.File(folder / "a.h5") as file:
        assert file["deepfool.l2.steps"].dtype == np.int32
        assert file["weight"].dtype == np.float64
        assert "exact.l2.lower.steps" not in file


def read_in_part(folder: Path) -> None:
    write(made(), folder / "a.h5")
    assert right(read(folder / "a.h5", slice(2, 4), light=True), np.array([2, 3]))


def chosen(folder: Path) -> None:
    assert right(made().rows(np.array([5, 0])), np.array([5, 0]))
    assert right(made().light())


def joined(folder: Path) -> None:
    assert right(MarginTable.join([made(2), made(4, 2)]))


def joined_with_what_lacks_it(folder: Path) -> None:
    whole = MarginTable.join([made(2, steps=False), made(4, 2)])
    assert whole["deepfool.l2"].steps.tolist() == [-1, -1, 14, 21, 28, 35]


def written_where_only_some_rows_have_it(folder: Path) -> None:
    tables = [made(BLOCK, steps=False), made(BLOCK, BLOCK), made(5, 2 * BLOCK, steps=False)]
    write_tables(tables, 2 * BLOCK + 5, folder / "a.h5", lambda whole: whole.provenance)
    write(MarginTable.join(tables), folder / "b.h5")
    steps = read(folder / "a.h5")["deepfool.l2"].steps
    assert (steps < 0).sum() == BLOCK + 5
    assert steps[BLOCK : 2 * BLOCK].tolist() == (np.arange(BLOCK, 2 * BLOCK) * 7).tolist()
    assert read(folder / "b.h5")["deepfool.l2"].steps.tolist() == steps.tolist()


def put_among_others(folder: Path) -> None:
    outside, inside = made(steps=False)["deepfool.l2"], made(2)["deepfool.l2"]
    found = outside.with_rows(np.array([1, 4]), inside)
    assert found.steps.tolist() == [-1, 0, -1, -1, 7, -1]


def kept_in_parts(folder: Path) -> None:
    parts = Parts(folder / "a.h5")
    parts.folder.mkdir()
    parts.save(0, made())
    assert right(parts.load(0))


def merged(folder: Path) -> None:
    for i in (1, 2):
        write(made(3, 3 * (i - 1), shard=[i, 2]), folder / f"{i}.h5")
    merge(folder / "whole.h5", [folder / "2.h5", folder / "1.h5"])
    assert right(read(folder / "whole.h5"))


def shown_in_frames(folder: Path) -> None:
    frame = made().to_pandas()
    assert frame["deepfool.l2.steps"].tolist() == (np.arange(6) * 7).tolist()
    assert frame["weight"].tolist() == (np.arange(6) / 4).tolist()
    write_csv(made(), folder / "a.csv")
    assert ",deepfool.l2.rival,deepfool.l2.steps," in (folder / "a.csv").read_text()


def refused_in_another_shape(folder: Path) -> None:
    write(made(), folder / "a.h5")
    with h5py.File(folder / "a.h5", "a") as file:
        del file["deepfool.l2.steps"]
        file["deepfool.l2.steps"] = np.ones((6, 2), int)
    assert "deepfool.l2.steps is int64 (6, 2); expected one number for each of 6" in refusal(folder / "a.h5")


def refused_below_its_least(folder: Path) -> None:
    write(replace(made(), weight=np.full(6, -2.0)), folder / "a.h5")
    assert "weight has -2.0; expected 0 or more" in refusal(folder / "a.h5")


def absent_from_older_files(folder: Path) -> None:
    older = read(GOLDEN)
    assert older.weight is None
    assert all(column.steps is None for column in older.columns)
    assert "weight" not in older.to_pandas()


def refusal(path: Path) -> str:
    try:
        read(path)
    except MarginkitError as error:
        return str(error)
    return "read"


STEPS: tuple[Callable[[Path], None], ...] = (
    written_and_read,
    read_in_part,
    chosen,
    joined,
    joined_with_what_lacks_it,
    written_where_only_some_rows_have_it,
    put_among_others,
    kept_in_parts,
    merged,
    shown_in_frames,
    refused_in_another_shape,
    refused_below_its_least,
    absent_from_older_files,
)


def main() -> None:
    outcomes = {}
    for step in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                step(Path(folder))
                outcomes[step.__name__] = "fine"
            except Exception as error:
                outcomes[step.__name__] = f"{type(error).__name__}: {error}"
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()

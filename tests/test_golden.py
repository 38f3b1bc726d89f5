"""A file of version 1 as it was first written: it opens, means the same, and is written again as it was.

`golden/margins-1.h5` came from `measure` (twelve digits, inputs and witnesses kept, columns added twice) and
`tighten`; `golden/margins-1.json` says what that marginkit read from it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from marginkit.kinds import INPUT
from marginkit.table.brackets import ends
from marginkit.table.reading import read
from marginkit.table.writing import write

pytestmark = pytest.mark.quick

FILE = Path(__file__).parent / "golden" / "margins-1.h5"
EXPECTED = json.loads(FILE.with_suffix(".json").read_text())
SAME_LIBRARY = (h5py.__version__, h5py.version.hdf5_version) == tuple(EXPECTED["written by"].values())


def digest(inputs: np.ndarray | None) -> str | None:
    return (
        None if inputs is None else hashlib.sha256(np.ascontiguousarray(inputs, "<f4").tobytes()).hexdigest()
    )


@pytest.mark.parametrize("name", ["index", "label", "predicted", "logit_margin", "hash"])
def test_samples_mean_the_same(name):
    assert getattr(read(FILE), name).tolist() == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED["columns"])
def test_columns_mean_the_same(name):
    column, expected = read(FILE)[name], EXPECTED["columns"][name]
    assert [str(column.kind), column.method, column.norm] == [expected[k] for k in ("kind", "method", "norm")]
    assert (column.options, column.note, column.place) == (
        expected["options"], expected["note"], expected["layer"],
    )  # fmt: skip
    for array in ("distance", "status", "rival"):
        assert getattr(column, array).tolist() == expected[array]
    assert digest(column.witness) == expected["witness"]


def test_options_that_came_later_are_what_the_method_did_without_them():
    column = read(FILE)["nearest.linf"]
    later = {"slow": 0, "l1_stages": [], "memory": 0.0}
    assert not later.keys() & column.options.keys()
    assert column.measured_with == column.options | later


@pytest.mark.parametrize("end", ["lower", "upper"])
def test_both_ends_of_exact_stand_at_the_input(end):
    column = read(FILE)[f"exact.linf.{end}"]
    assert (column.layer, column.end) == (INPUT, end)
    assert getattr(ends(read(FILE), "linf"), end).tolist() == EXPECTED["bracket"]["linf"][end]


def test_the_order_of_columns_the_inputs_and_the_provenance_are_the_same():
    found = read(FILE)
    assert [column.name for column in found.columns] == list(EXPECTED["columns"])
    assert digest(found.input) == EXPECTED["input"]
    assert (found.complete, found.meta) == (EXPECTED["complete"], EXPECTED["meta"])
    assert found.provenance.tightened[0].closed == {"linf": [7, 12]}
    assert [run.columns[-1] for run in found.provenance.added] == ["exact.linf.upper", "smoothing.l2"]


def structure(path: Path) -> dict[str, object]:
    """All that a file says: attributes, types, shapes, storage and numbers, in their order."""

    def plain(attributes):
        # references to other datasets are addresses within the file
        return [(k, np.asarray(v).tolist()) for k, v in attributes.items() if "LIST" not in k]

    with h5py.File(path) as file:
        return {"": plain(file.attrs)} | {
            name: (
                plain(d.attrs), str(d.dtype), d.shape, d.chunks, d.compression, d.shuffle, d.fletcher32,
                [dimension.keys() for dimension in d.dims], d[()].tobytes(),
            )
            for name, d in file.items()
        }  # fmt: skip


def test_written_again_it_says_the_same(tmp_path):
    write(read(FILE), tmp_path / "again.h5")
    before, after = structure(FILE), structure(tmp_path / "again.h5")
    assert list(before) == list(after)
    for name, expected in before.items():
        assert after[name] == expected, name


@pytest.mark.skipif(not SAME_LIBRARY, reason="another HDF5 library lays the same contents out in other bytes")
def test_written_again_it_has_the_same_bytes(tmp_path):
    write(read(FILE), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == FILE.read_bytes()

"""The file format: what is written comes back, others can read it, and hostile files are refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status
from marginkit.table.provenance import Provenance
from marginkit.table.reading import opened_table, read
from marginkit.table.table import Column, MarginTable
from marginkit.table.writing import write

pytestmark = pytest.mark.quick


def column(n=5, method="deepfool", layer="input", kind=Kind.UPPER, witness=False, **changes) -> Column:
    generator = np.random.default_rng(n)
    distance = generator.random(n)
    distance[:1] = np.inf
    return replace(
        Column(
            method, "l2", layer, kind, {"steps": 50, "top_k": None}, distance,
            status=np.where(np.isinf(distance), Status.EXHAUSTED, Status.OK).astype(np.uint8),
            rival=generator.integers(-1, 3, n).astype(np.int32),
            witness=generator.random((n, 1, 2, 3)).astype(np.float32) if witness else None,
        ),
        **changes,
    )  # fmt: skip


def table(n=5, **options) -> MarginTable:
    generator = np.random.default_rng(0)
    return MarginTable(
        index=np.arange(n) * 3,
        label=generator.integers(0, 3, n).astype(np.int32),
        predicted=generator.integers(0, 3, n).astype(np.int32),
        logit_margin=generator.normal(size=n),
        columns=(
            column(n, "first_order", "conv1.0", Kind.ESTIMATE),
            column(n, "first_order", "input", Kind.ESTIMATE),
            column(n, **options),
        ),
        provenance=Provenance.of(
            {"dataset": {"name": "digits", "fingerprint": "f"}, "threat": {"low": 0.0, "high": None}}
        ),
        hash=generator.integers(2**64, size=n, dtype=np.uint64) if options.get("witness") else None,
        input=generator.random((n, 1, 2, 3)).astype(np.float32) if options.get("witness") else None,
    )


def assert_same(a: MarginTable, b: MarginTable) -> None:
    for name in ("index", "label", "predicted", "logit_margin"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.meta, a.complete) == (b.meta, b.complete)
    for name in ("hash", "input"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for x, y in zip(a.columns, b.columns, strict=True):
        for field in fields(Column):
            first, second = getattr(x, field.name), getattr(y, field.name)
            if isinstance(first, np.ndarray):
                np.testing.assert_array_equal(first, second)
                assert first.dtype == second.dtype
            else:
                assert first == second


@pytest.mark.parametrize("n", [0, 1, 5, 3000])
@pytest.mark.parametrize("witness", [False, True])
def test_round_trip_to_the_bit(tmp_path, n, witness):
    before = table(n, witness=witness)
    write(before, tmp_path / "t.h5")
    assert_same(before, read(tmp_path / "t.h5"))


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        write(table(witness=True), tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_xarray_opens_it_with_a_sample_dimension(tmp_path):
    before = table(witness=True)
    write(before, tmp_path / "t.h5")
    with xarray.open_dataset(tmp_path / "t.h5", engine="h5netcdf") as found:
        assert found.sizes["sample"] == 5
        assert not any(str(name).startswith("phony") for name in found.sizes)
        np.testing.assert_array_equal(found["deepfool.l2"], before["deepfool.l2"].distance)
        assert found["deepfool.l2"].attrs["kind"] == "upper"
        assert found["witness.deepfool.l2"].dims == ("sample", "axis0", "axis1", "axis2")
        assert found["deepfool.l2.status"].attrs["flag_meanings"].split()[2] == "EXHAUSTED"
        assert json.loads(found.attrs["meta"]) == before.meta


def test_columns_are_found_by_name():
    assert table()["first_order.l2.conv1.0"].layer == "conv1.0"
    with pytest.raises(MarginkitError, match=r"no column 'x'; this table has first_order\.l2\.conv1\.0"):
        table()["x"]


def test_joining_the_parts_gives_the_whole():
    whole = table(7, witness=True)
    parts = [whole.rows(np.arange(3)), whole.rows(np.arange(3, 7))]
    assert_same(MarginTable.join(parts), whole)
    assert whole.rows(whole.index > 5).index.tolist() == [6, 9, 12, 15, 18]


@settings(max_examples=25, deadline=None)
@given(layer=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20))
def test_any_layer_name_comes_back(tmp_path_factory, layer):
    path = tmp_path_factory.mktemp("names") / "t.h5"
    before = replace(table(), columns=(column(layer=layer),))
    write(before, path)
    assert read(path).columns[0].layer == layer


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "t.h5"
    write(table(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(table().with_meta({"bad": object()}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_the_old_table_goes_on_reading_it(tmp_path):
    """The new one takes its place in one rename; it is never seen half-written."""
    path = tmp_path / "t.h5"
    write(table(5), path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        write(table(3000), path)
        assert reader.read() == before
    assert len(read(path)) == 3000


def test_folders_that_can_not_be_written_are_named(tmp_path):
    with pytest.raises(MarginkitError, match=r"can't write .*No such file"):
        write(table(), tmp_path / "absent" / "t.h5")


def test_an_open_table_serves_rows_of_a_file_that_is_replaced_meanwhile(tmp_path):
    path = tmp_path / "t.h5"
    before = table(3000, witness=True)
    write(before, path)
    with opened_table(path) as found:
        assert (len(found), found.keeps_inputs, found.provenance) == (3000, True, before.provenance)
        assert_same(found.rows(slice(5, 7)), before.rows(slice(5, 7)))
        write(table(5), path)
        assert_same(found.rows(slice(1000, 2100)), before.rows(slice(1000, 2100)))
        assert_same(found.rows(light=True), before.light())
        with opened_table(path) as new:
            assert (len(new), new.keeps_inputs) == (5, False)
    assert_same(read(path), table(5))


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError, KeyError])
def test_what_goes_wrong_while_a_table_is_open_is_not_taken_for_its_fault(tmp_path, error):
    write(table(), tmp_path / "t.h5")
    with pytest.raises(error, match="mine"), opened_table(tmp_path / "t.h5"):
        raise error("mine")


def test_numbers_are_checked_where_they_are_read(tmp_path):
    write(table(7), tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "a") as file:
        file["deepfool.l2"][5] = -1
    with opened_table(tmp_path / "t.h5") as found:
        assert len(found.rows(slice(0, 5))) == 5
        with pytest.raises(MarginkitError, match=r"t\.h5: deepfool\.l2 has the distance -1"):
            found.rows(slice(4, 7))


# Hostile and broken files: each is a good one with one thing changed.


def no_format(file, folder):
    del file.attrs["format"]


def newer(file, folder):
    file.attrs["version"] = 2


def external_link(file, folder):
    del file["label"]
    file["label"] = h5py.ExternalLink(str(folder / "other.h5"), "label")


def soft_link(file, folder):
    file["extra"] = h5py.SoftLink("/label")


def external_storage(file, folder):
    (folder / "secret.bin").write_bytes(bytes(range(40)))
    del file["label"]
    file.create_dataset("label", (5,), "i4", external=[(str(folder / "secret.bin"), 0, 20)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((5,), "i4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "label", (5,))
    del file["label"]
    file.create_virtual_dataset("label", layout)


def objects(file, folder):
    file.create_dataset("text", data=["a"] * 5)


def group(file, folder):
    file.create_group("nested/deep")


def wrong_length(file, folder):
    del file["label"]
    file["label"] = np.arange(4)


def wrong_rank(file, folder):
    del file["label"]
    file["label"] = np.ones((5, 2), int)


def wrong_type(file, folder):
    del file["label"]
    file["label"] = np.ones(5)


def missing(file, folder):
    del file["index"]


def no_sample(file, folder):
    del file["sample"]


def missing_status(file, folder):
    del file["deepfool.l2.status"]


def unknown_kind(file, folder):
    file["deepfool.l2"].attrs["kind"] = "guess"


def meta_not_json(file, folder):
    file.attrs["meta"] = "{"


def meta_not_object(file, folder):
    file.attrs["meta"] = "[1]"


def meta_not_text(file, folder):
    file.attrs["meta"] = 5


def options_missing(file, folder):
    del file["deepfool.l2"].attrs["options"]


def flat_input(file, folder):
    file["input"] = np.ones(5)


def text_hash(file, folder):
    file["hash"] = np.ones(5)


def flat_witness(file, folder):
    file["witness.deepfool.l2"] = np.ones(5)


HOSTILE = {
    no_format: "has format None; expected 'marginkit.margins'",
    newer: "has version 2; this marginkit reads 1",
    external_link: "label is a ExternalLink; expected data in this file",
    soft_link: "extra is a SoftLink",
    external_storage: "label is stored outside this file",
    virtual: "label is stored outside this file",
    objects: "text holds object; expected numbers",
    group: "nested is a Group; expected a dataset",
    wrong_length: r"label is int64 \(4,\); expected one number for each of 5",
    wrong_rank: r"label is int64 \(5, 2\)",
    wrong_type: r"label is float64 \(5,\)",
    missing: "lacks index",
    no_sample: "no dimension 'sample'",
    missing_status: r"lacks deepfool\.l2\.status",
    unknown_kind: "has kind 'guess'; expected one of estimate, upper, lower, exact",
    meta_not_json: "meta is not JSON",
    meta_not_object: "meta is a JSON list; expected an object",
    meta_not_text: "lacks the attribute 'meta'",
    options_missing: "lacks the attribute 'options'",
    flat_input: r"input is float64 \(5,\); expected 5 inputs",
    text_hash: r"hash is float64 \(5,\)",
    flat_witness: r"witness\.deepfool\.l2 is float64 \(5,\); expected 5 inputs",
}


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_files_that_are_not_tables_are_refused(tmp_path, change):
    path = tmp_path / "t.h5"
    write(table(), path)
    write(table(), tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        change(file, tmp_path)
    with pytest.raises(MarginkitError, match=f"t.h5.*{HOSTILE[change]}"):
        read(path)


def test_other_files_are_refused(tmp_path):
    write(table(), tmp_path / "t.h5")
    (tmp_path / "half.h5").write_bytes((tmp_path / "t.h5").read_bytes()[:3000])
    (tmp_path / "text.h5").write_text("not HDF5")
    for name, message in [
        ("half.h5", "half.h5 is not a readable HDF5 file"),
        ("text.h5", "text.h5 is not a readable HDF5 file"),
        ("absent.h5", "no such table"),
    ]:
        with pytest.raises(MarginkitError, match=message):
            read(tmp_path / name)

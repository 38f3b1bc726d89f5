"""Files from anybody: each trick is refused with one sentence that names the file, and runs nothing."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from marginkit_cli.main import main
from test_checkpoint import checkpoint
from test_table import column, table

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import load as load_data
from marginkit.errors import MarginkitError
from marginkit.files.hdf5_heaps import HEAP
from marginkit.methods.constraints import read_mask
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.models.checkpoint import read_state, save
from marginkit.table.reading import read
from marginkit.table.writing import write

# Tables -----------------------------------------------------------------------------------------------


def bomb(file):
    file.create_dataset("bomb", (2**40,), "i8", chunks=(2**20,), compression="gzip")


def fat_chunks(file):
    file.create_dataset("bomb", (5,), "i8", maxshape=(None,), chunks=(2**28,), compression="gzip")


def many_bombs(file):
    for i in range(20):
        file.create_dataset(f"bomb{i}", (2**24,), "i8", chunks=(2**20,), compression="gzip")


def plug_in(file):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((5,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"packed", h5py.h5t.NATIVE_INT64, h5py.h5s.create_simple((5,)), plist)


def empty(file):
    file["empty"] = h5py.Empty("f8")


def references(file):
    file.create_dataset("refs", (5,), h5py.ref_dtype)


def compound(file):
    file.create_dataset("pairs", (5,), np.dtype([("a", "i4"), ("b", "f8")]))


def long_double(file):
    file.create_dataset("long", (5,), np.longdouble)


def type_of_a_name(file):
    file["type"] = np.dtype("f8")


def hard_link_to_the_root(file):
    file["root"] = file["/"]


def nan_distance(file):
    file["deepfool.l2"][1] = np.nan


def negative_distance(file):
    file["deepfool.l2"][1] = -1


def unknown_status(file):
    file["deepfool.l2.status"][0] = 99


def impossible_rival(file):
    file["deepfool.l2.rival"][0] = -7


def negative_index(file):
    file["index"][0] = -1


def unknown_norm(file):
    file["deepfool.l2"].attrs["norm"] = "l7"


def escapes_in_a_layer(file):
    file["first_order.l2.input"].attrs["layer"] = "\x1b]0;owned\x07"


def half_a_character(file):
    file.attrs["meta"] = '{"dataset": {"name": "\\ud800"}}'


def endless_name(file):
    file["first_order.l2.input"].attrs["layer"] = "x" * 5000


def a_name_twice(file):
    file["first_order.l2.input"].attrs["layer"] = "conv1.0"


def radii_of_text(file):
    file["deepfool.l2"].attrs["options"] = '{"eps": ["far"]}'


def deep_json(file):
    file.attrs["meta"] = '{"a":' * 200 + "1" + "}" * 200


def endless_json(file):
    file.attrs["meta"] = "[" * 50_000


def long_number(file):
    file.attrs["meta"] = '{"a": 1' + "0" * 400 + "}"


def meta_of_another_form(file):
    file.attrs["meta"] = '{"dataset": ["digits"]}'


def box_of_text(file):
    file.attrs["meta"] = '{"threat": {"low": "0"}}'


def command_of_text(file):
    file.attrs["meta"] = '{"command": "rm"}'


def version_of_many(file):
    file.attrs["version"] = [1, 1]


TABLES = {
    bomb: "expand to 8,796,.*more than 100 times its size",
    fat_chunks: "expand to 2,147,484,.*more than 100 times",
    many_bombs: "expand to 2,684,.*more than 100 times",
    plug_in: "packed is packed by filter 32015; expected gzip, shuffle, fletcher32",
    empty: "empty is empty; expected numbers",
    references: "refs holds object; expected numbers",
    compound: "pairs holds .*; expected numbers",
    long_double: "long holds .*; expected numbers",
    type_of_a_name: "type is a Datatype; expected a dataset",
    hard_link_to_the_root: "root is a Group; expected a dataset",
    nan_distance: r"deepfool\.l2 has NaN with status OK",
    negative_distance: r"deepfool\.l2 has the distance -1; expected 0 or more",
    unknown_status: r"deepfool\.l2 has the status 99; expected 0 to",
    impossible_rival: r"deepfool\.l2: rival has -7; expected -1 or more",
    negative_index: "index has -1; expected 0 or more",
    unknown_norm: "has norm 'l7'; expected one of l1, l2, linf",
    escapes_in_a_layer: r"a column's layer is '\\x1b\]0;owned\\x07'; expected a name",
    half_a_character: r"meta has text that is not UTF-8: '\\ud800'",
    endless_name: "a column's layer is 'xxx",
    a_name_twice: r"two columns 'first_order\.l2\.conv1\.0'",
    radii_of_text: r"has eps = \"\['far'\]\"; expected radii above 0",
    deep_json: "meta has more than 1,000,000 values or 60 levels",
    endless_json: "meta is not JSON",
    long_number: "meta has a number of 1329 bits",
    meta_of_another_form: "meta's dataset is .*; expected an object",
    box_of_text: "meta's threat.low is '0'; expected a number or a list",
    command_of_text: "meta's command is 'rm'; expected a list",
    version_of_many: "not a readable HDF5 file|has version",
}


@pytest.mark.parametrize("change", TABLES, ids=lambda change: change.__name__)
def test_hostile_tables_are_refused(tmp_path, change):
    write(table(), tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "a") as file:
        change(file)
    with pytest.raises(MarginkitError, match=rf"t\.h5.*({TABLES[change]})"):
        read(tmp_path / "t.h5")


def test_a_heap_that_leads_nowhere_is_refused_before_it_is_walked(tmp_path):
    """libhdf5 goes round for ever in it: reading such a file never came back."""
    write(table(), tmp_path / "t.h5")
    data = bytearray((tmp_path / "t.h5").read_bytes())
    heap = data.find(HEAP)
    (tmp_path / "t.h5").write_bytes(data[: heap + 16] + struct.pack("<H6xQ", 0, 0) + data[heap + 32 :])
    with pytest.raises(MarginkitError, match=rf"t\.h5 .* the heap at {heap} is damaged|heap at byte {heap}"):
        read(tmp_path / "t.h5")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_tables_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "t.h5"
    write(replace(table(), columns=(column(),)), path)
    found = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(found)
    try:
        said = f"{path} was read"
        assert len(read(path)) <= 5
    except MarginkitError as error:
        said = str(error)
    assert str(path) in said
    assert "\n" not in said


# Checkpoints ------------------------------------------------------------------------------------------


def plain(**changes):
    good = checkpoint()
    about = {"architecture": "mlp", "options": {}, "shape": (1, 16, 16), "classes": 4, "bounds": (0.0, 1.0)}
    return {"format": "marginkit.checkpoint", "version": 1, "state": good.state, **about, **changes}


def laughs() -> list:
    found: list = ["ha"]
    for _ in range(40):
        found = [found, found]
    return found


def expanded() -> dict:
    return {**checkpoint().state, "scores.bias": torch.zeros(1).expand(2**40)}


CHECKPOINTS = {
    "architecture": (lambda: plain(architecture=["mlp"]), "its architecture is"),
    "options": (
        lambda: plain(options={"hidden": torch.zeros(3)}),
        "options has a Tensor; expected plain",
    ),
    "keys": (lambda: plain(options={3: 3}), "options has a dict; expected plain data"),
    "shape": (lambda: plain(shape=(1, -16, 16)), "its shape is"),
    "rank": (lambda: plain(shape=(1,) * 100), "its shape is"),
    "classes": (lambda: plain(classes=2**40), "its classes is"),
    "bounds": (lambda: plain(bounds=(1.0, 0.0)), "its bounds are 1.0 and 0.0"),
    "nan": (lambda: plain(bounds=(float("nan"), 1.0)), "its bounds is"),
    "laughs": (
        lambda: plain(training={"a": laughs()}),
        "training has more than 1,000,000 values",
    ),
    "digits": (lambda: plain(training={"a": 10**50}), "training has a number of 167 bits"),
    "state": (lambda: plain(state=[1]), "neither a marginkit checkpoint nor a dict of weights"),
    "names": (lambda: plain(state={"\x1b[2J": torch.zeros(1)}), r"a weight called '\\x1b\[2J'"),
    "sparse": (lambda: plain(state={"a": torch.zeros(3).to_sparse()}), "expected a plain"),
    "expanded": (
        lambda: plain(state=expanded()),
        r"scores.bias is .*, but the file holds only 4",
    ),
}


@pytest.mark.parametrize("trick", CHECKPOINTS)
def test_hostile_checkpoints_are_refused(tmp_path, trick):
    make, message = CHECKPOINTS[trick]
    torch.save(make(), tmp_path / "m.pt")
    with pytest.raises(MarginkitError, match=rf"m\.pt.*{message}"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("options", [{"hidden": [2**30, 2**30]}, {"hidden": [-1]}], ids=["huge", "negative"])
def test_a_model_larger_than_its_file_is_never_built(options):
    with pytest.raises(MarginkitError, match=r"the weights do not fit mlp|mlp can't be built"):
        replace(checkpoint(), options=options).model()


def test_a_checkpoint_that_expands_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("marginkit.files.untrusted.ROOMY", 2**24)
    with (
        zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("m/data/0", "w", force_zip64=True) as member,
    ):
        for _ in range(20):
            member.write(bytes(2**20))
    for reader in (load_checkpoint, read_state):
        with pytest.raises(MarginkitError, match=r"m\.pt has .* bytes that expand to 20,971,520"):
            reader(tmp_path / "m.pt")


def test_metadata_of_safetensors_is_not_believed(tmp_path):
    save(checkpoint(), tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    for trick, message in [
        ("[1]", "a JSON list"),
        ("[" * 40_000, "not JSON"),
        ('{"format": []}', "neither a m"),
    ]:
        header = json.loads(data[8 : 8 + length])
        header["__metadata__"] = {"marginkit": trick}
        text = json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        with pytest.raises(MarginkitError, match=rf"x\.safetensors.*({message}|holds weights only)"):
            load_checkpoint(tmp_path / "x.safetensors")


# Arrays and pictures ----------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self):
        return open, ("owned", "w")


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


HEADERS = {
    "object": "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "huge": "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }",
    "negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "nested": "(" * 4000,
    "code": "__import__('pathlib').Path('owned').touch()",
    "fields": "{'descr': [('a', '<f8'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }",
}


@pytest.mark.parametrize("trick", HEADERS)
def test_hostile_arrays_are_refused(tmp_path, monkeypatch, trick):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.npy").write_bytes(npy(HEADERS[trick], bytes(64)))
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.write("m.npy", "x.npy")
        archive.write("m.npy", "y.npy")
    with pytest.raises(MarginkitError, match=r"m\.npy is no mask for inputs of shape \[1, 4\]"):
        read_mask(tmp_path / "m.npy", (1, 4))
    with pytest.raises(MarginkitError, match=r"x\.npz is not an \.npz file of plain arrays"):
        load_data("npz:x.npz")
    assert not (tmp_path / "owned").exists()


def test_pickled_arrays_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.array([Malicious()], object), y=np.zeros(1, int))
    np.save("m.npy", np.array([Malicious()], object))
    for attempt in (lambda: load_data("npz:x.npz"), lambda: read_mask(tmp_path / "m.npy", (1,))):
        with pytest.raises(MarginkitError, match="objects, which only unpickling can read"):
            attempt()
    assert not (tmp_path / "owned").exists()


def test_an_archive_that_expands_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("marginkit.files.untrusted.ROOMY", 2**24)
    packed = io.BytesIO()
    np.save(packed, np.zeros(4, np.uint8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("y.npy", packed.getvalue())
        with archive.open("x.npy", "w", force_zip64=True) as member:
            for _ in range(20):
                member.write(bytes(2**20))
    with pytest.raises(MarginkitError, match=r"x\.npz has .* bytes that expand to .*store it less"):
        load_data(f"npz:{tmp_path / 'x.npz'}")


def test_a_broken_picture_is_named(tmp_path):
    from PIL import Image

    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / label / "good.png")
    (tmp_path / "train" / "b" / "z.png").write_bytes(
        (tmp_path / "train" / "b" / "good.png").read_bytes()[:40]
    )
    data = load_data(f"imagefolder:{tmp_path}", Source(split="train"))
    with pytest.raises(MarginkitError, match=r"z\.png is not a picture that can be read"):
        list(batches(data, 4))


# The terminal -----------------------------------------------------------------------------------------


def test_nothing_from_a_file_steers_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "\x1b[2J\x07\u202egood"
    meta = {"dataset": {"name": evil, "split": evil}, "checkpoint": {"file": evil}, "command": [evil]}
    write(replace(table().with_meta(meta), columns=(column(note=evil),)), tmp_path / "t.h5")
    (tmp_path / f"{evil}.h5").write_bytes((tmp_path / "t.h5").read_bytes())
    for arguments in (["show", "t.h5"], ["show", "-v", "t.h5"], ["compare", "t.h5", f"{evil}.h5"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert not {"\x1b", "\x07", "\u202e"} & set(result.output), arguments
    assert r"\x1b[2J" in CliRunner().invoke(main, ["show", "t.h5"]).output
    result = CliRunner().invoke(main, ["show", f"{evil}absent"])
    assert "\x1b" not in result.output
    assert "no such table" in result.output

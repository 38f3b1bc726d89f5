"""What goes wrong with a model, a method or a machine is marked, and the rest is measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from closed_form import linear
from leftovers import full, leftovers
from quickly import measure
from torch import nn

from marginkit.errors import MarginkitError, UsageError
from marginkit.events import OutOfMemory
from marginkit.kinds import Kind, Status
from marginkit.measurement.parts import Parts
from marginkit.methods import METHODS
from marginkit.methods.configure import configure_methods
from marginkit.methods.deepfool import DeepFool
from marginkit.norms import NORMS
from marginkit.table.reading import read

FAST = {"pgd": {"steps": 3, "rounds": 2}, "crown": {"precision": 0.1}, "smoothing": {"n0": 20, "n": 50}}
FAST |= {"exact": {"time_limit": 0.01}, "nearest": {"effort": "fast"}, "fixed_pgd": {"steps": 2}}


@dataclass(frozen=True)
class Hungry:
    """DeepFool in a memory that holds so many samples."""

    room: int = 3
    error: str = "gpu"
    kind: ClassVar[Kind] = Kind.UPPER

    def __call__(self, model, x, y, threat):
        if len(x) > self.room:
            if self.error == "gpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
            )
        return DeepFool(steps=5)(model, x, y, threat)


@pytest.mark.parametrize("error", ["gpu", "cpu"])
def test_out_of_memory_halves_the_batch_and_goes_on(model, digits, error):
    heard = []
    settings = {"first": 20, "batch_size": 10, "witnesses": True}
    found = measure(
        model, digits, {"m": Hungry(3, error)}, ["l2"], **settings,
        on_event=heard.append,
    )["m.l2"]  # fmt: skip
    plain = measure(model, digits, {"m": DeepFool(steps=5)}, ["l2"], **settings)["m.l2"]
    np.testing.assert_array_equal(found.status, plain.status)
    np.testing.assert_allclose(found.distance, plain.distance, rtol=1e-4)
    assert found.witness.shape == plain.witness.shape
    assert [event.samples for event in heard if isinstance(event, OutOfMemory)] == [10, 5, 5] * 2


def test_memory_for_not_even_one_sample_is_a_failed_method(model, digits):
    found = measure(model, digits, {"m": Hungry(0), "d": DeepFool()}, ["l2"], first=3)
    assert (found["m.l2"].status == Status.FAILED).all()
    assert "out of memory" in found["m.l2"].note
    assert (found["d.l2"].status != Status.FAILED).all()


class Sick(nn.Module):
    """NaN scores where the first feature says so."""

    def __init__(self, healthy: nn.Module, worst: float) -> None:
        super().__init__()
        self.healthy, self.worst = healthy, worst

    def forward(self, x):
        sick = x.flatten(1)[:, :1] > 0.5
        return torch.where(sick, self.worst, self.healthy(x))


@pytest.mark.parametrize(("worst", "batch_size"), [(torch.nan, 4), (torch.inf, 20)])
def test_scores_that_are_not_finite_mark_the_sample_in_every_column(digits, worst, batch_size):
    torch.manual_seed(0)
    everywhere = np.arange(len(digits)) % 3 == 0
    everywhere[4:8] = True  # a whole batch of four
    sick = everywhere[:20]

    def inputs(positions):
        x = digits.inputs(positions).clone()
        x[:, 0, 0, 0] = torch.from_numpy(everywhere[positions]).float()
        return x

    data = replace(digits, inputs=inputs)
    healthy = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    methods = configure_methods(list(METHODS), FAST)
    settings = {"first": 20, "batch_size": batch_size, "witnesses": True}
    found = measure(Sick(healthy, worst), data, methods, ["l1", "linf"], **settings)
    for column in found.columns:
        assert ((column.status == Status.NONFINITE) == sick).all(), column.name
        vacuous = {Kind.ESTIMATE: np.nan, Kind.UPPER: np.inf, Kind.LOWER: 0, Kind.SMOOTHED: 0}
        nothing = vacuous.get(column.kind, 0 if column.end == "lower" else np.inf)
        np.testing.assert_array_equal(column.distance[sick], nothing)
    assert (found.predicted[sick] == -1).all()
    assert (found.predicted[~sick] >= 0).all()
    well = measure(healthy, data, {"d": DeepFool()}, ["linf"], **settings)["d.linf"]
    np.testing.assert_allclose(found["deepfool.linf"].distance[~sick], well.distance[~sick], rtol=1e-5)


@dataclass(frozen=True)
class Fragile:
    """Raises on the second batch."""

    kind: ClassVar[Kind] = Kind.ESTIMATE

    def __call__(self, model, x, y, threat):
        if float(x.flatten(1).sum()) != Fragile.spared:
            raise IndexError("list index out of range")
        return METHODS["first_order"](layers=("input",))(model, x, y, threat)

    spared: ClassVar[float] = 0.0
    layers: ClassVar[tuple[str, ...]] = ("input",)


def test_a_method_that_raises_marks_its_samples_and_the_others_go_on(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Fragile, "spared", float(digits.inputs(list(range(5))).flatten(1).sum()))
    methods = {"fragile": Fragile(), "deepfool": DeepFool()}
    out = tmp_path / "a.h5"
    measure(model, digits, methods, ["l2"], first=15, batch_size=5, out=out)
    found = read(out)
    column = found["fragile.l2.input"]
    assert (column.status == Status.FAILED).tolist() == [False] * 5 + [True] * 10
    assert np.isnan(column.distance[5:]).all()
    assert column.note == "IndexError: list index out of range"
    assert np.isfinite(found["deepfool.l2"].distance).all()
    assert (tmp_path / "a.log.jsonl").read_text().count('"event": "failed"') == 2


def test_a_time_limit_for_an_unknown_method_is_refused(model, digits):
    with pytest.raises(UsageError, match="a time limit is given for 'pgd'; the methods are deepfool"):
        measure(model, digits, {"deepfool": DeepFool()}, ["l2"], time_limits={"pgd": 1})


# Precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_witnesses_hold_in_float64_whatever_the_search_computed_in(model, digits, dtype):
    names = ["first_order", "deepfool", "crown", "nearest"]
    methods = configure_methods(names, {"nearest": {"effort": "fast"}})
    found = measure(model, digits, methods, ["l2", "linf"], first=30, dtype=dtype, witnesses=True)
    plain = measure(model, digits, methods, ["l2", "linf"], first=30)
    double = model.double()
    x = torch.from_numpy(found.input).double()
    for name in ("deepfool.l2", "deepfool.linf", "nearest.l2"):
        column = found[name]
        witness = torch.from_numpy(column.witness).double()
        there = np.isfinite(column.distance)
        assert there.mean() > 0.95
        wrong = (double(witness).argmax(1).numpy() != found.label)[there]
        assert wrong.all()
        lengths = NORMS[column.norm].length(witness - x).numpy()
        np.testing.assert_allclose(lengths[there], column.distance[there], rtol=1e-6, atol=1e-9)
        sought = there & (column.distance > 0)
        ratio = np.median(column.distance[sought] / plain[name].distance[sought])
        assert abs(ratio - 1) < (0.02 if dtype == "bfloat16" else 1e-3)
    model.float()
    np.testing.assert_allclose(found["crown.l2"].distance, plain["crown.l2"].distance, rtol=5e-3)
    assert found.meta["dtype"] == dtype


def test_float64_answers_the_closed_form_to_more_digits(digits):
    case = linear(3)
    data = replace(digits, labels=case.y.numpy(), shape=(6,), inputs=lambda p: case.x[p], classes=3)
    errors = {}
    for dtype in ("float32", "float64"):
        model = nn.Linear(6, 3)
        model.load_state_dict(case.model.state_dict())
        methods = configure_methods(["first_order"], {}, {"layers": ("input",)})
        found = measure(model, data, methods, ["l2"], bounds=(None, None), dtype=dtype)
        again = replace(case, model=model.double())
        exact = (lambda c: c.distance(NORMS["l2"]))(again)
        errors[dtype] = float(np.abs(found["first_order.l2.input"].distance / exact.numpy() - 1).max())
    assert errors["float64"] < 2e-7
    assert errors["float64"] <= errors["float32"]


def test_hidden_layers_are_searched_in_every_precision(model, digits):
    methods = configure_methods(["deepfool"])
    for dtype in ("float64", "bfloat16"):
        found = measure(model, digits, methods, ["l2"], first=12, dtype=dtype, search_at=("hidden1",))
        plain = measure(model, digits, methods, ["l2"], first=12, search_at=("hidden1",))
        there = plain["deepfool.l2.hidden1"].distance > 0
        ratio = found["deepfool.l2.hidden1"].distance[there] / plain["deepfool.l2.hidden1"].distance[there]
        assert np.median(np.abs(ratio - 1)) < 0.05


def test_unknown_precisions_are_refused(model, digits):
    with pytest.raises(UsageError, match="no precision 'float8'; choose from float32, float64, bfloat16"):
        measure(model, digits, {"d": DeepFool()}, ["l2"], dtype="float8")


# Disks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["marginkit.measurement.parts.save_file", "marginkit.files.hdf5_sink.os.pwrite"]
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(model, digits, tmp_path, monkeypatch, target):
    out, settings = tmp_path / "a.h5", {"first": 20, "batch_size": 5}
    measure(model, digits, {"d": DeepFool()}, ["l2"], out=out, **settings)
    before = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        with pytest.raises(MarginkitError, match=r"^can't write .*: No space left on device$"):
            measure(model, digits, {"d": DeepFool()}, ["l2"], out=out, overwrite=True, **settings)
    assert out.read_bytes() == before
    assert not leftovers(tmp_path)
    assert len(Parts(out).numbers()) == (0 if "parts" in target else 4)
    measure(model, digits, {"d": DeepFool(), "e": DeepFool()}, ["l2"], out=out, overwrite=True, **settings)


LIMITED = """
import resource, sys
from marginkit_cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""


@pytest.mark.parametrize("size", [5_000, 45_000])
def test_files_that_may_not_grow_are_one_sentence(checkpoint_path, tmp_path, size):
    """The smaller size stops a part, the larger one the whole file, in HDF5's own writing."""
    arguments = ["measure", "--model", str(checkpoint_path), "--methods", "deepfool", "--limit", "150"]
    arguments += ["--batch-size", "50", "--device", "cpu", "--out", "a.h5", "-q", "--witnesses"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "can't write a.h5.parts" in " ".join(done.stderr.split())
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.h5").exists()
    assert not leftovers(tmp_path)
    assert len(Parts(tmp_path / "a.h5").numbers()) == (0 if size == 5_000 else 3)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_folder_in_the_files_place_is_refused(model, digits, tmp_path):
    (tmp_path / "a.h5").mkdir()
    for settings in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(MarginkitError, match=r"a\.h5"):
            measure(model, digits, {"d": DeepFool()}, ["l2"], out=tmp_path / "a.h5", first=3, **settings)
    assert (tmp_path / "a.h5").is_dir()


def test_a_file_in_the_parts_place_is_refused(model, digits, tmp_path):
    (tmp_path / "a.h5.parts").write_text("mine")
    with pytest.raises(MarginkitError, match=r"can't write .*a\.h5: File exists"):
        measure(model, digits, {"d": DeepFool()}, ["l2"], out=tmp_path / "a.h5", first=3)
    assert (tmp_path / "a.h5.parts").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused_before_anything_is_measured(model, digits, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(MarginkitError, match="Permission denied"):
            measure(model, digits, {"d": DeepFool()}, ["l2"], out=tmp_path / "a.h5", first=3)
    finally:
        tmp_path.chmod(0o700)

"""A measurement that stops anywhere goes on to the same bytes; what changed is named; nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from quickly import measure
from torch import nn

from marginkit.errors import MarginkitError
from marginkit.events import NothingNew
from marginkit.kinds import Kind, Status
from marginkit.measurement.batch import BatchRunner
from marginkit.measurement.parts import Parts
from marginkit.measurement.plan import Plan
from marginkit.methods.configure import configure_methods
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.nearest import Nearest
from marginkit.table.reading import read
from marginkit.table.table import Column, MarginTable

METHODS = {"first_order": FirstOrder(), "deepfool": DeepFool(steps=5)}


class Stopped(BaseException):
    """As a kill, no handler sees it."""


@pytest.fixture
def run(model, digits, tmp_path):
    """Measures 45 digits in batches of 10 into a file."""

    def run(name: str = "a.h5", methods=METHODS, norms=("l2",), **settings):
        settings = {"first": 45, "batch_size": 10, **settings}
        return measure(model, digits, methods, norms, out=tmp_path / name, **settings)

    return run


@pytest.fixture
def stopping(monkeypatch):
    """Stops the next measurement when so many batches are done."""

    def stopping(after: int, error: type[BaseException] = Stopped):
        done = []

        def call(work, *arguments):
            if len(done) == after:
                monkeypatch.setattr(BatchRunner, "__call__", plain)
                raise error
            done.append(1)
            return plain(work, *arguments)

        plain = BatchRunner.__call__
        monkeypatch.setattr(BatchRunner, "__call__", call)

    return stopping


@pytest.mark.parametrize(("light", "dtype"), [(False, None), (True, "float64")])
def test_a_file_changes_nothing_of_the_table(run, model, digits, tmp_path, light, dtype):
    """Columns, numbers, their types, options, witnesses, checks and provenance, to the last bit."""
    methods = {**METHODS, **configure_methods(["bim", "exact"], {"bim": {"eps": (0.1, 0.2), "steps": 3}})}
    methods["exact"] = replace(methods["exact"], time_limit=0.0)
    settings = {"witnesses": True, "checks": 2, "dtype": dtype, "light": light, "first": 15}
    whole = measure(model, digits, methods, ["l2"], batch_size=10, **settings)
    found = run("a.h5", methods, **settings)
    written = read(tmp_path / "a.h5", light=light)
    assert {"reliability", "robust_accuracy", "activation_variance"} < whole.meta.keys()
    for table in (found, written):
        assert contents(table) == contents(whole)
    assert (whole.input is None) == light
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.log.jsonl"]


def contents(value):
    """A table as plain values, with the bytes and types of its arrays."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, MarginTable | Column):
        return {field.name: contents(getattr(value, field.name)) for field in fields(value)}
    return tuple(map(contents, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("after", [0, 2, 4])
@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, ZeroDivisionError])
def test_stopping_anywhere_and_resuming_gives_the_same_bytes(run, stopping, tmp_path, after, error):
    run("whole.h5", witnesses=True)
    stopping(after, error)
    with pytest.raises(error):
        run("a.h5", witnesses=True)
    assert Parts(tmp_path / "a.h5").numbers() == set(range(after))
    assert not (tmp_path / "a.h5").exists()
    run("a.h5", witnesses=True, resume=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "a.h5.parts").exists()


@pytest.mark.quick
def test_only_unfinished_batches_are_measured_again(run, stopping, monkeypatch):
    stopping(3)
    with pytest.raises(Stopped):
        run()
    asked = []
    plain = BatchRunner.__call__
    monkeypatch.setattr(
        BatchRunner, "__call__", lambda w, b, *rest: (asked.append(int(b[0][0])), plain(w, b, *rest))[1]
    )
    run(resume=True)
    assert asked == [30, 40]


def test_a_stop_while_the_file_is_put_together_loses_nothing(run, tmp_path, monkeypatch):
    run("whole.h5")

    def stopped(*_):
        raise Stopped

    for target in (
        "marginkit.measurement.assembly.write_tables",
        "marginkit.measurement.assembly.os.replace",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, stopped)
            with pytest.raises(Stopped):
                run("a.h5", resume=True)
    with monkeypatch.context() as patch:  # the file is in its place, its parts still there
        patch.setattr(Parts, "clear", stopped)
        with pytest.raises(Stopped):
            run("a.h5", resume=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    run("a.h5", resume=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "a.h5.parts").exists()


CHANGED = [
    ({"methods": {**METHODS, "deepfool": DeepFool(steps=6)}}, "methods.deepfool.steps 5, this run has 6"),
    ({"bounds": (0.0, 2.0)}, "threat.high 1.0, this run has 2.0"),
    ({"first": 44}, "samples 45, this run has 44"),
    ({"batch_size": 9}, "batch_size 10, this run has 9"),
    ({"norms": ("linf",)}, "norms .'l2'., this run has .'linf'."),
    ({"witnesses": True}, "witnesses False, this run has True"),
    ({"dtype": "float64"}, "dtype none, this run has float64"),
    ({"search_at": ("hidden1",)}, "search_at"),
    ({"shard": (1, 2)}, "shard none"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGED, ids=lambda value: str(value)[:20])
def test_what_changed_is_named_and_refused(run, stopping, changes, message):
    stopping(2)
    with pytest.raises(Stopped):
        run()
    with pytest.raises(MarginkitError, match=message):
        run(resume=True, **changes)
    run(resume=True)


def test_another_model_or_data_set_is_refused(run, stopping, model, digits, tmp_path):
    stopping(2)
    with pytest.raises(Stopped):
        run()
    rest = {"out": tmp_path / "a.h5", "first": 45, "batch_size": 10, "resume": True}
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for _ in range(2):  # of unfinished parts, then of the finished file
        with pytest.raises(MarginkitError, match=r"has model|begun with model"):
            measure(other, digits, {"deepfool": DeepFool(steps=5)}, ["l2"], **rest)
        with pytest.raises(MarginkitError, match=r"dataset.fingerprint .*, this run has other"):
            measure(model, replace(digits, fingerprint="other"), METHODS, ["l2"], **rest)
        run(resume=True)


def test_what_is_there_is_written_over_only_when_told_to(run, stopping):
    run()
    with pytest.raises(MarginkitError, match="exists: choose another name, or add --overwrite"):
        run()
    run(overwrite=True)
    stopping(1)
    with pytest.raises(Stopped):
        run("b.h5")
    with pytest.raises(MarginkitError, match="holds an unfinished measurement: go on with --resume"):
        run("b.h5")
    run("b.h5", overwrite=True)


def test_a_replacement_that_was_stopped_is_gone_on_with(run, stopping, tmp_path):
    run(methods={"deepfool": DeepFool(steps=1)})
    old = (tmp_path / "a.h5").read_bytes()
    run("whole.h5")
    stopping(2)
    with pytest.raises(Stopped):
        run(overwrite=True)
    assert (tmp_path / "a.h5").read_bytes() == old
    assert len(Parts(tmp_path / "a.h5").numbers()) == 2
    run(resume=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_mistake_in_the_first_batch_leaves_nothing_behind(run, stopping, tmp_path):
    stopping(0, MarginkitError)
    with pytest.raises(MarginkitError):
        run()
    assert not (tmp_path / "a.h5.parts").exists()
    run()


def test_a_second_process_is_refused(run, tmp_path):
    with (
        Parts(tmp_path / "a.h5").alone(),
        pytest.raises(MarginkitError, match="being written by another process"),
    ):
        run()
    run()


def test_a_broken_part_is_named(run, stopping, tmp_path):
    stopping(2)
    with pytest.raises(Stopped):
        run()
    (tmp_path / "a.h5.parts/000001.safetensors").write_bytes(b"{}")
    with pytest.raises(MarginkitError, match=r"000001\.safetensors is not a part"):
        run(resume=True)


# A finished file -------------------------------------------------------------------------------------


def test_new_methods_and_norms_join_a_finished_file(run, stopping, tmp_path, monkeypatch):
    both = {**METHODS, **configure_methods(["lipschitz"])}
    run("whole.h5", both, ("l2", "linf"), witnesses=True)
    run("a.h5", {"deepfool": METHODS["deepfool"]}, ("l2",), witnesses=True)
    old = (tmp_path / "a.h5").read_bytes()
    stopping(3)
    with pytest.raises(Stopped):
        run("a.h5", both, ("l2", "linf"), witnesses=True, resume=True)
    assert (tmp_path / "a.h5").read_bytes() == old
    calls = []
    plain = DeepFool.__call__
    monkeypatch.setattr(DeepFool, "__call__", lambda *a: (calls.append(str(a[4].norm)), plain(*a))[1])
    run("a.h5", both, ("l2", "linf"), witnesses=True, resume=True)
    assert set(calls) == {"linf"}, "what is there is not measured again"
    found, whole = read(tmp_path / "a.h5"), read(tmp_path / "whole.h5")
    assert found.columns[0].name == "deepfool.l2"
    assert {c.name for c in found.columns} == {c.name for c in whole.columns}
    for column in whole.columns:
        np.testing.assert_array_equal(found[column.name].distance, column.distance)
        np.testing.assert_array_equal(found[column.name].witness, column.witness)
    assert found.meta["activation_variance"] == whole.meta["activation_variance"]
    assert "lipschitz.l2" in found.meta["added"][0]["columns"]


def test_a_finished_file_is_not_scanned_for_every_batch(run, monkeypatch):
    """As often with five batches as with one."""
    counts = []
    for name, size in (("a.h5", 10), ("b.h5", 45)):
        run(name, {"deepfool": METHODS["deepfool"]}, batch_size=size)
        scanned: list[Path] = []
        with monkeypatch.context() as patch:
            patch.setattr("marginkit.files.hdf5.refuse_damaged_heaps", scanned.append)
            run(name, METHODS, resume=True, batch_size=size)
        counts.append(len(scanned))
    assert counts[0] == counts[1] > 0


def test_with_nothing_new_nothing_is_touched(run, tmp_path):
    heard = []
    run()
    before = (tmp_path / "a.h5").stat()
    run(resume=True, on_event=heard.append)
    after = (tmp_path / "a.h5").stat()
    assert heard == [NothingNew(str(tmp_path / "a.h5"))]
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_a_finished_file_of_other_options_is_refused(run):
    run()
    with pytest.raises(MarginkitError, match=r"deepfool.l2.steps 5, this run has 6"):
        run(methods={"deepfool": DeepFool(steps=6)}, resume=True)
    with pytest.raises(MarginkitError, match=r"witnesses False, this run has True"):
        run(witnesses=True, resume=True)


@pytest.mark.parametrize(
    ("option", "value", "joins"),
    [
        ("slow", 0, True), ("slow", 3, False), ("memory", 0.0, True), ("memory", 0.3, False),
        ("l1_stages", (), True), ("l1_stages", ((5, 1, 1.0),), False),
    ],
)  # fmt: skip
def test_a_file_from_before_an_option_is_gone_on_with_as_it_was_measured(run, tmp_path, option, value, joins):
    """Those of `nearest` that came later; what was measured without had none."""
    run(methods={"nearest": Nearest("fast")}, norms=["l1"])
    path = tmp_path / "a.h5"
    with h5py.File(path, "r+") as file:
        options = json.loads(file["nearest.l1"].attrs["options"])
        del options[option]
        file["nearest.l1"].attrs["options"] = json.dumps(options)
    again = {
        "methods": {"nearest": Nearest("fast", **{option: value})},
        "norms": ["l1", "l2"],
        "resume": True,
    }
    if joins:
        run(**again)
        assert [column.norm for column in read(path).columns] == ["l1", "l2"]
    else:
        with pytest.raises(MarginkitError, match=option):
            run(**again)


def test_a_method_that_failed_is_tried_again(run, tmp_path, monkeypatch):
    run("whole.h5")

    def fails(*_):
        raise ZeroDivisionError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr(DeepFool, "__call__", fails)
        failed = run("a.h5")
    assert (failed["deepfool.l2"].status == Status.FAILED).all()
    run("a.h5", resume=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_samples_that_a_time_limit_left_are_gone_on_with(run, tmp_path):
    run("whole.h5")
    left = run("a.h5", time_limits={"deepfool": 1e-9})["deepfool.l2"]
    assert (left.status[:10] != Status.TIMEOUT).all(), "the limit is looked at between batches"
    assert (left.status[10:] == Status.TIMEOUT).all()
    assert np.isinf(left.distance[10:]).all()
    run("a.h5", resume=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


# Plans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 9, 10, 11, 45])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_are_whole_batches_that_cover_every_sample_once(count, shards):
    if -(-count // 10) < shards:
        with pytest.raises(MarginkitError, match="leave nothing for shard"):
            [Plan(count, 10, (i + 1, shards)) for i in range(shards)]
        return
    groups = [g for i in range(shards) for g in Plan(count, 10, (i + 1, shards)).groups.items()]
    assert dict(groups) == Plan(count, 10).groups
    assert [i for _, g in groups for i in g] == list(range(count))


def test_columns_of_no_rows_have_the_names_that_answers_have(model, digits):
    from marginkit.measurement.requests import build_requests
    from marginkit.methods.asked import Asked

    methods = configure_methods(["first_order", "exact", "crown", "nearest"])
    asked = build_requests(
        Asked(methods, ("l2",), search_at=("input", "hidden1")).resolved(model, digits.inputs([0, 1]))
    )
    assert [name for request in asked for name in request.names] == [
        "first_order.l2.input", "first_order.l2.hidden1", "first_order.l2.hidden2",
        "exact.l2.lower", "exact.l2.upper", "crown.l2", "nearest.l2", "nearest.l2.hidden1",
    ]  # fmt: skip
    kinds = {column.name: column for request in asked for column in request.blank(2, Status.FAILED)}
    assert np.isnan(kinds["first_order.l2.input"].distance).all()
    assert (kinds["crown.l2"].distance == kinds["exact.l2.lower"].distance).all()
    assert np.isinf(kinds["exact.l2.upper"].distance).all()
    assert kinds["exact.l2.upper"].kind is Kind.EXACT


# Real kills ------------------------------------------------------------------------------------------


def test_kill_9_and_resume(checkpoint_path, tmp_path):
    """A few; tests/benchmarks/kill.py has hundreds."""
    command = [
        *(sys.executable, "-m", "marginkit_cli", "measure", "--model", str(checkpoint_path)),
        *("--methods", "deepfool,first_order", "--limit", "60", "--batch-size", "4", "--device", "cpu", "-q"),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    folder = tmp_path / "killed"
    for place in (tmp_path, folder):
        place.mkdir(exist_ok=True)
    subprocess.run([*command, "--out", "a.h5"], cwd=tmp_path, env=env, check=True)
    process = subprocess.Popen([*command, "--out", "a.h5"], cwd=folder, env=env)
    parts = Parts(Path(folder / "a.h5"))
    while process.poll() is None and len(parts.numbers()) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "a.h5").exists() or len(parts.numbers()) >= 3
    subprocess.run([*command, "--out", "a.h5", "--resume"], cwd=folder, env=env, check=True)
    assert (folder / "a.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()

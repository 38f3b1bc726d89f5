"""`tighten`: a given time over a whole table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from clock import Clock
from marginkit_cli.main import main
from quickly import measure, measure_file

from marginkit.data.sources import load
from marginkit.errors import IncompatibleError, MarginkitError
from marginkit.kinds import Status
from marginkit.measurement import tighten as module
from marginkit.measurement.tighten import tighten, tighten_file
from marginkit.methods.branch_and_bound import closing
from marginkit.methods.branch_and_bound import start as known
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.nearest import Nearest
from marginkit.table.brackets import ends
from marginkit.table.reading import read
from marginkit.table.writing import write

METHODS = {"nearest": {"effort": "fast"}}


@pytest.fixture(scope="module")
def measured(checkpoint_path):
    table, _ = measure_file(
        checkpoint_path, ["nearest", "crown"], ["linf"], options=METHODS, first=6, witnesses=True
    )
    return table


@pytest.fixture(scope="module")
def tightened(measured, model):
    """With all the time in the world, however slow the machine."""
    with pytest.MonkeyPatch.context() as patch:
        Clock(tick=0.01).replace(patch)
        return tighten(measured, model, load("digits"), 600.0)


def test_certified_exact_and_found_are_in_order_and_all_is_closed(measured, tightened):
    lower, upper = tightened["exact.linf.lower"].distance, tightened["exact.linf.upper"].distance
    assert (measured["crown.linf"].distance <= lower).all()
    assert (lower <= upper).all()
    assert (upper <= measured["nearest.linf"].distance).all()
    assert (upper < measured["nearest.linf"].distance).any()
    assert (upper - lower <= 1e-5 * upper).all()
    right = measured.predicted == measured.label
    assert (tightened["exact.linf.upper"].status == np.where(right, Status.OK, Status.MISCLASSIFIED)).all()
    assert tightened.meta["tightened"][0]["closed"] == {"linf": [6, 6]}
    assert 0 < tightened.meta["tightened"][0]["seconds"] < 120


def test_witnesses_lie_at_the_upper_end(tightened):
    column = tightened["exact.linf.upper"]
    length = np.abs(column.witness - tightened.input).reshape(6, -1).max(1)
    np.testing.assert_allclose(length, column.distance, rtol=1e-4)


def test_a_second_run_takes_up_the_first_and_changes_nothing_that_is_closed(tightened, model, monkeypatch):
    monkeypatch.setattr(module.Exact, "close", None)  # not called: nothing is open
    again = tighten(tightened, model, load("digits"), 60.0)
    for name in ("exact.linf.lower", "exact.linf.upper"):
        np.testing.assert_array_equal(again[name].distance, tightened[name].distance)
    assert len(again.meta["tightened"]) == 2


def test_measuring_exact_into_a_file_starts_from_what_it_knows(measured, model, tmp_path, monkeypatch):
    """No search is run again: the witnesses in the file are where `exact` starts."""
    digits, methods = load("digits"), {"nearest": Nearest("fast"), "crown": Crown()}
    about = {"limit": 6, "batch_size": 4, "witnesses": True, "out": tmp_path / "a.h5"}
    measure(model, digits, methods, ["linf"], **about)
    for place in (known, closing):
        monkeypatch.setattr(place, "Nearest", None)
    measure(model, digits, {"exact": Exact(time_limit=600.0)}, ["linf"], resume=True, **about)
    found = read(tmp_path / "a.h5")
    lower, upper = found["exact.linf.lower"].distance, found["exact.linf.upper"].distance
    assert (found["crown.linf"].distance <= lower).all()
    assert (upper <= found["nearest.linf"].distance).all()
    assert (upper - lower <= 1e-5 * upper).all()


def test_the_time_is_kept_and_what_is_open_says_so(measured, model, monkeypatch):
    """A clock that ticks at each look: work goes on for as many looks as there are seconds, and no longer."""
    clock = Clock().replace(monkeypatch)
    found = tighten(measured, model, load("digits"), 12.0)
    assert 12 <= clock.now <= 24
    status = found["exact.linf.lower"].status
    assert (status == Status.TIMEOUT).any()
    before, after = ends(measured, "linf"), ends(found, "linf")
    assert (before.lower <= after.lower).all()
    assert (after.upper <= before.upper).all()


def test_missing_ends_are_looked_for_first(checkpoint_path, model, monkeypatch):
    Clock(tick=0.01).replace(monkeypatch)
    bare, _ = measure_file(checkpoint_path, ["lipschitz"], ["l2"], first=2)
    bare = replace(bare, columns=tuple(replace(c, distance=0 * c.distance) for c in bare.columns))
    found = tighten(bare, model, load("digits"), 60.0)
    assert np.isfinite(found["exact.l2.upper"].distance).all()
    assert (found["exact.l2.lower"].distance > 0)[bare.predicted == bare.label].all()


def test_other_inputs_are_refused_by_their_hash(measured, model):
    other = replace(measured, hash=measured.hash[::-1].copy())
    with pytest.raises(IncompatibleError, match="another hash"):
        tighten(other, model, load("digits"), 1.0)


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ({"checkpoint": {"sha256": "0"}}, r"checkpoint\.sha256"),
        ({"dataset": {"name": "digits", "split": "test", "fingerprint": "0"}}, r"dataset\.fingerprint"),
        ({"threat": {"low": 0.0, "high": 1.0, "levels": 255}}, r"threat\.levels"),
    ],
)
def test_another_provenance_is_refused_by_name(measured, checkpoint_path, tmp_path, about, named):
    write(measured.with_meta({**measured.meta, **about}), tmp_path / "t.h5")
    before = (tmp_path / "t.h5").read_bytes()
    with pytest.raises(IncompatibleError, match=named):
        tighten_file(tmp_path / "t.h5", checkpoint_path, 1.0)
    assert (tmp_path / "t.h5").read_bytes() == before


def test_a_table_of_estimates_has_no_brackets(measured, model):
    with pytest.raises(MarginkitError, match="no column of this table bounds"):
        tighten(replace(measured, columns=()), model, load("digits"), 1.0)


def test_killed_on_the_way_it_leaves_a_valid_file(measured, checkpoint_path, tmp_path, monkeypatch):
    write(measured, tmp_path / "t.h5")
    monkeypatch.setattr(module, "SAVED", 0.0)
    monkeypatch.setattr(module, "TOGETHER", 0.5)
    calls = []

    def stop(event):
        calls.append(event.closed)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tighten_file(tmp_path / "t.h5", checkpoint_path, 60.0, on_event=stop)
    found = read(tmp_path / "t.h5")
    closed, n = calls[1]["linf"]
    assert found.meta["tightened"][0]["closed"]["linf"] == [closed, n]
    assert (found["exact.linf.lower"].distance <= found["exact.linf.upper"].distance).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "t.h5"]


def test_the_command_writes_a_new_file(measured, checkpoint_path, tmp_path, monkeypatch):
    Clock(tick=0.01).replace(monkeypatch)
    write(measured, tmp_path / "t.h5")
    arguments = ["tighten", str(tmp_path / "t.h5"), "--model", str(checkpoint_path), "--time", "60"]
    found = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "new.h5")])
    assert found.exit_code == 0, found.output
    assert "linf: 6 of 6 closed" in found.output
    assert "exact.linf.lower" not in {c.name for c in read(tmp_path / "t.h5").columns}
    assert "exact.linf.lower" in {c.name for c in read(tmp_path / "new.h5").columns}
    again = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "new.h5")])
    assert again.exit_code == 1
    assert "exists" in again.output

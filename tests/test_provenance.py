"""What a table says of its origin: typed where it is read, and kept where it is not known."""

from __future__ import annotations

import json
from copy import deepcopy
from importlib.metadata import PackageNotFoundError

import h5py
import pytest
from made_up import column, table
from pydantic import ValidationError

from marginkit.errors import MarginkitError
from marginkit.table.provenance import KEPT, LATER, OWN, Provenance
from marginkit.table.reading import read
from marginkit.table.verdicts import KEY, combined
from marginkit.table.writing import write
from marginkit.versions import versions

pytestmark = pytest.mark.quick

META = {
    "command": ["marginkit", "measure"],
    "versions": {"torch": "2.14.1"},
    "checkpoint": {"file": "m.pt", "sha256": "ab", "options": {"hidden": [3]}, "newer": None},
    "dataset": {"name": "digits", "split": "test", "fingerprint": "f", "newer": {"a": 1}},
    "threat": {"low": 0, "high": None, "levels": 255, "newer": 0.5},
    "activation_variance": {"input": 4, "hidden": 0.25},
    "added": [{"columns": ["a.l2"], "newer": True}],
    "reliability": {"samples": 3, "verdicts": [{"check": "randomised", "figure": 1, "newer": "x"}]},
    "tightened": [{"seconds": 1, "closed": {"l2": [3, 4]}, "newer": []}],
    "shard": [1, 2],
    "newer": {"anything": [1, 2.5, None, "text", {"deep": [[]]}]},
}


def test_it_gives_back_what_it_was_made_of():
    """Whole numbers stay whole, null stays null, what is absent stays absent, and nothing is lost."""
    assert json.dumps(Provenance.of(META).plain()) != json.dumps({})
    for meta in (META, {}, {"threat": {}}, {"seed": None}):
        assert json.dumps(Provenance.of(meta).plain(), sort_keys=True) == json.dumps(meta, sort_keys=True)


@pytest.mark.parametrize("name", ["model_dump", "__dict__", "__class__", "plain", "of", "model_config"])
def test_keys_that_have_a_meaning_in_python_are_only_data(name):
    assert Provenance.of({name: {"a": 1}, "seed": 3}).plain() == {name: {"a": 1}, "seed": 3}


def test_a_file_of_a_newer_version_keeps_what_is_not_known(tmp_path):
    write(table(column([1.0]), meta=META), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["meta"] == json.dumps(META, sort_keys=True)
    found = read(tmp_path / "a.h5")
    assert found.meta == META
    write(found.rows(slice(0, 1)), tmp_path / "b.h5")
    assert (tmp_path / "b.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()


def test_it_is_frozen_and_plain_data_are_a_copy():
    found = Provenance.of(META)
    for record, name in ((found, "seed"), (found.dataset, "name"), (found.threat, "low")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, name, 3)
    before = deepcopy(META)
    found.plain()["dataset"]["name"] = "other"
    assert found.plain() == META == before


def test_what_is_known_is_typed():
    found = Provenance.of(META)
    assert (found.dataset.split, found.checkpoint.sha256) == ("test", "ab")
    assert (found.threat.high, found.threat.narrower) == (None, ["levels"])
    assert found.shard == [1, 2]
    assert found.tightened[0].closed == {"l2": [3, 4]}
    assert Provenance.of({}).checkpoint.file is None


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"seed": "1"}, "seed is '1'; expected a number"),
        ({"seed": True}, "seed is 'True'; expected a number"),
        ({"versions": {"torch": 2}}, "versions.torch is '2'; expected text"),
        ({"command": ["a", 3]}, r"command\[1\] is '3'; expected text"),
        ({"shard": [1]}, r"shard is '\[1\]'; expected two numbers"),
        ({"shard": [1, 2, 3]}, r"shard is '\[1, 2, 3\]'; expected two numbers"),
        ({"activation_variance": {"a": float("nan")}}, "activation_variance.a is 'nan'; expected a number"),
        ({"activation_variance": {"a": True}}, "activation_variance.a is 'True'; expected a number"),
        ({"checkpoint": "m.pt"}, "checkpoint is 'm.pt'; expected an object"),
        ({"threat": {"high": "1"}}, "threat.high is '1'; expected a number or a list"),
        ({"tightened": [{"seconds": 1}]}, r"tightened\[0\] is .*; expected an object with 'closed'"),
        ({"robust_accuracy": {}}, "robust_accuracy is '{}'; expected a list"),
    ],
)
def test_what_has_another_form_is_one_sentence(tmp_path, meta, message):
    with pytest.raises(MarginkitError, match=f"^the provenance's {message}$"):
        Provenance.of(meta)
    write(table(column([1.0])), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["meta"] = json.dumps(meta)
    with pytest.raises(MarginkitError, match=rf"a\.h5: meta's {message}$"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("names", [KEPT, LATER, OWN])
def test_what_runs_and_shards_have_in_common_are_fields(names):
    assert set(names) <= set(Provenance.model_fields)


def test_of_two_runs_checks_the_greater_doubt_stays_with_all_that_it_says():
    def judged(**about):
        return Provenance.of({KEY: {"samples": 3, "verdicts": [{"check": "randomised", **about}]}})

    mild, grave = judged(raised=False, figure=0.1), judged(raised=True, figure=0.5, where="nearest.l2")
    for before, now in ((mild, grave), (grave, mild)):
        assert combined(before, now).reliability.verdicts == grave.reliability.verdicts
    assert combined(grave, Provenance.of({"seed": 1})).plain() == {"seed": 1}
    assert combined(Provenance.of({}), mild) == mild


def test_a_folder_on_the_path_has_no_version_and_works_all_the_same(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("marginkit.versions.version", missing)
    assert versions()["marginkit"] == "not installed"

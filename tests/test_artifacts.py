"""What is kept in artifacts/: found by name, comparable, and what the code makes."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marginkit_cli.main import main
from quickly import measure_file

from marginkit.artifacts import available, located
from marginkit.data.sources import load
from marginkit.errors import UsageError
from marginkit.kinds import Kind
from marginkit.losses import LOSSES
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.options import completed
from marginkit.table.reading import read
from marginkit.table.writing import write
from marginkit.training.evaluation import accuracy
from marginkit.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
SEARCHED = 40


@pytest.fixture(scope="module")
def make():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "artifacts"))
        return runpy.run_path(str(ROOT / "artifacts/make.py"))


def test_every_model_has_its_table_and_the_other_way_round(make):
    assert available(".pt").keys() == available(".h5").keys()
    assert set(available()) == {
        f"{name}/{way}" for name, what in make["SETS"].items() for way in what.networks
    }


def test_every_model_was_trained_as_the_code_says(make):
    for name, path in available(".pt").items():
        of, way = name.split("/")
        network, kept = make["SETS"][of].networks[way], load_checkpoint(path)[0]
        assert (kept.architecture, kept.training["loss"]) == (network.architecture, network.loss), name
        for said, is_ in (
            (network.options, kept.options),
            (network.loss_options, kept.training["loss_options"]),
            (network.recipe, kept.training["recipe"]),
        ):
            assert said == {key: is_[key] for key in said}, name


def test_a_column_is_measured_anew_and_the_others_stay(make, tmp_path):
    for end in (".pt", ".h5"):
        copy(available(end)["digits/hinge"], tmp_path / f"hinge{end}")
    at = tmp_path / "hinge.h5"
    before = read(at)
    column = before["crown.linf"]
    spoilt = replace(column, distance=np.zeros(len(before)), rival=np.full(len(before), -1, dtype=np.int32))
    write(replace(before, columns=tuple(spoilt if c is column else c for c in before.columns)), at)
    said = make["renew"](tmp_path, "digits", "hinge", Path(), ["crown.linf", "lipschitz.l2"])
    after = read(at)
    assert said == [f"digits/hinge: crown.linf 0 -> {np.median(after['crown.linf'].distance):.4g}"]
    for old, new in zip(before.columns, after.columns, strict=True):
        assert (old.name, old.measured_with) == (new.name, new.measured_with)
        np.testing.assert_allclose(new.distance, old.distance, rtol=1e-3)
        assert new.name == "crown.linf" or np.array_equal(new.distance, old.distance)
    assert before.meta == after.meta


def test_checkpoints_are_small():
    sizes = [path.stat().st_size for path in available(".pt").values()]
    assert max(sizes) <= 1_000_000
    assert sum(sizes) <= 10_000_000


def test_no_kept_proof_is_above_an_adversarial_input_found():
    pairs = 0
    for path in available(".h5").values():
        table = read(path)
        for column in table.columns:
            if column.kind is Kind.LOWER:
                found = table[f"nearest.{column.norm}"].distance
                assert (column.distance <= found).all(), (path, column.name)
                pairs += 1
    assert pairs >= 30


def test_certified_artifacts_are_proved_to_nearly_where_they_are_fooled():
    certified = [read(path) for name, path in available(".h5").items() if name.endswith("/certified")]
    assert len(certified) >= 2
    for table in certified:
        assert np.median(table["lipschitz.l2"].distance) >= 0.7 * np.median(table["nearest.l2"].distance)


def test_on_cifar_the_large_margin_loss_moves_the_boundary_at_no_cost_in_accuracy():
    before, after = (read(located(f"artifact:cifar10/{way}")) for way in ("cross-entropy", "large-margin"))
    assert (after.index == before.index).all()
    right = [(table.predicted == table.label).mean() for table in (before, after)]
    assert right[1] >= right[0] - 0.005
    for column in ("nearest.l2", "nearest.linf"):
        assert np.median(after[column].distance) >= 1.25 * np.median(before[column].distance)


def test_other_paths_are_themselves_and_unknown_names_list_what_there_is():
    assert located("some/mine.h5") == Path("some/mine.h5")
    assert located("artifact:digits/hinge").name == "hinge.h5"
    assert located("artifact:digits/hinge", ".pt").name == "hinge.pt"
    for name in ("digits/nothing", "../digits/hinge", "digits/hinge.h5"):
        with pytest.raises(UsageError, match=f"no artifact '{name}'; there are cifar10/"):
            located(f"artifact:{name}")


def test_a_model_is_compared_with_an_artifact_by_name(tmp_path, checkpoint_path):
    table, _ = measure_file(checkpoint_path, ["nearest"], ["l2"], first=20)
    write(table, tmp_path / "mine.h5")
    arguments = ["compare", str(tmp_path / "mine.h5"), "--baseline", "artifact:digits/cross-entropy"]
    done = CliRunner().invoke(main, [*arguments, "--json", "-"])
    assert done.exit_code == 0, done.output
    (comparison,) = json.loads(done.stdout)["comparisons"]
    assert comparison["baseline"] == "artifact:digits/cross-entropy"
    wrong = CliRunner().invoke(main, ["compare", str(tmp_path / "mine.h5"), "artifact:digits/none"])
    assert wrong.exit_code == 2
    assert "no artifact 'digits/none'" in wrong.output


@pytest.mark.parametrize("way", ["cross-entropy", "large-margin", "adversarial"])
def test_measuring_a_kept_digits_model_gives_the_kept_distances(way):
    """But for the last digits, which are the processor's."""
    kept = read(located(f"artifact:digits/{way}"))
    model = located(f"artifact:digits/{way}", ".pt")
    anew, _ = measure_file(
        model, ["first_order", "nearest", "crown"], options={"crown": {"ascents": 0}}, first=SEARCHED
    )
    assert (anew.predicted == kept.predicted[:SEARCHED]).all()
    assert len(anew.columns) >= 10
    for column in anew.columns:
        expected = kept[column.name].distance[:SEARCHED]
        same = np.isclose(column.distance, expected, rtol=1e-3, atol=1e-5)
        assert same.mean() > 0.95, column.name  # a search may take another path on another processor
    proved = kept["exact.l2.lower"].distance[:SEARCHED]
    assert (proved <= anew["nearest.l2"].distance * (1 + 1e-5)).all()


@pytest.mark.parametrize("way", ["cross-entropy", "large-margin"])
def test_training_a_digits_model_anew_gives_the_kept_one(make, way, tmp_path):
    """Training amplifies rounding: another processor may differ by a sample or two, and in distance."""
    anew = make["fit"]("digits", way, tmp_path / "m.pt", Path("data"))
    kept = load_checkpoint(located(f"artifact:digits/{way}", ".pt"))[0]
    loss = LOSSES[anew.training["loss"]]
    assert anew.training["recipe"] == completed(Recipe, kept.training["recipe"])
    assert anew.training["loss_options"] == completed(loss, kept.training["loss_options"])
    test = load("digits")
    assert accuracy(anew.model(), test) == pytest.approx(accuracy(kept.model(), test), abs=0.01)
    table, _ = measure_file(tmp_path / "m.pt", ["nearest"], first=SEARCHED)
    for name in ("nearest.l2", "nearest.linf"):
        expected = read(located(f"artifact:digits/{way}"))[name].distance[:SEARCHED]
        assert np.median(table[name].distance) == pytest.approx(np.median(expected), rel=0.05)


def test_coloured_images_have_cifars_shape_and_still_show_theirs():
    draw = runpy.run_path(str(ROOT / "artifacts/coloured.py"))["coloured"]
    images = torch.zeros(20, 1, 28, 28)
    images[:, :, 6:22, 6:22] = 1
    first, again = (draw(images, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (20, 3, 32, 32)
    assert 0 <= first.min() <= first.max() <= 1
    within = first[:, :, 12:20, 12:20].flatten(2).std(2).mean()  # of one colour, wherever the image was put
    assert within < first[:, :, :3].flatten(2).std(2).mean()

"""The command: the main job end to end, and one clear sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from marginkit_cli.main import main

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.table.reading import read


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    if code:
        assert "Traceback" not in result.output
    return result


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


FAST = ["--epochs", 2, "--arch", "mlp", "--arch-option", "hidden=16", "--learning-rate", 5e-3]
QUICK = ["--methods", "first_order,deepfool", "--limit", 20, "--checks", 0]


def test_train_measure_compare_with_hardly_an_option(here):
    """Each command finds what the one before it wrote."""
    out = run("train", *FAST).stdout
    assert "wrote model.pt" in out
    assert "test accuracy" in out
    out = run("measure", *QUICK, "--details").stdout
    assert "deepfool.linf" in out
    assert "first_order.l2.hidden1" in out
    run("train", *FAST, "--loss", "cross-entropy", "--out", "other.pt")
    run("measure", *QUICK, "--model", "other.pt", "--out", "other.h5")
    out = run("compare", "margins.h5", "other.h5", "--json", "c.json", "--details").stdout
    assert "B minus A" in out
    (comparison,) = json.loads((here / "c.json").read_text())["comparisons"]
    assert comparison["n"] == 20
    assert {c["name"] for c in comparison["columns"]} >= {"deepfool.l2", "first_order.linf.input"}


def test_the_users_own_arrays(here):
    generator = np.random.default_rng(0)
    x = generator.random((150, 7)).astype(np.float32)
    np.savez("mine.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(int))
    run("train", "--dataset", "npz:mine.npz", *FAST, "--epochs", 20, "--batch-size", 16)
    run("measure", "--norms", "l1,l2,linf", "--limit", 10, "--checks", 0)
    table = read(here / "margins.h5")
    assert len(table) == 10
    l1, l2, linf = (np.median(table[f"nearest.{norm}"].distance) for norm in ("l1", "l2", "linf"))
    assert l1 >= l2 >= linf >= 0


def test_searches_can_be_limited(here, checkpoint_path):
    few = ["measure", "--model", checkpoint_path, "--checks", 0, "--limit", 6, "--norms", "l2", "--option"]
    quick = [*few, "nearest.effort=fast"]
    run(*quick, "--search-at", "hidden", "--out", "hidden.h5")
    assert [c.name for c in read(here / "hidden.h5").columns][-2:] == [
        "nearest.l2.hidden1", "nearest.l2.hidden2",
    ]  # fmt: skip
    np.save("mask.npy", np.arange(64).reshape(1, 8, 8) >= 32)
    run(*quick, "--mask", "mask.npy", "--out", "masked.h5")
    run(*quick, "--subspace", 20, "--out", "subspace.h5")
    masked, subspace = read(here / "masked.h5"), read(here / "subspace.h5")
    assert masked.meta["threat"]["mask"]["free"] == 32
    assert subspace.meta["threat"]["subspace"]["directions"] == 20
    assert np.isfinite(subspace["nearest.l2"].distance).all()
    assert "the threat" in run("compare", "masked.h5", "subspace.h5", code=4).stderr
    assert "not on the grid of 255 steps" in run(*quick, "--quantize", "8bit", "--out", "q.h5", code=1).stderr
    twice = "--methods", "quick=nearest,slow=nearest", "--option", "slow.effort=balanced"
    run(*few, "quick.effort=fast", *twice, "--out", "twice.h5")
    table = read(here / "twice.h5")
    assert [table[f"{name}.l2"].options["effort"] for name in ("quick", "slow")] == ["fast", "balanced"]


def test_json_on_standard_output_is_nothing_but_json(here, checkpoint_path):
    out = run("measure", "--model", checkpoint_path, *QUICK, "--json", "-").stdout
    figures = json.loads(out)
    assert figures["n"] == 20
    assert figures["columns"]["deepfool.l2"]["kind"] == "upper"
    out = run("compare", "margins.h5", "margins.h5", "--json", "-").stdout
    assert json.loads(out)["comparisons"][0]["columns"][0]["wilcoxon"] is None


@pytest.mark.quick
def test_infinities_are_text_in_json(here):
    from marginkit_cli.options import write_json

    write_json({"a": [float("inf"), -float("inf"), float("nan"), 1.5]}, Path("x.json"))
    assert json.loads(Path("x.json").read_text()) == {"a": ["inf", "-inf", None, 1.5]}


@pytest.mark.quick
def test_quiet_is_quiet(here, checkpoint_path):
    result = run("measure", "--model", checkpoint_path, *QUICK, "-qq")
    assert result.output == ""
    result = run("measure", "--model", checkpoint_path, *QUICK, "-q", "--overwrite")
    assert result.stderr == ""
    assert result.stdout.startswith("model"), "the answer, and nothing before it"


def test_a_config_file_sets_defaults_that_the_command_line_overrides(here, checkpoint_path):
    Path("run.toml").write_text(
        '[measure]\nlimit = 5\nnorms = ["linf"]\nmethods = "deepfool"\nbatch-size = 2\n'
    )
    run("measure", "--model", checkpoint_path, "--config", "run.toml", "--limit", 3)
    table = read(here / "margins.h5")
    assert len(table) == 3
    assert [column.name for column in table.columns] == ["deepfool.linf"]


def test_resume_and_overwrite(here):
    run("train", *FAST)
    assert "model.pt exists" in run("train", *FAST, code=1).output
    run("train", *FAST, "--resume")
    run("train", *FAST, "--overwrite")


@pytest.mark.quick
def test_methods_and_datasets_are_listed():
    out = run("methods").stdout
    assert "deepfool  [upper]" in out
    assert "--option pgd.starts=2" in out
    assert "npz:FILE" in run("datasets").stdout


def test_demo(here):
    out = run("demo", "--details").stdout
    assert "nearest.linf: B's distances are" in out
    assert "two checkpoints" in out
    assert sorted(path.suffix for path in (here / "marginkit-demo").glob("*.h5")) == [".h5", ".h5"]
    assert "exists" in run("demo", code=1).output


def test_debug_shows_where_it_went_wrong(here):
    result = CliRunner().invoke(main, ["--debug", "measure", "--model", "absent.pt"])
    assert type(result.exception).__name__ == "MarginkitError"


def test_an_unexpected_failure_is_one_line(here, checkpoint_path, monkeypatch):
    def explode(*args, **kwargs):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("marginkit.measurement.measure.measure_file", explode)
    result = run("measure", "--model", checkpoint_path, code=1)
    assert (
        result.stderr.strip()
        == "Error: unexpected ZeroDivisionError: surprise (marginkit --debug shows where)"
    )


def test_a_method_that_fails_is_shown_and_exits_with_5(here, checkpoint_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("marginkit.methods.deepfool.DeepFool.__call__", fails)
    result = run("measure", "--model", checkpoint_path, *QUICK, "--norms", "l2", "--details", code=5)
    assert "deepfool.l2: 20 failed, ZeroDivisionError: surprise" in result.stdout
    assert "deepfool.l2 on 20 of 20 samples; --resume tries again" in result.stderr
    assert np.isfinite(read(here / "margins.h5")["first_order.l2.input"].distance).all()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    again = run("measure", "--model", checkpoint_path, *QUICK, "--norms", "l2", "--resume")
    assert "failed" not in again.output
    nothing = run("measure", "--model", checkpoint_path, *QUICK, "--norms", "l2", "--resume")
    assert "has every column asked for already: nothing was measured" in nothing.stderr


def test_shards_are_merged(here, checkpoint_path):
    few = ["measure", "--model", checkpoint_path, *QUICK, "--norms", "l2", "--batch-size", 7]
    run(*few)
    for i in (1, 2):
        run(*few, "--shard", f"{i}/2", "--out", f"{i}.h5")
    said = run("merge", "all.h5", "2.h5", "1.h5").stdout
    assert said.splitlines()[0] == "wrote all.h5"
    assert said.splitlines()[-1].startswith("20 samples.")
    assert len(said.splitlines()) <= 14
    assert "deepfool.l2" in run("merge", "all.h5", "2.h5", "1.h5", "--overwrite", "--details").stdout
    assert run("merge", "all.h5", "2.h5", "1.h5", "--overwrite", "-qq").stdout == ""
    whole, merged = read(here / "margins.h5"), read(here / "all.h5")
    assert merged.meta | {"command": 0} == whole.meta | {"command": 0}
    np.testing.assert_array_equal(merged["deepfool.l2"].distance, whole["deepfool.l2"].distance)


def test_an_interruption_exits_with_130(here, checkpoint_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("marginkit.measurement.measure.measure_file", interrupt)
    said = run("measure", "--model", checkpoint_path, code=130).stderr
    assert "interrupted" in said
    assert "the same command with --resume goes on" in " ".join(said.split())


def test_the_commands_table_opens_without_marginkit(here, checkpoint_path):
    """As h5py shows it."""
    run("measure", "--model", checkpoint_path, *QUICK, "--witnesses")
    with h5py.File("margins.h5") as file:
        assert file.attrs["complete"] == 1
        assert file["witness.deepfool.l2"].shape == (20, 1, 8, 8)


def test_the_installed_command_runs(checkpoint_path, tmp_path):
    command = Path(sys.executable).with_name("marginkit")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert "marginkit, version" in done.stdout
    done = subprocess.run(
        [command, "compare", "a.h5", "b.h5"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (1, "Error: no such table: a.h5\n")


def test_training_data_can_be_measured_too(here, checkpoint_path):
    run("measure", "--model", checkpoint_path, "--split", "train", *QUICK)
    table = read(here / "margins.h5")
    assert table.meta["dataset"]["fingerprint"] == load("digits", Source(split="train")).fingerprint

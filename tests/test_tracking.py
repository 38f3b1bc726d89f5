"""TensorBoard, Weights & Biases and MLflow hear the same: a handful of scalars, and the report."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from made_up import column, table
from marginkit_cli.main import main

from marginkit import tracking
from marginkit.comparison.standing import of_table, scalars
from marginkit.errors import MarginkitError, UsageError
from marginkit.events import BatchDone, EpochDone, Noted, Reported
from marginkit.table.reading import read


class Heard:
    """A tracker that remembers."""

    def __init__(self, where: str = "", run: str = ""):
        self.said: list = [(where, run)]

    def scalars(self, values, step):
        self.said.append((step, dict(values)))

    def report(self, text, files):
        self.said.append((text, list(files)))

    def close(self):
        self.said.append("closed")


EVENTS = [
    EpochDone({"epoch": 2, "loss": 0.5, "accuracy": float("nan")}), Noted("?"), BatchDone(0, 8, {"pgd": 4.0}),
    Reported({"l2/found": 1.5, "l2/proved": float("inf"), "x": None}, "all is well", ["m.h5"]),
]  # fmt: skip


def test_a_tracker_hears_scalars_and_the_report(monkeypatch):
    made = []
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", lambda *given: made.append(Heard(*given)) or made[-1])
    with tracking.tracking(["mlflow:mine"], "run") as told:
        for event in EVENTS:
            told(event)
    assert made[0].said == [
        ("mine", "run"), (2, {"train/loss": 0.5}), (10, {"seconds a sample/pgd": 0.5}),
        (10, {"l2/found": 1.5}), ("all is well", [Path("m.h5")]), "closed",
    ]  # fmt: skip


def test_what_is_logged_of_a_table():
    found = scalars(of_table("m", table(column([1.0, 2.0, 3.0]))))
    assert found["l2/found"] == 2.0
    assert found["accuracy"] == 1.0
    assert {name for name in found if "robust" in name} == {"l2/robust at 2"}
    assert scalars([]) == {}


def pretended(name: str, **members) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def fakes(monkeypatch, calls):
    """Modules that look like the real ones."""

    def remember(name):
        return lambda *given, **named: calls.append((name, given, named))

    run = SimpleNamespace(**{name: remember(name) for name in ("log", "log_artifact", "finish")})
    new_file = Path("report.txt").open  # whatever its name
    artifact = SimpleNamespace(new_file=lambda _: new_file("w"), add_file=remember("add_file"))
    started = {"init": lambda **named: calls.append(("init", (), named)) or run}
    wandb = pretended("wandb", **started, Artifact=lambda *_, **__: artifact)
    names = ("set_experiment", "start_run", "log_metrics", "log_text", "log_artifact", "end_run")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", pretended("mlflow", **{n: remember(n) for n in names}))


def test_the_libraries_are_called_as_they_want(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls: list = []
    fakes(monkeypatch, calls)
    with tracking.tracking(["wandb:p", "mlflow:e"], "run") as told:
        for event in EVENTS:
            told(event)
    names = [name for name, _, _ in calls]
    assert names[:3] == ["init", "set_experiment", "start_run"]
    assert names[-2:] == ["end_run", "finish"]
    assert ("log_text", ("all is well", "report.txt"), {}) in calls
    assert ("log_metrics", ({"l2/found": 1.5},), {"step": 10}) in calls
    assert (tmp_path / "report.txt").read_text() == "all is well"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_real_tracker_keeps_it(name, monkeypatch, tmp_path):
    pytest.importorskip(name, reason=f"{name} is an extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    Path("m.h5").write_text("table")
    with tracking.tracking([name], "run") as told:
        for event in EVENTS:
            told(event)
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert any(part in file for file in kept for part in ("tfevents", ".wandb", "report.txt"))


def test_a_real_mlflow_run_can_be_read_back(monkeypatch, tmp_path, checkpoint_path):
    """The whole command, offline, into a folder: figures, the answer and the table."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "kept").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    mlflow.set_tracking_uri(None)  # an earlier run's
    few = ["--methods", "deepfool", "--norms", "l2", "--limit", "10", "--checks", "0"]
    asked = ["measure", "--model", str(checkpoint_path), *few, "--log-to", "mlflow:mine"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([experiment.experiment_id])
    found = float(np.median(read(tmp_path / "margins.h5")["deepfool.l2"].distance))
    assert run.data.metrics["l2/found"] == pytest.approx(found)
    assert run.info.status == "FINISHED"
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert kept == {"report.txt", "margins.h5"}
    said = Path(client.download_artifacts(run.info.run_id, "report.txt", str(tmp_path))).read_text()
    assert said.strip() in result.output


def test_a_missing_package_or_a_wrong_name_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(MarginkitError, match=r"pip install 'marginkit\[wandb\]'"),
        tracking.tracking(["wandb"], "r"),
    ):
        pass
    with pytest.raises(UsageError, match="no tracker 'neptune'"), tracking.tracking(["neptune:x"], "r"):
        pass


def test_training_and_measuring_tell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heard = []
    monkeypatch.setitem(tracking.TRACKERS, "wandb", lambda *given: heard.append(Heard(*given)) or heard[-1])
    quick = ["--arch", "linear", "--epochs", "1", "--loss", "cross-entropy"]
    for command in (["train", *quick], ["measure", "--methods", "deepfool", "--limit", "8", "--checks", "0"]):
        result = CliRunner().invoke(main, [*command, "--log-to", "wandb:p", "-qq"])
        assert result.exit_code == 0, result.output
    trained, measured = (tracker.said for tracker in heard)
    assert {"train/loss"} <= set(trained[1][1])
    assert "test accuracy" in trained[-2][0]
    assert "l2/found" in measured[-3][1]
    assert measured[-2] == (measured[-2][0], [Path("margins.h5")])
    assert "robust accuracy" in measured[-2][0]

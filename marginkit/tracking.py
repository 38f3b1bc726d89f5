"""What a run tells TensorBoard, Weights & Biases or MLflow: a handful of scalars, and its report."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from marginkit.errors import MarginkitError, UsageError
from marginkit.events import BatchDone, EpochDone, Event, OnEvent, Reported


@runtime_checkable
class Tracker(Protocol):
    """Where figures and reports are kept."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keeps finite numbers."""

    def report(self, text: str, files: Sequence[Path]) -> None:
        """Keeps a report, and the files beside it."""

    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Event files in a folder, by torch's own writer."""

    def __init__(self, where: str, run: str) -> None:
        """In `where`/`run`; `runs` by default."""
        _needed("tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(Path(where or "runs") / run))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One curve a name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def report(self, text: str, files: Sequence[Path]) -> None:
        """As text; event files hold no others."""
        names = "".join(f"\n    {path.resolve()}" for path in files)
        self.writer.add_text("report", "\n".join(f"    {line}" for line in text.splitlines()) + names)

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()


class WandB:
    """A run of a project; WANDB_MODE=offline keeps it here."""

    def __init__(self, where: str, run: str) -> None:
        """In the project `where`; `marginkit` by default."""
        self.package = _needed("wandb")
        self.run = self.package.init(project=where or "marginkit", name=run)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """With the step as a figure of its own: the last ones come after the last step."""
        self.run.log({**values, "step": step})

    def report(self, text: str, files: Sequence[Path]) -> None:
        """An artifact of the type `report`."""
        artifact = self.package.Artifact("report", type="report")
        with artifact.new_file("report.txt") as file:
            file.write(text)
        for path in files:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def close(self) -> None:
        """Ends the run."""
        self.run.finish()


class MLflow:
    """A run of an experiment; MLFLOW_TRACKING_URI says where."""

    def __init__(self, where: str, run: str) -> None:
        """In the experiment `where`; `marginkit` by default."""
        self.package = _needed("mlflow")
        self.package.set_experiment(where or "marginkit")
        self.package.start_run(run_name=run)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As metrics."""
        self.package.log_metrics(dict(values), step=step)

    def report(self, text: str, files: Sequence[Path]) -> None:
        """As artifacts of the run."""
        self.package.log_text(text, "report.txt")
        for path in files:
            self.package.log_artifact(str(path))

    def close(self) -> None:
        """Ends the run."""
        self.package.end_run()


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


@contextmanager
def tracking(specs: Sequence[str], run: str) -> Iterator[OnEvent]:
    """A listener that tells every tracker.

    Args:
        specs: `NAME` or `NAME:WHERE`, names as in TRACKERS.
        run: what to call this run there.

    Raises:
        UsageError: no such tracker.
        MarginkitError: its package is not installed.
    """
    with ExitStack() as closing:
        trackers = []
        for spec in specs:
            name, _, where = spec.partition(":")
            if name not in TRACKERS:
                raise UsageError(f"--log-to {spec}: no tracker {name!r}; choose from {', '.join(TRACKERS)}")
            trackers.append(TRACKERS[name](where, run))
            closing.callback(trackers[-1].close)
        yield Listener(trackers)


class Listener:
    """Turns events into scalars and reports."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        """For these."""
        self.trackers = trackers
        self.step = 0

    def __call__(self, event: Event) -> None:
        """Hears an event."""
        match event:
            case EpochDone(metrics=metrics):
                self.step = int(metrics["epoch"])
                self._scalars({f"train/{name}": value for name, value in metrics.items() if name != "epoch"})
            case BatchDone(samples=samples, seconds=seconds):
                self.step += samples
                self._scalars(
                    {f"seconds a sample/{name}": spent / samples for name, spent in seconds.items()}
                )
            case Reported(figures=figures, text=text, files=files):
                self._scalars(figures)
                for tracker in self.trackers:
                    tracker.report(text, [Path(file) for file in files])
            case _:
                pass

    def _scalars(self, values: Mapping[str, float | int | None]) -> None:
        finite = {name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}
        for tracker in self.trackers if finite else ():
            tracker.scalars(finite, self.step)


def _needed(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MarginkitError(
            f"--log-to {package} needs the package {package}: pip install 'marginkit[{package}]'"
        ) from error

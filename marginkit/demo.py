"""The main job in one go, on the embedded digits."""

from __future__ import annotations

from pathlib import Path

from marginkit import defaults
from marginkit.comparison.study import Study
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError
from marginkit.events import OnEvent, unheard
from marginkit.files.atomic import require_absent
from marginkit.measurement.measure import measure_file
from marginkit.report import html
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

LOSSES = ("cross-entropy", "large-margin")


def demonstrate(
    out: Path, *, seed: int = defaults.SEED, overwrite: bool = False, on_event: OnEvent = unheard
) -> Study:
    """Trains a cross-entropy and a large-margin model, measures both, compares them, and writes a report.

    Args:
        out: a folder, made where missing, for the checkpoints, tables and report.html.
        seed: of everything random.
        overwrite: write over an earlier demonstration.
        on_event: hears of the progress.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarginkitError(f"can't make the folder {out}: {error.strerror}") from error
    digits = load("digits", Source(split="train"))
    tables = []
    for loss in LOSSES:
        model, table = out / f"{loss}.pt", out / f"{loss}.h5"
        require_absent(table, overwrite)
        train(digits, model, loss=loss, recipe=Recipe(seed=seed), device="cpu", on_event=on_event)
        found, _ = measure_file(
            model, seed=seed, device="cpu", witnesses=True, checks=0, command=["marginkit", "demo"],
            on_event=on_event,
        )  # fmt: skip
        write(found, table)
        tables.append(found)
    study = Study.of_tables(dict(zip(LOSSES, tables, strict=True)))
    html.write(study, out / "report.html")
    return study

"""The main job in one go, on the embedded digits."""

from __future__ import annotations

from pathlib import Path

from marginkit.comparison.study import Study
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError
from marginkit.events import Track, silent
from marginkit.files.atomic import require_absent
from marginkit.measurement.measure import measure_file
from marginkit.report import html
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

LOSSES = ("cross-entropy", "large-margin")
METHODS = ("first_order", "nearest")


def demonstrate(out: Path, *, seed: int = 0, overwrite: bool = False, track: Track = silent) -> Study:
    """Trains a cross-entropy and a large-margin model, measures both, compares them, and writes a report.

    Args:
        out: a folder, made where missing, for the checkpoints, tables and report.html.
        seed: of everything random.
        overwrite: write over an earlier demonstration.
        track: shows progress.
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
        train(digits, model, loss=loss, recipe=Recipe(epochs=40, seed=seed), track=track)
        found, _ = measure_file(
            model, METHODS, seed=seed, witnesses=True, command=["marginkit", "demo"], track=track
        )
        write(found, table)
        tables.append(found)
    study = Study.of_tables(dict(zip(LOSSES, tables, strict=True)))
    html.write(study, out / "report.html")
    return study

"""Tables of what was trained, made where it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from marginkit.measurement.measure import measure_file
from marginkit.table.writing import write

SAMPLES = 1000


def measured(
    model: Path, images: Path, name: str, out: Path, methods: dict[str, float], device: str, **choice: Any
) -> None:
    """Measures a checkpoint on `x` and `y` of an .npz file, by methods that have so many seconds each.

    Args:
        model: the checkpoint.
        images: the file; it ends with the split's name.
        name: of the data set, to record.
        out: the table.
        methods: seconds by name.
        device: where to compute.
        choice: what else `measure_file` takes.
    """
    table, _ = measure_file(
        model, tuple(methods), dataset=f"npz:{images}", device=device, time_limits=methods, checks=0,
        command=["python", "artifacts/cifar/train.py"], **{"limit": SAMPLES, **choice},
    )  # fmt: skip
    about = table.meta["dataset"] | {"name": name, "split": images.stem.rpartition("-")[2]}
    write(table.with_meta({**table.meta, "dataset": about}), out)

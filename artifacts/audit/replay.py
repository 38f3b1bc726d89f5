"""Replays the audit's witnesses: `python artifacts/audit/replay.py CLONE --data-root DIR`.

Each is given to the published file by ONNX's own evaluator, nothing of marginkit's arithmetic between: the
image has to keep its label and the witness to lose it, at the distance that the table says. Exits with 1
where one does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pandas as pd
from onnx.reference import ReferenceEvaluator
from published import Case, images

HERE = Path(__file__).parent
DIGITS = 1e-6  # float32 keeps no more of a pixel


def scores(evaluator: ReferenceEvaluator, x: np.ndarray) -> np.ndarray:
    """Of one image, in the shape that the file asks for."""
    (asked,) = evaluator.input_types[:1]
    sizes = [max(1, side.dim_value) for side in asked.tensor_type.shape.dim]
    (found,) = evaluator.run(None, {evaluator.input_names[0]: x.astype(np.float32).reshape(sizes)})
    return np.asarray(found).ravel()


def fails(evaluator: ReferenceEvaluator, x: np.ndarray, y: int, witness: np.ndarray, found: float) -> str:
    """What is wrong with a witness; empty where nothing is."""
    clean, moved = scores(evaluator, x), scores(evaluator, witness)
    length = float(np.abs(witness.astype(np.float32) - x).max())
    if clean.argmax() != y or np.delete(clean, y).max() >= clean[y]:
        return "the image itself has another label"
    if np.delete(moved, y).max() <= moved[y]:
        return "the witness keeps its label"
    if length > found + DIGITS or witness.min() < 0 or witness.max() > 1:
        return f"the witness is {length:.6f} away or outside [0, 1], not {found:.6f}"
    return ""


@click.command()
@click.argument("clone", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def main(clone: Path, data_root: Path) -> None:
    """All tables beside this file."""
    failed = False
    for path in sorted(HERE.glob("*.csv")):
        network, _, split = path.stem.rpartition("-")
        case, table = Case(network, split), pd.read_csv(path)
        wrong = 0
        evaluator = ReferenceEvaluator(onnx.load(case.file(clone)))
        x, y = images(data_root, split, table.image.to_numpy())
        with np.load(path.with_suffix(".npz")) as witnesses:
            for i, row in table.iterrows():
                reason = fails(evaluator, x[i].numpy(), int(y[i]), witnesses[str(row.image)], row.found)
                wrong += bool(reason)
                if reason or row.verdict.startswith("contradicts"):
                    told = (
                        reason or f"found at {row.found:.5f}, published as robust at {row.published_proved}"
                    )
                    click.echo(f"{path.stem}, image {row.image}: {told}")
        click.echo(f"{path.stem}: {len(table)} images, {wrong} witnesses that do not hold")
        failed |= wrong > 0
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""Narrows published distances: `python artifacts/audit/audit.py CLONE mnist_relu_3_50 --data-root DIR`.

CLONE is the folder of the repository that published.py names. Writes NETWORK-SPLIT.csv, the published
interval of each image beside ours, and NETWORK-SPLIT.npz, an adversarial input at our upper end for each.
What is there already is kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from published import Case, images, intervals
from torch import Tensor, nn

from marginkit.logits import differences, rivals
from marginkit.methods.exact import Exact
from marginkit.methods.nearest import Nearest
from marginkit.models.onnx.loading import load_onnx
from marginkit.models.request import Request
from marginkit.norms import LINF
from marginkit.types import Threat

HERE = Path(__file__).parent
EDGE = 1e-5  # of the largest score, by which the rival is to be ahead: more than the order of sums changes
GRID = 1e-6  # published radii are multiples of .001: what is apart by less is the same


def verdict(row: pd.Series) -> str:
    """What our interval says of the published one."""
    if row.found < row.published_proved - GRID:
        return "contradicts its proof"
    if row.proved > row.published_found + GRID:
        return "contradicts its attack"
    width, theirs = row.found - row.proved, row.published_found - row.published_proved
    if np.isnan(theirs):
        return "closes what was open"
    return "narrower" if width < theirs - GRID else "equal" if width < theirs + GRID else "wider"


def in_float32(model: nn.Module, x: Tensor, y: Tensor, witness: Tensor) -> Tensor:
    """The witness [1, *d] moved outwards until it holds in float32 too, as the published file computes."""
    for farther in (0.0, *(10.0**-k for k in range(7, 1, -1))):
        moved = (x + (1 + farther) * (witness - x)).clamp(0, 1).float()
        scores = model(moved)
        ahead = differences(scores, y, rivals(scores, y, 1))
        if float(ahead) < -EDGE * float(scores.abs().max()):
            return moved
    raise click.ClickException("a witness does not hold in float32")


@click.command()
@click.argument("clone", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("network")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--time-limit", default=30.0, show_default=True, help="Seconds of branching an image.")
@click.option("--limit", type=int, help="Only so many images.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE, show_default="beside this file")
def main(
    clone: Path, network: str, split: str, data_root: Path, time_limit: float, limit: int | None, out: Path
) -> None:
    """Adds the images that the table does not have yet."""
    case = Case(network, split)
    out.mkdir(parents=True, exist_ok=True)
    table, kept = intervals(clone, case)[:limit], case.table(out)
    x, y = images(data_root, split, table.image.to_numpy())
    model = load_onnx(Request(str(case.file(clone)), {}, 10, look=lambda: x[:2])).model
    known = pd.read_csv(kept).set_index("image") if kept.exists() else pd.DataFrame()
    witnesses = dict(np.load(kept.with_suffix(".npz"))) if kept.exists() else {}
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows = []
    for i, row in table.iterrows():
        if row.image not in known.index:
            asked = model, x[[i]], y[[i]], Threat(LINF)
            method = Exact(tolerance=1e-4, time_limit=time_limit)
            found = method.close(*asked, known=Nearest("exhaustive")(*asked))
            moved = in_float32(model, x[[i]], y[[i]], found.witness)
            witnesses[str(int(row.image))] = moved[0, 0].numpy()
            away = (moved.double() - x[[i]].double()).abs().max()
            ends = {"proved": float(found.lower), "found": float(away)}
        else:
            ends = known.loc[row.image, ["proved", "found"]].to_dict()
        rows.append({**row, "image": int(row.image), **ends})
        rows[-1]["verdict"] = verdict(pd.Series(rows[-1]))
        pd.DataFrame(rows).to_csv(kept, index=False)
        np.savez_compressed(kept.with_suffix(".npz"), **witnesses)
    click.echo(pd.DataFrame(rows).verdict.value_counts().to_string())


if __name__ == "__main__":
    main()

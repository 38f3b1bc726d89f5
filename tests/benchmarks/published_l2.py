"""Proved shares at published radii in L2: `python tests/benchmarks/published_l2.py CASES.py CASE.npz ...`.

The loader (a module with `load(path) -> model, x, y, meta, arrays`) and the cases come from whoever has them:
models with their images, a radius `eps`, a `box` or None, and published shares in per cent. Prints what one
proof at the radius proves of all images, with each number of climbs, beside what is published; and how many
proofs lie above a distance that `nearest` found, which must be none.
"""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.lipschitz import own_stretches
from marginkit.methods.nearest import Nearest
from marginkit.norms import L2
from marginkit.types import Threat

BATCH = 16


def proved(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, radius: float, climbs: int) -> Tensor:
    """Which samples one proof at the radius holds for."""
    x = x.double()
    with torch.no_grad():
        graph = trace(doubled(model), x[:2])
        propagation = Propagation("crown", stretches=own_stretches(graph, L2), climbs=climbs)
        found = []
        for part, label in zip(x.split(BATCH), y.split(BATCH), strict=True):
            unit = torch.eye(graph.nodes[-1].shape[0], dtype=x.dtype)
            others = torch.stack([unit[torch.arange(len(unit)) != c] for c in label])
            ball = Ball(part, torch.full((len(part),), radius, dtype=x.dtype), L2, *threat.room(part))
            found.append(propagation(graph, ball, unit[label].unsqueeze(1) - others).amin(1) > 0)
    return torch.cat(found)


@click.command()
@click.argument("loader", type=click.Path(exists=True, path_type=Path))
@click.argument("cases", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--limit", type=int, help="Only so many images.")
def main(loader: Path, cases: tuple[Path, ...], limit: int | None) -> None:
    torch.set_num_threads(1)
    load = runpy.run_path(str(loader))["load"]
    table = Table(
        "case", "radius", "clean", "unbroken", "climbs", "proved", "CPU s", "above found", "published"
    )
    for case in cases:
        model, x, y, meta, _ = load(case)
        x, y = x[:limit], y[:limit]
        with torch.no_grad():
            right = model(x).argmax(1) == y
        threat, n = Threat(L2, *(meta["box"] or (None, None))), len(x)
        upper = Nearest("balanced")(model, x[right], y[right], threat).upper
        for climbs in (0, 20, 60):
            began = time.process_time()
            holds = proved(model, x[right], y[right], threat, meta["eps"], climbs)
            seconds = (time.process_time() - began) / len(holds)
            wrong = int((holds & (upper < meta["eps"])).sum())
            shares = [100 * int(part.sum()) / n for part in (right, upper > meta["eps"], holds)]
            table.add_row(
                case.stem, f"{meta['eps']:.4g}", *(f"{s:.1f}" for s in shares[:2]), str(climbs),
                f"{shares[2]:.1f}", f"{seconds:.2f}", str(wrong),
            )  # fmt: skip
        print(f"{case.stem}, published:", ", ".join(f"{k} {v}" for k, v in meta["published"].items()))
    Console().print(table)


if __name__ == "__main__":
    main()

"""Decisions at published radii: `python tests/benchmarks/verify.py CASES.py CASE.npz ... --time-limit 30`.

The loader (a module with `load(path) -> model, x, y, meta, arrays`) and the cases come from whoever has them:
models with their images, a norm, a radius `eps`, a `box` or None, and published shares in per cent. Prints
what `verify` proves, attacks and leaves open, and the seconds it takes, beside what is published; and how
many samples were both proved and attacked within the radius by `nearest` (thorough), which must be none.
"""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from marginkit.kinds import Status
from marginkit.methods.nearest import Nearest
from marginkit.methods.verify import Verify
from marginkit.norms import NORMS
from marginkit.types import Threat

BATCH = 25


@click.command()
@click.argument("loader", type=click.Path(exists=True, path_type=Path))
@click.argument("cases", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--time-limit", default=30.0, show_default=True, help="Seconds of branching a sample.")
@click.option("--limit", type=int, help="Only so many images.")
@click.option("--check/--no-check", default=True, help="Search once more, for what was proved.")
def main(loader: Path, cases: tuple[Path, ...], time_limit: float, limit: int | None, check: bool) -> None:
    torch.set_num_threads(1)
    load = runpy.run_path(str(loader))["load"]
    table = Table(
        "case", "radius", "clean", "found", "proved", "open", "CPU s", "of one", "both", "published"
    )
    for case in cases:
        model, x, y, meta, _ = load(case)
        x, y, norm = x[:limit], y[:limit], NORMS[meta["norm"]]
        threat, radius = Threat(norm, *(meta["box"] or (None, None))), meta["eps"]
        method, began, answers = Verify(radii=(radius,), time_limit=time_limit), time.process_time(), []
        for part, label in zip(x.split(BATCH), y.split(BATCH), strict=True):
            answers.append(method(model, part, label, threat))
        seconds = time.process_time() - began
        lower, upper, status = (
            torch.cat([getattr(a, k) for a in answers]) for k in ("lower", "upper", "status")
        )
        holds = lower >= radius * (1 - 1e-8)
        right = status != Status.MISCLASSIFIED
        again = (
            Nearest("thorough")(model, x[holds], y[holds], threat).upper
            if check and holds.any()
            else lower[:0]
        )
        shares = [100 * float(part.double().mean()) for part in (right, upper > radius, holds)]
        table.add_row(
            case.stem, f"{radius:.4g}", *(f"{share:.1f}" for share in shares),
            str(int((status == Status.TIMEOUT).sum())), f"{seconds:.0f}", f"{seconds / len(x):.2f}",
            str(int((again < radius).sum())), ", ".join(f"{k} {v}" for k, v in published(meta).items()),
        )  # fmt: skip
        Console().print(table)


def published(meta: dict[str, object]) -> dict[str, object]:
    """The figures among what the case says of itself."""
    told = meta["published"]
    assert isinstance(told, dict)
    return {k: v for k, v in told.items() if isinstance(v, int | float) and k not in ("eps", "images")}


if __name__ == "__main__":
    main()

"""Which starts `nearest` needs.

    python tests/benchmarks/choose_starts.py [--loader CASES.py --case FILE.npz ...] [--artifact NAME ...]

Every start is refined by itself, on every model and norm. Then starts are chosen one after the other, each
the one that takes most off the mean excess a pass (the excess: distance over the least found by any, less 1;
its mean: over all samples, models and norms). What comes after the excess stands still is not needed. The
last columns are the excess of the worst model and norm, and which it is.

The loader is a module with `load(path) -> model, x, y, meta, arrays`, inputs in [0, 1].
"""

from __future__ import annotations

import runpy
from pathlib import Path

import click
import torch
from optimality import cases_of
from rich.console import Console
from rich.table import Table
from search import Counting
from torch import Tensor, nn

from marginkit.methods.nearest import Nearest
from marginkit.norms import NORMS
from marginkit.types import Threat

STARTS = (
    *(f"{form}:{rank}" for form in NORMS for rank in range(4)), "input:1", "input:0.4", "input:0.1",
    "across:0.4", "across:2", "noise:0", "noise:1", "noise:2", "noise:3", "path:50", "path:100", "path:200",
    "path:300",
)  # fmt: skip
STAGES = ((10, 1, 1.0), (20, 1, 1.0), (40, 1, 1.0))


def alone(model: nn.Module, x: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Distances [starts, n], and passes a sample [starts] beside those of the stages."""
    found, passes = [], []
    for start in STARTS:
        counting = Counting(model)
        search = Nearest("tight", starts=(start,), stages=STAGES, units=0)
        found.append(search(counting, x, y, Threat(NORMS[norm])).upper)
        passes.append(counting.passes(len(x)) - sum(steps for steps, _, _ in STAGES[1:]))
    return torch.stack(found), torch.tensor(passes)


def chosen(excess: dict[str, Tensor], passes: Tensor) -> list[tuple[str, float, float, str]]:
    """In turn: the start, the mean excess with it, that of the worst model and norm, and which that is."""
    have = {key: torch.full_like(part[0], 1.0) for key, part in excess.items()}
    left, steps = list(range(len(STARTS))), []
    while left:
        means = [
            torch.stack([torch.minimum(have[k], e[s]).mean() for k, e in excess.items()]).mean() for s in left
        ]
        now = torch.stack([part.mean() for part in have.values()]).mean()
        gains = [(now - mean) / passes[s] for s, mean in zip(left, means, strict=True)]
        best = left.pop(int(torch.stack(gains).argmax()))
        have = {k: torch.minimum(part, excess[k][best]) for k, part in have.items()}
        worst = max(have, key=lambda key: float(have[key].mean()))
        mean = float(torch.stack([part.mean() for part in have.values()]).mean())
        steps.append((STARTS[best], mean, float(have[worst].mean()), worst))
    return steps


@click.command()
@click.option("--loader", type=click.Path(exists=True, path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--artifact", "artifacts", multiple=True, help="DATA/MODEL of those that come with marginkit.")
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--samples", default=32, show_default=True)
@click.option("--skip", default=0, show_default=True, help="Samples left out at the front.")
@click.option("--norms", default="l1,l2,linf", show_default=True)
def main(
    loader: Path | None, cases: tuple[Path, ...], artifacts: tuple[str, ...], data_root: Path, samples: int,
    skip: int, norms: str,
) -> None:  # fmt: skip
    """Prints the starts in the order in which they are worth their passes."""
    load = runpy.run_path(str(loader))["load"] if loader else None
    excess, passes = {}, []
    for name, model, x, y in cases_of(load, cases, artifacts, data_root, skip, samples):
        for norm in norms.split(","):
            found, spent = alone(model, x, y, norm)
            excess[f"{name} {norm}"] = (found / found.amin(0) - 1).nan_to_num(posinf=1.0).clamp(max=1.0)
            passes.append(spent)
            print(f"{name} {norm} done", flush=True)
    spent = torch.stack(passes).mean(0)
    table = Table("start", "passes", "mean excess", "of the worst", "which is")
    for start, mean, worst, which in chosen(excess, spent):
        cost = float(spent[STARTS.index(start)])
        table.add_row(start, f"{cost:.0f}", f"{100 * mean:.2f} %", f"{100 * worst:.2f} %", which)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

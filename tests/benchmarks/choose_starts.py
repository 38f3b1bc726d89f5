"""Which starts `nearest` needs, and how many of its attempts are worth going on with.

    python tests/benchmarks/choose_starts.py [--loader CASES.py --case FILE.npz ...] [--artifact NAME ...]
        [--stages 15,20,40 --keep 4,1 --within 2,1 --known noise:0 ...]

Every start is refined by itself through all stages, on every model and norm. As attempts do not know each
other, that tells what a search with any of the starts finds, whatever it keeps after a stage, and what it
costs. Starts are then chosen one after the other, each the one that leaves the least mean excess, until a
budget of passes is spent. The excess: distance over the least found by any start, less 1, and at most 20 % so
that no model rules; its mean: over all samples, models and norms. The last columns are the mean excess in
each norm, and the worst model's.

The loader is a module with `load(path) -> model, x, y, meta, arrays`, inputs in [0, 1].
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from optimality import cases_of
from rich.console import Console
from rich.table import Table
from search import Counting
from torch import Tensor, nn

from marginkit.guard.folding import folded
from marginkit.guard.passes import FORWARD
from marginkit.methods.search.refinement import refine
from marginkit.methods.search.starts import Linear, Start, each_start
from marginkit.norms import NORMS
from marginkit.types import Threat

STARTS = (
    *(f"{form}:{rank}" for form in NORMS for rank in range(4)), "input:1", "input:0.4", "across:0.4",
    "across:2", "noise:0", "noise:1", "noise:2", "noise:3", "path:30", "path:50", "path:100", "path:200",
)  # fmt: skip
RIVALS, MOST = 9, 0.2
ENDS = (
    1 + RIVALS * 0.63 + 4
)  # passes beside the attempts': the input's gradients, the last point's, bisection


@dataclass(frozen=True)
class Alone:
    """Every start by itself: distances [starts, stages + 1, n], and what it takes to begin [starts]."""

    found: Tensor
    passes: Tensor

    @property
    def least(self) -> Tensor:
        """The least found by any, [n]."""
        return self.found.flatten(0, 1).amin(0)

    def together(
        self, rows: list[int], steps: list[int], keep: list[int], within: list[float]
    ) -> tuple[Tensor, float]:
        """What a search with those starts finds, [n], and its passes a sample."""
        found, passes = self.found[rows], float(self.passes[rows].sum()) + ENDS
        alive = torch.ones_like(found[:, 0], dtype=torch.bool)
        best = found[:, 0].amin(0)
        for stage, count in enumerate(steps, 1):
            passes += float(alive.sum()) / len(best) * (count + FORWARD)
            now = torch.where(alive, found[:, stage], torch.inf)
            best = torch.minimum(best, now.amin(0))
            if stage <= len(keep):
                rank = now.argsort(dim=0, stable=True).argsort(dim=0)
                alive &= (rank < keep[stage - 1]) & (now <= within[stage - 1] * now.amin(0))
        return best, passes


def alone(model: nn.Module, x: Tensor, y: Tensor, norm: str, steps: list[int]) -> Alone:
    """Every start refined by itself; inf where it met no boundary."""
    threat, found, passes = Threat(NORMS[norm]), [], []
    linear = Linear.at(model, x, y, threat, RIVALS)
    for text in STARTS:
        counting = Counting(model)
        pool = each_start(counting, x, y, threat, [Start.parse(text, threat.norm)], linear)
        passes.append(counting.passes(len(x)))
        bests = [pool.least(len(x))]
        for count in steps:
            pool = refine(model, x, y, threat, pool, count)
            pool.rewind()
            bests.append(pool.least(len(x)))
        found.append(torch.stack(bests))
    return Alone(torch.stack(found), torch.tensor(passes))


@click.command()
@click.option("--loader", type=click.Path(exists=True, path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--artifact", "artifacts", multiple=True, help="DATA/MODEL of those that come with marginkit.")
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--samples", default=24, show_default=True)
@click.option("--skip", default=0, show_default=True, help="Samples left out at the front.")
@click.option("--norms", default="l1,l2,linf", show_default=True)
@click.option("--stages", default="15,20,40", show_default=True, help="Steps of each.")
@click.option("--keep", default="4,1", show_default=True, help="Attempts that go on after each but the last.")
@click.option("--within", default="2,1", show_default=True, help="And within which factor of the best.")
@click.option("--known", multiple=True, help="A start to begin with.")
@click.option("--budget", default=600.0, show_default=True, help="Passes a sample.")
def main(
    loader: Path | None, cases: tuple[Path, ...], artifacts: tuple[str, ...], data_root: Path, samples: int,
    skip: int, norms: str, stages: str, keep: str, within: str, known: tuple[str, ...], budget: float,
) -> None:  # fmt: skip
    """Prints the starts in the order in which they are worth their passes."""
    load = runpy.run_path(str(loader))["load"] if loader else None
    steps, kept = [int(k) for k in stages.split(",")], [int(k) for k in keep.split(",")]
    factors = [float(k) for k in within.split(",")]
    found: dict[str, Alone] = {}
    for name, model, x, y in cases_of(load, cases, artifacts, data_root, skip, samples):
        for norm in norms.split(","):
            found[f"{name} {norm}"] = alone(folded(model, x.shape[1:]) or model, x, y, norm, steps)
            print(f"{name} {norm} done", flush=True)

    def judged(rows: list[int]) -> tuple[dict[str, float], float]:
        """The mean excess of every model and norm, and the mean passes."""
        excess, spent = {}, []
        for key, each in found.items():
            best, passes = each.together(rows, steps, kept, factors)
            excess[key] = float((best / each.least - 1).nan_to_num(posinf=MOST).clamp(max=MOST).mean())
            spent.append(passes)
        return excess, sum(spent) / len(spent)

    table = Table("start", "passes in all", "mean excess", *norms.split(","), "of the worst", "which is")
    rows: list[int] = []
    begin = [STARTS.index(name) for name in known]
    while len(rows) < len(STARTS):
        options = begin[len(rows) :][:1] or [row for row in range(len(STARTS)) if row not in rows]
        rows.append(min(options, key=lambda row: sum(judged([*rows, row])[0].values())))
        excess, passes = judged(rows)
        if passes > budget:
            break
        of = {n: [e for key, e in excess.items() if key.endswith(f" {n}")] for n in norms.split(",")}
        worst = max(excess, key=lambda key: excess[key])
        shares = [sum(excess.values()) / len(excess), *(sum(e) / len(e) for e in of.values()), excess[worst]]
        table.add_row(STARTS[rows[-1]], f"{passes:.0f}", *(f"{100 * e:.2f} %" for e in shares), worst)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

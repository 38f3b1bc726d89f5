"""How near searches come to the nearest adversarial input known, beside other libraries.

    python tests/benchmarks/optimality.py [--loader CASES.py --case FILE.npz ...] [--artifact DATA/MODEL ...]

Local optimality (AttackBench: Cinà et al., AAAI 2025, arXiv 2404.19460) of a search on a model: with d* the
least distance that any search found for a sample, and M the largest d*, (M - mean min(d, M)) / (M - mean d*);
1 where it is as near as any on every sample, 0 where it finds nothing. Global optimality: its mean over
models. No search may spend more than 2,000 passes a sample (or `--budget`), forward and backward counted by
themselves; each has the steps that use them or that its authors recommend. Every adversarial input is judged
alike: misclassified, inside the box, at its distance in float64; a failure is infinitely far. Samples that
are misclassified are left out.

Also: on how many samples another library's search is more than 1 % nearer, and by which factor at worst.
adv-lib (BSD) is taken from `--adv-lib PATH`, a checkout; foolbox and torchattacks where they are installed.

What is known to be wrong with others, and shows here: foolbox's FMN in L2 projects onto nothing (distances
of 1 and more), its EAD gives up early; its DDN starts at radius 1 and needs dozens of steps to reach a small
distance; FMN's steps are absolute, so it fails on some samples and stays far away on others; ALMA has
outliers of several times the distance.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from peers import BUDGET, Search, within_budget
from rich.console import Console
from rich.table import Table
from search import Counting
from torch import Tensor, nn

from marginkit.artifacts import located
from marginkit.data.dataset import Source
from marginkit.data.sources import load as load_data
from marginkit.methods.nearest import EFFORTS, Nearest
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.norms import NORMS
from marginkit.types import Threat

BATCH = 64


def cases_of(
    load: Callable[[Path], Any] | None, cases: tuple[Path, ...], artifacts: tuple[str, ...], data_root: Path,
    skip: int, samples: int,
) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:  # fmt: skip
    """Name, model, inputs and labels, the correctly classified ones after those skipped."""
    for case in cases:
        assert load is not None, "--case needs a --loader"
        model, x, y, *_ = load(case)
        yield case.stem, *_right(model, x, y, skip, samples)
    for name in artifacts:
        data = load_data(name.split("/")[0], Source(split="test", root=data_root))
        few = min(len(data), 2 * (skip + samples) + 100)
        x, y = data.inputs(list(range(few))), torch.from_numpy(data.labels[:few])
        model = load_checkpoint(located(f"artifact:{name}", ".pt"))[0].model()
        yield name, *_right(model, x, y, skip, samples)


def _right(
    model: nn.Module, x: Tensor, y: Tensor, skip: int, samples: int
) -> tuple[nn.Module, Tensor, Tensor]:
    model.eval().requires_grad_(False)
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(BATCH)]) == y
    return model, x[right][skip : skip + samples], y[right][skip : skip + samples]


def searches(norm: str, adv_lib: Path | None, budget: int = BUDGET) -> dict[str, Search]:
    """Ours, then the others that are at hand."""
    found: dict[str, Search] = {
        f"nearest {effort}": partial(_nearest, effort, norm) for effort in EFFORTS if effort != "exhaustive"
    }
    return found | within_budget(norm, adv_lib, budget)


def _nearest(effort: Any, norm: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    witness = Nearest(effort)(model, x, y, Threat(NORMS[norm])).witness
    assert witness is not None
    return witness


def distances(model: nn.Module, x: Tensor, y: Tensor, found: Tensor, norm: str) -> Tensor:
    """Of what is adversarial and inside the box, in float64; inf elsewhere."""
    found = found.detach().nan_to_num(nan=-1.0)
    with torch.no_grad():
        wrong = torch.cat([model(part).argmax(1) for part in found.split(BATCH)]) != y
    inside = ((found >= -1e-6) & (found <= 1 + 1e-6)).flatten(1).all(1)
    return torch.where(wrong & inside, NORMS[norm].length(found.double() - x.double()), torch.inf).cpu()


def local_optimality(distance: Tensor, least: Tensor) -> float:
    """Of one search on one model; see above."""
    most = least[least.isfinite()].max()
    return float((most - distance.clamp(max=most).mean()) / (most - least.clamp(max=most).mean()))


Row = dict[str, Any]  # distances, passes, CPU seconds a sample


def measured(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    run: dict[str, Search],
    rows: dict[str, Row],
    budget: int = BUDGET,
) -> dict[str, Row]:
    """The searches to run on one model, beside the rows that are known already.

    Those that raise, or spend more than the budget by a seventh, are left out: stderr has them.
    """
    for name, search in run.items():
        if name in rows:
            continue
        counting, began = Counting(model), time.process_time()
        torch.manual_seed(0)
        try:
            found = torch.cat(
                [search(counting, a, b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)]
            )
        except Exception as error:  # another library's code may do anything
            print(
                f"{name} fails: {(str(error).splitlines() or [type(error).__name__])[0][:90]}",
                file=sys.stderr,
            )
            continue
        spent = (counting.counts.forwards + counting.counts.backwards) / len(x)
        if spent > 1.15 * budget:
            print(f"{name} took {spent:.0f} passes, more than {budget}: left out", file=sys.stderr)
            continue
        rows[name] = {
            "distance": distances(model, x, y, found, norm).tolist(), "passes": spent,
            "seconds": (time.process_time() - began) / len(x),
        }  # fmt: skip
    return rows


def show(found: dict[str, dict[str, Row]], norm: str) -> None:
    """One table a norm: optimality by model and over all, and samples on which another library is nearer."""
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    models = list(found)
    table = Table("", "passes", *models, "global", "> 1 % behind", "worst", title=norm)
    for name in names:
        cells, behind, worst, total, passes = [], 0, 1.0, 0, []
        for rows in found.values():
            every = {other: torch.tensor(row["distance"]) for other, row in rows.items()}
            if name not in every:
                cells.append(None)
                continue
            least = torch.stack(list(every.values())).amin(0)
            cells.append(local_optimality(every[name], least))
            others = [d for other, d in every.items() if other != name and not other.startswith("nearest")]
            passes.append(rows[name]["passes"])
            if others:
                ratio = every[name] / torch.stack(others).amin(0)
                behind, total = behind + int((ratio > 1.01).sum()), total + len(ratio)
                worst = max(worst, float(ratio[ratio.isfinite()].max()))
        known = [cell for cell in cells if cell is not None]
        shown = ["" if cell is None else f"{cell:.4f}" for cell in cells]
        overall = f"{sum(known) / len(known):.4f}" if len(known) == len(cells) else ""
        share = f"{100 * behind / total:.1f} %" if total else ""
        table.add_row(name, f"{sum(passes) / len(passes):.0f}", *shown, overall, share, f"{worst:.3f}")
    Console(width=60 + 14 * len(models)).print(table)


@click.command()
@click.option("--loader", type=click.Path(exists=True, path_type=Path), help="Module with load(path).")
@click.option("--case", "cases", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--artifact", "artifacts", multiple=True, help="DATA/MODEL of those that come with marginkit.")
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option(
    "--adv-lib", type=click.Path(exists=True, path_type=Path), help="A checkout of adversarial-library."
)
@click.option("--samples", default=64, show_default=True)
@click.option("--skip", default=0, show_default=True, help="Samples left out at the front.")
@click.option("--norms", default="l1,l2,linf", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--budget", default=BUDGET, show_default=True, help="Passes, forward and backward counted apart."
)
@click.option("--only", default="", help="Searches to run, a regular expression.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Distances, as JSON; what it has is not run again."
)
def main(
    loader: Path | None, cases: tuple[Path, ...], artifacts: tuple[str, ...], data_root: Path,
    adv_lib: Path | None, samples: int, skip: int, norms: str, device: str, budget: int, only: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Prints a table a norm; without cases, on the digits."""
    warnings.simplefilter("ignore")
    load = runpy.run_path(str(loader))["load"] if loader else None
    if not cases and not artifacts:
        artifacts = ("digits/cross-entropy", "digits/adversarial")
    found: dict[str, dict[str, dict[str, Row]]] = json.loads(out.read_text()) if out and out.exists() else {}
    found |= {norm: found.get(norm, {}) for norm in norms.split(",")}
    for name, model, x, y in cases_of(load, cases, artifacts, data_root, skip, samples):
        for norm in norms.split(","):
            models = found[norm]
            every = searches(norm, adv_lib, budget)
            run = {key: search for key, search in every.items() if re.search(only, key)}
            models[name] = measured(
                model.to(device), x.to(device), y.to(device), norm, run, models.get(name, {}), budget
            )
            print(f"{name} {norm} done", file=sys.stderr, flush=True)
            if out:
                out.write_text(json.dumps(found))
    for norm in norms.split(","):
        show(found[norm], norm)


if __name__ == "__main__":
    main()

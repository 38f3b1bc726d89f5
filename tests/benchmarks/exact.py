"""Exact distances of small ReLU networks: `python tests/benchmarks/exact.py --data-root data`.

Trains each network for a moment, and prints which share of correctly classified test samples is closed
within the time limit, seconds a sample (of the wall clock, `nearest` and `crown` included), and how far the
others' ends are apart. The digits need no data; `--net 784-50-50` names a Fashion-MNIST network.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST

from marginkit.data import Source, batches, load
from marginkit.kinds import Status
from marginkit.margins.exact import Exact
from marginkit.norms import NORMS
from marginkit.types import Threat


def digits(split: str) -> tuple[Tensor, Tensor]:
    data = load("digits", Source(split=split))
    _, x, y = next(batches(data, len(data)))
    return x.flatten(1), y


def fashion(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    found = FashionMNIST(str(root), train=train)
    return found.data.float().div(255).flatten(1), found.targets


def fitted(sizes: list[int], x: Tensor, y: Tensor, steps: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    while steps:
        for part in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
            steps = max(0, steps - 1)
    return model.eval()


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--net", "nets", multiple=True, default=["64-32-32"], show_default=True)
@click.option("--norm", "norms", multiple=True, default=list(NORMS), show_default=True)
@click.option("--samples", default=10, show_default=True)
@click.option("--limit", default=15.0, show_default=True, help="Seconds a sample.")
@click.option("--steps", default=1500, show_default=True, help="Of training.")
@click.option("--box/--no-box", default=False, show_default=True)
@click.option("--solver", default="branch", show_default=True)
def main(
    data_root: Path, nets: tuple[str, ...], norms: tuple[str, ...], samples: int, limit: float, steps: int,
    box: bool, solver: str,
) -> None:  # fmt: skip
    """Prints shares closed and seconds a sample, on one thread."""
    torch.set_num_threads(1)
    table = Table("net", "norm", "closed", "median s", "mean s", "max s", "open: lower / upper")
    for net in nets:
        sizes = [*map(int, net.split("-")), 10]
        train, test = (digits(split) if sizes[0] == 64 else fashion(data_root, split == "train")
                       for split in ("train", "test"))  # fmt: skip
        model = fitted(sizes, *train, steps)
        x, y = test
        right = (model(x).argmax(1) == y).nonzero().squeeze(1)[:samples]
        method = Exact(time_limit=limit, solver=solver)  # type: ignore[arg-type]
        for name in norms:
            threat = Threat(NORMS[name], *((0.0, 1.0) if box else (None, None)))
            spent, gaps = [], []
            for i in right.tolist():
                start = time.perf_counter()
                found = method(model, x[i : i + 1], y[i : i + 1], threat)
                spent.append(time.perf_counter() - start)
                assert bool((found.lower <= found.upper).all())
                if int(found.status) != Status.OK:
                    gaps.append(f"{float(found.lower / found.upper):.3f}")
            times = torch.tensor(spent)
            closed = f"{100 * (1 - len(gaps) / len(spent)):.0f} %"
            shown = (f"{float(v):.2f}" for v in (times.median(), times.mean(), times.max()))
            table.add_row(net, name, closed, *shown, " ".join(gaps))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

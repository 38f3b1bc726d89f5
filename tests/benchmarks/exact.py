"""Exact distances of small ReLU networks: `python tests/benchmarks/exact.py --data-root data`.

Trains each network for a moment (once: it is kept in --nets), and prints which share of correctly classified
test samples is closed within the time limit beside the share that we aim at; seconds a sample, `nearest` and
`crown` included, of the clock and of the processor, on one thread; and how far the open samples' ends are
apart. `--case 784-50-50:linf` names one line; `--box` measures inside [0, 1].
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import load
from marginkit.kinds import Status
from marginkit.methods.exact import Exact
from marginkit.norms import NORMS
from marginkit.types import Threat


@dataclass(frozen=True)
class Case:
    """One line of the table: the share that shall be closed within `limit` seconds a sample."""

    net: str
    norm: str
    limit: float
    share: float

    @property
    def name(self) -> str:
        return f"{self.net}:{self.norm}"


CASES = [
    *(Case("64-32-32", norm, 10.0, 1.0) for norm in NORMS),
    *(Case("784-20-20", norm, 10.0, 1.0) for norm in NORMS),
    Case("784-50-50", "l2", 15.0, 0.95),
    Case("784-50-50", "linf", 15.0, 0.85),
    Case("784-100-100", "l2", 10.0, 0.8),
    *(Case(net, "linf", 10.0, 0.5) for net in ("conv4", "conv8")),
    *(Case(net, "l2", 10.0, 0.25) for net in ("conv4", "conv8")),
]  # fmt: skip


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for into, out in pairwise((*sizes, 10)):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def conv(channels: int, stride: int, units: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 5, stride), nn.ReLU(), nn.Flatten(), nn.Linear(units, 10)
    )  # fmt: skip


NETS: dict[str, Callable[[], nn.Sequential]] = {
    "64-32-32": lambda: mlp(64, 32, 32),
    "784-20-20": lambda: mlp(784, 20, 20),
    "784-50-50": lambda: mlp(784, 50, 50),
    "784-100-100": lambda: mlp(784, 100, 100),
    "conv4": lambda: conv(4, 3, 256),
    "conv8": lambda: conv(8, 4, 288),
}


def pictures(net: str, split: str, root: Path) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, or Fashion-MNIST."""
    if net.startswith("64"):
        data = load("digits", Source(split=split))
        _, x, y = next(batches(data, len(data)))
        return x, y
    found = FashionMNIST(str(root), train=split == "train")
    return found.data.float().div(255).unsqueeze(1), found.targets


def trained(net: str, seed: int, root: Path, kept: Path, steps: int = 1500) -> nn.Module:
    """The network of that seed, from `kept` where it is."""
    torch.manual_seed(seed)
    model, path = NETS[net](), kept / f"{net}.{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    x, y = pictures(net, "train", root)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        part = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    kept.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def row(case: Case, model: nn.Module, x: Tensor, y: Tensor, solver: str, box: bool) -> dict[str, Any]:
    """Measures one line, sample by sample."""
    method = Exact(time_limit=case.limit, solver=solver)  # type: ignore[arg-type]
    threat = Threat(NORMS[case.norm], *((0.0, 1.0) if box else (None, None)))
    clock, processor, gaps = [], [], []
    for i in range(len(x)):
        start, used = time.perf_counter(), time.process_time()
        found = method(model, x[i : i + 1], y[i : i + 1], threat)
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
        assert bool((found.lower <= found.upper).all())
        if int(found.status) != Status.OK:
            gaps.append(round(float(found.lower / found.upper), 4))
    return {
        "case": case.name, "limit": case.limit, "aim": case.share, "closed": 1 - len(gaps) / len(x),
        "clock": [median(clock), mean(clock), max(clock)],
        "processor": [median(processor), mean(processor), max(processor)],
        "open": sorted(gaps),
    }  # fmt: skip


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--nets", type=click.Path(path_type=Path), help="Where networks are kept.")
@click.option("--case", "chosen", multiple=True, help="NET:NORM; all by default.")
@click.option("--samples", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the networks.")
@click.option("--box/--no-box", default=False, show_default=True)
@click.option("--solver", default="branch", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Keep the figures.")
def main(
    data_root: Path, nets: Path | None, chosen: tuple[str, ...], samples: int, seed: int, box: bool,
    solver: str, json_file: Path | None,
) -> None:  # fmt: skip
    """Prints shares closed and seconds a sample."""
    torch.set_num_threads(1)
    kept = nets or Path(tempfile.gettempdir()) / "marginkit-exact-nets"
    rows = []
    table = Table(
        "case", "limit", "aim", "closed", "clock: median, mean, max", "processor", "open: lower / upper"
    )
    for case in CASES:
        if chosen and case.name not in chosen:
            continue
        model = trained(case.net, seed, data_root, kept)
        x, y = (part[: 2 * samples + 20] for part in pictures(case.net, "test", data_root))
        right = (model(x).argmax(1) == y).nonzero().squeeze(1)[:samples]
        found = row(case, model, x[right], y[right], solver, box)
        rows.append(found)
        shown = [" ".join(f"{v:.2f}" for v in found[key]) for key in ("clock", "processor", "open")]
        table.add_row(case.name, f"{case.limit:g} s", f"{case.share:.0%}", f"{found['closed']:.0%}", *shown)
        if json_file is not None:
            json_file.write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

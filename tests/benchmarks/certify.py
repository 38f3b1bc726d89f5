"""Certified radii on Fashion-MNIST: `python tests/benchmarks/certify.py --data-root data`.

Trains an MLP and a small CNN for a moment, and prints each method's CPU time a sample and the median of
proved / found. With `--case FILE` (Wong and Kolter's published weights, .npz) also how many test samples the
parallel and the adaptive bound certify at Linf .1, and with `--resnet` the time of one ResNet-18 sample.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.methods import METHODS
from marginkit.methods.crown import Crown
from marginkit.methods.lipschitz import Lipschitz
from marginkit.models.architectures import ARCHITECTURES
from marginkit.norms import L1, L2, LINF
from marginkit.types import Threat

PROOFS = {
    "crown": Crown(),
    "crown, same slopes": Crown(slopes="same"),
    "crown-ibp": Crown(bounds="crown-ibp"),
    "ibp": Crown(bounds="ibp"),
    "lipschitz, layered": Lipschitz(),
    "lipschitz, product, pairwise": Lipschitz(bound="product"),
    "lipschitz, product": Lipschitz(bound="product", pairwise=False),
}


def images(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    found = FashionMNIST(str(root), train=train)
    return found.data.float().div(255).unsqueeze(1), found.targets


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    return {"mlp 100-100": mlp, "cnn 8-16-64": convolutional(4), "cnn 8-16-64, 3x3": convolutional(3)}


def convolutional(kernel: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, kernel, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, kernel, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    model.eval()


def tightness(model: nn.Module, x: Tensor, y: Tensor, title: str, against: str) -> None:
    table = Table("norm, box", "method", "CPU ms", "median proved", f"/ {against}", "smallest", title=title)
    for norm in (LINF, L2, L1):
        for box in ((None, None), (0.0, 1.0)):
            threat = Threat(norm, *box)
            found = METHODS[against]()(model, x, y, threat).upper
            for name, method in PROOFS.items():
                start = time.process_time()
                answer = method(model, x, y, threat)
                spent = 1000 * (time.process_time() - start) / len(x)
                ok = answer.status == 0
                ratio = (answer.lower / found)[ok]
                assert (ratio <= 1 + 1e-9).all()
                numbers = (answer.lower[ok].median(), ratio.median(), ratio.min())
                where = f"{norm}, {'box' if box[0] == 0 else 'none'}"
                table.add_row(where, name, f"{spent:.2f}", *(f"{float(v):.4g}" for v in numbers))
    Console().print(table)


def wong_kolter(path: Path, x: Tensor, y: Tensor) -> None:
    stored = np.load(path)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    model.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored})
    model, x, unit = doubled(model), x.double(), torch.eye(10, dtype=torch.float64)
    graph = trace(model, x[:2])
    for same in (True, False):
        right = certified = 0
        start = time.process_time()
        for part in torch.arange(len(x)).split(20):
            part = part[model(x[part]).argmax(1) == y[part]]
            right += len(part)
            ball = Ball(x[part], torch.full((len(part),), 0.1, dtype=torch.float64), LINF)
            targets = (unit[y[part]].unsqueeze(1) - unit)[torch.arange(10) != y[part].unsqueeze(1)]
            bounds = Propagation("crown", same, 2**20)(graph, ball, targets.view(len(part), 9, 10))
            certified += int((bounds > 0).all(1).sum())
        spent = time.process_time() - start
        print(f"{'same' if same else 'adaptive'} slopes: {right} right, {certified} certified, {spent:.0f} s")


def resnet(bounds: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES["resnet18"]()((3, 32, 32), 10).eval()
    x = torch.rand(1, 3, 32, 32)
    start = time.process_time()
    answer = Crown(bounds=bounds, precision=0.05)(model, x, model(x).argmax(1), Threat(LINF))  # type: ignore[arg-type]
    print(f"resnet18, {bounds}: radius {float(answer.lower):.3g}, {time.process_time() - start:.0f} s")


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--samples", default=100, show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--against", default="pgd", show_default=True, help="The search that tightness is measured by.")
@click.option("--case", type=click.Path(path_type=Path), help="Wong and Kolter's weights.")
@click.option("--resnet", "resnet_bounds", help="Bounds to time on ResNet-18: ibp, crown-ibp or crown.")
def main(
    data_root: Path, samples: int, epochs: int, against: str, case: Path | None, resnet_bounds: str | None
) -> None:
    """Prints CPU milliseconds a sample on one thread, and tightness."""
    torch.set_num_threads(1)
    x, y = images(data_root, train=False)
    if resnet_bounds:
        resnet(resnet_bounds)
    elif case:
        wong_kolter(case, x, y)
    else:
        for title, model in networks().items():
            fit(model, *images(data_root, train=True), epochs)
            tightness(model, x[:samples], y[:samples], f"{title}, {samples} test images", against)


if __name__ == "__main__":
    main()

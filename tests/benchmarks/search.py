"""`nearest` beside other libraries: `python tests/benchmarks/search.py --data-root DIR`.

The same cnn trained with cross-entropy and with PGD (Linf .1) on Fashion-MNIST; the first test samples. All
adversarial inputs are verified in the same way: misclassified, inside the box, at the distance in float64;
a failure counts as infinitely far. Every search runs `--repeats` times in turn (`tight`, `thorough` and ART
once), and the median of its seconds is shown: leave the machine alone meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from peers import peers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from marginkit.data.dataset import Data, Source, batches
from marginkit.data.sources import load
from marginkit.guard.passes import BACKWARD, FORWARD
from marginkit.methods.nearest import EFFORTS, Nearest
from marginkit.methods.search.descent import descend, likelihood, steepest
from marginkit.models.architectures import ARCHITECTURES
from marginkit.norms import LINF, NORMS, Norm
from marginkit.types import Threat

EPS, STEPS = 0.1, 5
Found = tuple[float, np.ndarray]  # seconds, distances


def trained(kind: str, folder: Path, data: Data, epochs: int) -> nn.Module:
    """The model of that kind from the folder, or trained and put there."""
    torch.manual_seed(0)
    model = ARCHITECTURES["cnn"]()(data.shape, data.classes)
    path = folder / f"{data.name}-{kind}.state.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    steps = epochs * -(-len(data) // 128)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(data)).tolist()
        for _, x, y in batches(data, 128, positions=order):
            if kind == "robust":
                x = attacked(model, x, y)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD from a random point of the ball; inputs that have crossed already stay where they crossed."""
    radius = torch.full((len(x),), EPS)
    start = EPS * (2 * torch.rand_like(x) - 1)
    found = descend(model, x, y, Threat(LINF), radius, start, likelihood(y), [0.3] * STEPS, steepest)
    return torch.where(found.isnan(), (x + start).clamp(0, 1), found).detach()


def distances(model: nn.Module, x: Tensor, y: Tensor, found: Tensor, norm: Norm) -> np.ndarray:
    """Verified; 0 where the clean input is misclassified, inf where the search failed."""
    with torch.no_grad():
        wrong, clean = model(found).argmax(1) != y, model(x).argmax(1) != y
    inside = ((found >= -1e-6) & (found <= 1 + 1e-6)).flatten(1).all(1)
    length = norm.length(found.double() - x.double())
    return torch.where(clean, 0, torch.where(wrong & inside, length, torch.inf)).numpy()


def timed(search: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds, and what was found."""
    start = time.perf_counter()
    found = search()
    return time.perf_counter() - start, found.detach()


def one_pass(model: nn.Module, x: Tensor, repeats: int = 7) -> float:
    """Seconds a sample of one forward and backward pass to the input."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).amax(1).sum(), leaf)
        seconds.append(time.perf_counter() - start)
    return median(seconds) / len(x)


class Counts:
    """Samples that passed forward and backward; a model's copies add to the same ones."""

    forwards = backwards = 0

    def __deepcopy__(self, memo: object) -> Counts:
        """Itself."""
        return self


class Counting(nn.Module):
    """Counts samples that pass forward and backward through it or its copies."""

    def __init__(self, model: nn.Module) -> None:
        """Around a model."""
        super().__init__()
        self.model, self.counts = model, Counts()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """As the model."""
        self.counts.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._back)
        scores: Tensor = self.model(x)
        return scores

    def _back(self, gradient: Tensor) -> None:
        self.counts.backwards += len(gradient)

    def passes(self, samples: int) -> float:
        """Those forward and back a sample."""
        return (FORWARD * self.counts.forwards + BACKWARD * self.counts.backwards) / samples


def cell(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, classes: int, repeats: int) -> dict[str, Found]:
    """Every search in turn: its median seconds and its distances."""
    threat = Threat(norm)
    searches: dict[str, Callable[[], Tensor]] = {
        f"nearest {effort}": lambda effort=effort: Nearest(effort)(model, x, y, threat).witness  # type: ignore[misc]
        for effort in EFFORTS
        if effort != "exhaustive"  # passes without a budget
    }
    for name, peer in peers(norm, classes).items():
        searches[name] = lambda peer=peer: peer(model, x, y)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    found: dict[str, np.ndarray] = {}
    for repeat in range(repeats):
        for name, search in searches.items():
            if repeat and any(slow in name for slow in ("tight", "thorough", "ART")):
                continue  # nobody's time is compared with theirs
            spent, witness = timed(search)
            seconds[name].append(spent)
            found[name] = distances(model, x, y, witness.nan_to_num(nan=-1.0), norm)
    return {name: (median(seconds[name]), found[name]) for name in searches}


def show(title: str, results: dict[str, Found], model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> None:
    """The table of one cell, and what `nearest` spends outside the network."""
    least = np.min([d for name, (_, d) in results.items() if not name.startswith("nearest")], axis=0)
    right = least > 0
    table = Table("", "s", "success", "median", "mean", "median ratio", "<= 1 %", "worst", title=title)
    for name, (seconds, d) in results.items():
        ratio = d[right] / least[right]
        row = [np.isfinite(d).mean(), np.median(d), d.mean()]
        row += [np.median(ratio), (ratio <= 1.01).mean(), ratio.max()]
        table.add_row(name, f"{seconds:.2f}", *[f"{value:.4f}" for value in row])
    console = Console(width=110)
    console.print(table)
    single = one_pass(model, x)
    for effort in ("fast", "balanced"):
        counting = Counting(model)
        spent, _ = timed(lambda: Nearest(effort)(counting, x, y, Threat(norm)).witness)  # type: ignore[arg-type, return-value]  # noqa: B023
        passes, back = counting.counts.forwards / len(x), counting.counts.backwards / len(x)
        console.print(
            f"nearest {effort}: {passes:.0f} forward, {back:.0f} backward passes a sample; time /"
            f" (forward passes x one forward and backward) = {spent / len(x) / passes / single:.2f}"
        )
    for effort, peer in FASTER:
        if peer in results:
            ratio = results[peer][0] / results[f"nearest {effort}"][0]
            console.print(f"nearest {effort} is {ratio:.1f}x as fast as {peer}")


FASTER = [
    ("fast", "torchattacks DeepFool"),
    ("fast", "foolbox DeepFool"),
    ("fast", "torchattacks FAB(10)"),
    ("balanced", "foolbox DDN(100)"),
    ("balanced", "foolbox FMN(100)"),
]


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default=Path("bench-models"), show_default=True)
@click.option("--samples", default=256, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--norms", default="l2,linf", show_default=True)
def main(data_root: Path, models: Path, samples: int, repeats: int, norms: str) -> None:
    """Trains the two models where they are missing, and prints a table for each model and norm."""
    train, test = (load("fashion-mnist", Source(split=split, root=data_root)) for split in ("train", "test"))
    x, y = test.inputs(list(range(samples))), torch.from_numpy(test.labels[:samples])
    for kind, epochs in (("standard", 4), ("robust", 5)):
        model = trained(kind, models, train, epochs)
        for name in norms.split(","):
            results = cell(model, x, y, NORMS[name], test.classes, repeats)
            show(f"{kind}, {name}, {samples} samples", results, model, x, y, NORMS[name])


if __name__ == "__main__":
    main()

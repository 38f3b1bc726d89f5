"""Few samples, wrong labels, noise: `python artifacts/cifar/regimes.py --data-root DIR` (resumable).

The regimes of Elsayed et al., arXiv 1803.05598, on CIFAR-10 with the residual network of the artifacts:
cross-entropy and large margin on 2,500 images, and on 5,000 of which 40 % have a wrong label, three seeds.
Each run adds one line to regimes.jsonl; those that are there are skipped. regimes.md has the tables, and the
artifacts' accuracy under Gaussian noise.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from images import cifar10
from scipy import stats

from marginkit.artifacts import located
from marginkit.data.dataset import Data
from marginkit.models.checkpoint import load
from marginkit.training.evaluation import accuracy
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

HERE = Path(__file__).parent
RUNS = HERE / "regimes.jsonl"
NETWORK = {"width": 16, "blocks": (1, 1, 1), "stride": 2}
# Made for wrong labels (docs/training.md): no cost for samples classified wrong, after some cross-entropy.
WRONG = {"steps": 0, "alpha": 1.0, "cross_entropy": 0.0, "warm_up": 0.2}
REGIMES: dict[str, dict[str, Any]] = {
    "2,500 images": {"fraction": 0.05, "epochs": 20},
    "5,000 images, 40 % wrong": {"fraction": 0.1, "epochs": 15, "label_noise": 0.4},
}
WAYS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "2,500 images": {"cross-entropy": ("cross-entropy", {}), "large margin": ("large-margin", {})},
    "5,000 images, 40 % wrong": {
        "cross-entropy": ("cross-entropy", {}),
        "large margin": ("large-margin", WRONG),
    },
}
SEEDS = (0, 1, 2)
SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class Run:
    """One training."""

    regime: str
    way: str
    seed: int


def runs() -> list[Run]:
    """All of them; after each seed the table has a row more of everything."""
    return [Run(regime, way, seed) for seed in SEEDS for regime in REGIMES for way in WAYS[regime]]


def fit(run: Run, data: Data, at: Path, **changed: Any) -> torch.nn.Module:
    """The network after its last epoch."""
    loss, options = WAYS[run.regime][run.way]
    recipe = {"learning_rate": 2e-3, "validation": 0.0, "seed": run.seed} | REGIMES[run.regime] | changed
    return train(
        data, at, architecture="resnet", architecture_options=NETWORK,
        loss=loss, loss_options=options, recipe=Recipe(**recipe),
    ).model()  # fmt: skip


def interval(values: list[float]) -> str:
    """Mean and half the length of its 95 % t interval, in percent."""
    each = 100 * np.array(values)
    if len(each) < 2:
        return f"{each.mean():.1f}"
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
    return f"{each.mean():.1f} ± {half:.1f}"


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Accuracy on all test images in each regime, and what large margin leads by, seed by seed."""
    rows = ["| | cross-entropy | large margin | lead, paired | seeds |", "|---|---|---|---|---|"]
    for regime in REGIMES:
        mine = [line for line in lines if line["regime"] == regime]
        first, second = (
            {line["seed"]: line["accuracy"] for line in mine if line["way"] == way} for way in WAYS[regime]
        )
        both = sorted(first.keys() & second.keys())
        if both:
            a, b = ([of[seed] for seed in both] for of in (first, second))
            lead = interval([y - x for x, y in zip(a, b, strict=True)])
            rows.append(f"| {regime} | {interval(a)} | {interval(b)} | {lead} | {len(both)} |")
    return rows


def noisy(test: Data) -> list[str]:
    """The artifacts' accuracy with Gaussian noise on the inputs."""
    rows = ["| sigma | " + " | ".join(f"{sigma:g}" for sigma in SIGMAS) + " |", "|---" * 6 + "|"]
    for way in ("cross-entropy", "large-margin", "adversarial"):
        model = load(located(f"artifact:cifar10/{way}", ".pt"))[0].model()
        each = (f"{accuracy(model, test, sigma=sigma, batch_size=1000):.1%}" for sigma in SIGMAS)
        rows.append(f"| `{way}` | " + " | ".join(each) + " |")
    return rows


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def main(data_root: Path) -> None:
    """Does what is not done yet, and writes the tables."""
    torch.set_num_threads(1)
    data, test = (cifar10(data_root, split) for split in ("train", "test"))
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    for run in runs():
        if any(asdict(run).items() <= line.items() for line in lines):
            continue
        with TemporaryDirectory() as folder:
            model = fit(run, data, Path(folder) / "model.pt")
        lines.append(asdict(run) | {"accuracy": accuracy(model, test, batch_size=1000)})
        with RUNS.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        click.echo(lines[-1])
    text = ["# CIFAR-10 (a JPEG copy): accuracy on all test images, percent, 95 % t intervals", ""]
    (HERE / "regimes.md").write_text("\n".join([*text, *table(lines), "", *noisy(test)]) + "\n")


if __name__ == "__main__":
    main()

"""The runs behind the figures: `python artifacts/paper/run.py --data-root DIR` (resumable).

Each run trains one model and adds one line to runs.jsonl; those that are there are skipped. The regimes are
those of Elsayed et al., arXiv 1803.05598 (label noise, training-set size, Gaussian noise, FGSM and I-FGSM,
white box and transferred), on a scale for one CPU core: a small network and 2,000 images of MNIST.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import nn

from marginkit.data import Data, Source, load
from marginkit.evaluation import noise_accuracy
from marginkit.losses.inner import worst_inputs
from marginkit.margins.nearest import Nearest
from marginkit.norms import L2, LINF
from marginkit.recipe import Recipe
from marginkit.training import train
from marginkit.types import Threat

HERE = Path(__file__).parent
RUNS, CHOSEN = HERE / "runs.jsonl", HERE / "chosen.json"

PAPER = {"steps": 0, "alpha": 1.0, "cross_entropy": 1.0}  # linearised at the input; wrong labels pull less
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("cross-entropy", {}),
    "hinge": ("hinge", {}),
    **{
        f"{norm}, {layers}": ("large-margin", PAPER | {"norm": norm, "layers": (layers,)})
        for layers in ("input", "all")
        for norm in ("l1", "l2", "linf")
    },
    "default": ("large-margin", {}),
}
ARCHITECTURE = {"channels": (8, 16), "kernel": 3, "hidden": 64}
SAMPLES, TEST, SEARCHED = 2000, 2000, 100
NOISE = (0.2, 0.4, 0.6, 0.8)
SIZES = (75, 500)
SEEDS = (0, 1, 2)
EPS = (0.05, 0.1, 0.15, 0.2)
SIGMAS = (0.1, 0.2, 0.3, 0.4)
GRID = [{"learning_rate": rate} for rate in (1e-3, 3e-3)]
TUNED_AT = 0.4  # label noise; by the accuracy on held-out samples, whose labels are as noisy


@dataclass(frozen=True)
class Run:
    """One model: how it is trained, and what of."""

    way: str
    seed: int
    label_noise: float = 0.0
    samples: int = SAMPLES


def runs() -> Iterator[Run]:
    """All of them, the most telling first."""
    for seed in SEEDS:
        for way in WAYS:
            yield Run(way, seed)
        for way in WAYS:
            yield from (Run(way, seed, label_noise=noise) for noise in NOISE)
        for way in WAYS:
            yield from (Run(way, seed, samples=size) for size in SIZES)


def fit(run: Run, data: Data, settings: dict[str, float], epochs: int, held_out: float, at: Path) -> Any:
    """The checkpoint of a run."""
    loss, options = WAYS[run.way]
    recipe = Recipe(
        epochs=epochs * max(1, min(10, round(SAMPLES / run.samples / 2))),  # small sets need more passes
        validation=held_out,
        fraction=run.samples / len(data),
        label_noise=run.label_noise,
        seed=run.seed,
        **settings,  # type: ignore[arg-type]
    )
    return train(data, at, architecture_options=ARCHITECTURE, loss=loss, loss_options=options, recipe=recipe)


def tune(data: Data, epochs: int, at: Path) -> dict[str, dict[str, float]]:
    """The best of the same grid for every way, and what each point of it gave."""
    chosen: dict[str, Any] = {}
    for way in WAYS:
        scores = [
            fit(Run(way, 0, TUNED_AT), data, point, epochs, 0.1, at).training["history"][-1]["accuracy"]
            for point in GRID
        ]
        chosen[way] = GRID[scores.index(max(scores))] | {"held_out": scores}
    return chosen


def robustness(model: nn.Module, other: nn.Module, test: Data) -> dict[str, Any]:
    """Accuracy under noise and attacks on cross-entropy, and beside them the distances really found."""
    x, y = test.inputs(list(range(len(test)))), torch.from_numpy(test.labels)
    found: dict[str, Any] = {"input_noise": {sigma: noise_accuracy(model, test, sigma) for sigma in SIGMAS}}
    for name, steps, size in (("fgsm", 1, 1.0), ("ifgsm", 10, 0.25)):
        for where, source in (("", model), ("_transfer", other)):
            found[name + where] = {
                eps: _accuracy(model, _attacked(source, x, y, eps, steps, size), y) for eps in EPS
            }
    few, labels = x[:SEARCHED], y[:SEARCHED]
    linf = Nearest(effort="fast")(model, few, labels, Threat(LINF)).upper
    l2 = Nearest(effort="fast")(model, few, labels, Threat(L2)).upper
    found["nearest_linf"] = {eps: (linf > eps).double().mean().item() for eps in EPS}
    return found | {"median_l2": l2.median().item(), "median_linf": linf.median().item()}


def _attacked(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int, size: float
) -> torch.Tensor:
    return worst_inputs(
        model, x, Threat(LINF), eps, lambda scores: F.cross_entropy(scores, y, reduction="none"),
        steps=steps, step_size=size, random_start=False,
    )  # fmt: skip


def _accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--epochs", default=15, show_default=True, help="Of 2,000 samples.")
def main(data_root: Path, epochs: int) -> None:
    """Does what is not done yet."""
    torch.set_num_threads(1)
    data = load("mnist", Source(split="train", root=data_root))
    test = load("mnist", Source(split="test", root=data_root))
    test = replace(test, labels=test.labels[:TEST])
    done = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    with TemporaryDirectory() as folder:
        at = Path(folder) / "model.pt"
        if not CHOSEN.exists():
            CHOSEN.write_text(json.dumps(tune(data, epochs, at), indent=1) + "\n")
        chosen = json.loads(CHOSEN.read_text())
        settings = {way: {k: v for k, v in best.items() if k != "held_out"} for way, best in chosen.items()}
        source = fit(Run("cross-entropy", 99), data, settings["cross-entropy"], epochs, 0.0, at).model()
        for run in runs():
            if any(asdict(run).items() <= line.items() for line in done):
                continue
            model = fit(run, data, settings[run.way], epochs, 0.0, at).model()
            line = asdict(run) | {"accuracy": noise_accuracy(model, test, 0.0)}
            if run == Run(run.way, run.seed):
                line |= robustness(model, source, test)
            with RUNS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            click.echo(f"{run}: {line['accuracy']:.4f}")


if __name__ == "__main__":
    main()

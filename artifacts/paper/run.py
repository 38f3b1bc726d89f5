"""The runs behind the figures: `python artifacts/paper/run.py --data-root DIR` (resumable).

Each run trains one model and adds one line to runs.jsonl; those that are there are skipped. The regimes are
those of Elsayed et al., arXiv 1803.05598 (label noise, training-set size, Gaussian noise, FGSM and I-FGSM,
white box and transferred), on a scale for CPU cores: a small network and 2,000 images of MNIST.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import nn

from marginkit.data.dataset import Data, Source
from marginkit.data.regimes import limited
from marginkit.data.sources import load
from marginkit.logits import right
from marginkit.losses.inner_maximisation import worst_inputs
from marginkit.methods.nearest import Nearest
from marginkit.models.checkpoint import Checkpoint
from marginkit.norms import L2, LINF
from marginkit.training.evaluation import accuracy
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Threat

HERE = Path(__file__).parent
RUNS, CHOSEN = HERE / "runs.jsonl", HERE / "chosen.json"

# The paper's loss after a fifth of training with cross-entropy alone; a sample classified wrong is let be.
PAPER = {"steps": 0, "alpha": 1.0, "cross_entropy": 0.0, "warm_up": 0.2}
GAMMA = {"l1": 8.0, "l2": 1.0, "linf": 0.07}  # about what cross-entropy reaches
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("cross-entropy", {}),
    "hinge": ("hinge", {}),
    **{
        f"{norm}, {layers}": ("large-margin", PAPER | {"norm": norm, "gamma": gamma, "layers": (layers,)})
        for layers in ("input", "all")
        for norm, gamma in GAMMA.items()
    },
    "default": ("large-margin", {}),
}
ARCHITECTURE = {"channels": (8, 16), "kernel": 3, "hidden": 64}
SAMPLES, ATTACKED, SEARCHED = 2000, 2000, 100
NOISE = (0.2, 0.4, 0.6, 0.8)
SIZES = (75, 500)
SEEDS = (0, 1, 2)
EPS = (0.05, 0.1, 0.15, 0.2)
SIGMAS = (0.1, 0.2, 0.3, 0.4)
GRID = [{"learning_rate": rate, "epochs": epochs} for rate, epochs in product((1e-3, 3e-3), (15, 40))]
TUNED_AT = (0.0, 0.4)  # label noise: without any, and with some
HELD_OUT = 5000  # samples that tuning compares by, their labels as noisy


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


def fit(run: Run, data: Data, settings: dict[str, Any]) -> Checkpoint:
    """The model of a run after its last epoch."""
    loss, options = WAYS[run.way]
    recipe = Recipe(
        learning_rate=settings["learning_rate"],
        epochs=settings["epochs"] * max(1, min(10, SAMPLES // run.samples // 2)),  # few samples: more passes
        validation=0.0,
        fraction=run.samples / len(data),
        label_noise=run.label_noise,
        seed=run.seed,
    )
    with TemporaryDirectory() as folder:
        at = Path(folder) / "model.pt"
        return train(
            data, at, architecture_options=ARCHITECTURE, loss=loss, loss_options=options, recipe=recipe
        )


def tune(way: str, noise: float, root: Path) -> dict[str, Any]:
    """The best of the grid, the same for every way, and what each point gave on held-out samples."""
    data = mnist(root, "train")
    data, _ = limited(data, (SAMPLES + HELD_OUT) / len(data), noise, seed=0)
    own = replace(data, labels=data.labels[:SAMPLES])
    held_out = replace(
        data,
        inputs=lambda positions: data.inputs([SAMPLES + position for position in positions]),
        labels=data.labels[SAMPLES:],
    )
    scores = [accuracy(fit(Run(way, 0), own, point).model(), held_out) for point in GRID]
    return GRID[scores.index(max(scores))] | {"held_out": scores}


@cache
def mnist(root: Path, split: str) -> Data:
    """A split, read once in each process."""
    torch.set_num_threads(1)
    return load("mnist", Source(split=split, root=root))


@cache
def chosen() -> dict[str, dict[str, dict[str, Any]]]:
    """For each way and label noise tuned at, the settings."""
    return json.loads(CHOSEN.read_text())  # type: ignore[no-any-return]


def tuned(run: Run, root: Path) -> nn.Module:
    """A run's model, with the settings chosen for its way, with wrong labels or without."""
    settings = chosen()[run.way][str(TUNED_AT[run.label_noise > 0])]
    return fit(run, mnist(root, "train"), settings).model()


@cache
def source(root: Path) -> nn.Module:
    """Whose adversarial inputs are transferred."""
    return tuned(Run("cross-entropy", 99), root)


def perform(run: Run, root: Path) -> dict[str, Any]:
    """What runs.jsonl says of a run."""
    test = mnist(root, "test")
    model = tuned(run, root)
    found = asdict(run) | {"accuracy": accuracy(model, test)}
    if run == Run(run.way, run.seed):
        found |= robustness(model, source(root), replace(test, labels=test.labels[:ATTACKED]))
    return found


def robustness(model: nn.Module, other: nn.Module, test: Data) -> dict[str, Any]:
    """Accuracy under noise and attacks on cross-entropy, and beside them the distances really found."""
    x, y = test.inputs(list(range(len(test)))), torch.from_numpy(test.labels)
    found: dict[str, Any] = {"input_noise": {sigma: accuracy(model, test, sigma=sigma) for sigma in SIGMAS}}
    for name, steps, size in (("fgsm", 1, 1.0), ("ifgsm", 10, 0.25)):
        for where, source in (("", model), ("_transfer", other)):
            found[name + where] = {
                eps: _right(model, _attacked(source, x, y, eps, steps, size), y) for eps in EPS
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


def _right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float(right(model(x), y).double().mean())


def choose(pool: ProcessPoolExecutor, root: Path) -> None:
    """Writes chosen.json."""
    best: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    jobs = {(way, noise): pool.submit(tune, way, noise, root) for way, noise in product(WAYS, TUNED_AT)}
    for (way, noise), job in jobs.items():
        best[way][str(noise)] = job.result()
        click.echo(f"{way}, {noise:.0%} wrong labels: {best[way][str(noise)]}")
    CHOSEN.write_text(json.dumps(best, indent=1) + "\n")


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--processes", default=2, show_default=True, help="Runs at the same time, a core each.")
def main(data_root: Path, processes: int) -> None:
    """Does what is not done yet."""
    done = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    missing = [run for run in runs() if not any(asdict(run).items() <= line.items() for line in done)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        if not CHOSEN.exists():
            choose(pool, data_root)
        for job in as_completed([pool.submit(perform, run, data_root) for run in missing]):
            line = job.result()
            with RUNS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            click.echo(f"{line['way']}, seed {line['seed']}: {line['accuracy']:.4f}")


if __name__ == "__main__":
    main()

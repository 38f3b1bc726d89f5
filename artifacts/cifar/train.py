"""Trains what CIFAR-10's artifacts are: `python artifacts/cifar/train.py packed.npz --out DIR`.

On the GPU where there is one, with all data on it. First each kind of training is timed on a few steps, and
the epochs are chosen such that a stage takes its seconds; what has not begun when the budget is spent is left
out. Writes DIR/models.zip (checkpoints and tables of the main jobs), DIR/many.zip and tables.zip (the small
networks and theirs) and DIR/figures.json.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from jobs import SIGMAS, STAGES, Job, jobs
from many import WIDTHS, pixels, train_many
from pack import data, unpacked
from tables import measured
from torch import Tensor

from marginkit.data.dataset import Data, batches
from marginkit.events import EpochDone
from marginkit.training.evaluation import accuracy
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

RADII = (36 / 255, 72 / 255, 108 / 255, 0.5, 1.0, 1.58, 2.0)
MEASURED = ("plain", "certified", "mnist")
METHODS = {"lipschitz": 60.0, "nearest": 150.0}
MAIN = 6  # jobs that matter most
SHOWN = ("epochs", "seconds", "accuracy", "by construction", "measured after")
FEW = 5000  # samples of the many networks
LOADED: dict[tuple[str, str, str], Data] = {}


@dataclass(frozen=True)
class OnDevice:
    """Bytes that stay on the device, given as floats in [0, 1]."""

    pixels: Tensor

    def __call__(self, positions: list[int]) -> Tensor:
        """Inputs [n, ...]."""
        return self.pixels[torch.tensor(positions, device=self.pixels.device)].float() / 255


def loaded(folder: Path, name: str, split: str, device: str) -> Data:
    """A data set on the device, once a process."""
    key = (name, split, device)
    if key not in LOADED:
        found = data(folder, name, split)
        LOADED[key] = replace(found, inputs=OnDevice(torch.from_numpy(found.inputs.array).to(device)))  # type: ignore[attr-defined]
    return LOADED[key]


def fit(job: Job, epochs: int, folder: Path, out: Path, device: str) -> dict[str, Any]:
    """Trains one and says how right it is, under noise too; where its distances are proved, how many."""
    torch.set_num_threads(1)
    began, at = time.monotonic(), out / f"{job.dataset}-{job.name}.pt"
    checkpoint = train(
        loaded(folder, job.dataset, "train", device), at,
        architecture=job.architecture, architecture_options=job.options, loss=job.loss,
        loss_options=job.loss_options, recipe=Recipe(epochs=epochs, validation=0.0, **job.recipe),
        device=device,
    )  # fmt: skip
    for extra in (".last.pt", ".metrics.jsonl"):
        at.with_name(at.stem + extra).unlink()
    model, test = checkpoint.model().to(device), loaded(folder, job.dataset, "test", device)
    sigmas = SIGMAS if job.stage == "plain" else SIGMAS[:1]
    found = {
        **asdict(job), "epochs": epochs, "seconds": time.monotonic() - began,
        "accuracy": {f"{s:g}": _under_noise(model, test, s) for s in sigmas},
    }  # fmt: skip
    if job.architecture.startswith("lipschitz"):
        found["by construction"] = proved(model, test)
    if job.stage in MEASURED:
        images = folder / f"{job.dataset}-test.npz"
        measured(at, images, job.dataset, at.with_suffix(".h5"), METHODS, device)
        found["measured after"] = time.monotonic() - began
    return found


def _under_noise(model: torch.nn.Module, test: Data, sigma: float) -> float:
    """`accuracy`, which draws its noise on the CPU, of 2,000 samples where there is noise."""
    if not sigma:
        return accuracy(model, test, batch_size=1000)
    few = replace(test, inputs=lambda rows: test.inputs([5 * i for i in rows]).cpu(), labels=test.labels[::5])
    return accuracy(model, few, sigma=sigma, batch_size=1000)


def proved(model: torch.nn.Sequential, test: Data) -> dict[str, float]:
    """The share of test samples right at each radius, were every norm exactly 1."""
    weight, scale = model[-1].weight.detach(), model[0].std.min()
    apart = (weight.unsqueeze(1) - weight).norm(dim=2) / scale
    nearest = list[Tensor]()
    with torch.no_grad():
        for _, x, y in batches(test, 1000):
            scores, y = model(x), y.to(x.device)
            radius = (scores.gather(1, y.unsqueeze(1)) - scores) / apart[y]
            nearest.append(radius.scatter(1, y.unsqueeze(1), torch.inf).amin(1))
    return {f"{r:.4g}": float((torch.cat(nearest) > r).double().mean()) for r in RADII}


def timed(job: Job, folder: Path, out: Path, device: str) -> float:
    """Seconds of an epoch: of the second one on some steps, made as many as an epoch has."""
    whole = loaded(folder, job.dataset, "train", device)
    steps, size = 12, job.recipe["batch_size"]
    recipe = {**job.recipe, "fraction": min(1.0, steps * size / len(whole)), "label_noise": 0.0}
    ends = list[float]()
    train(
        whole, out / "timed.pt", architecture=job.architecture, architecture_options=job.options,
        loss=job.loss, loss_options=job.loss_options | ({"warm_up": 0} if job.loss == "large-margin" else {}),
        recipe=Recipe(epochs=2, validation=0.0, **recipe), device=device,
        on_event=lambda event: ends.append(time.monotonic()) if isinstance(event, EpochDone) else None,
    )  # fmt: skip
    return (ends[1] - ends[0]) * len(whole) * job.recipe.get("fraction", 1.0) / (steps * size)


def planned(
    found: Sequence[Job], folder: Path, out: Path, device: str, scale: float
) -> list[tuple[Job, int]]:
    """Epochs of each job: those that the seconds of its stage allow all of the stage."""
    epochs = {}
    for stage, allowed in STAGES.items():
        mine = [job for job in found if job.stage == stage]
        once = {job.name.rpartition("-")[0] if job.name[-1].isdigit() else job.name: job for job in mine}
        each = {name: timed(job, folder, out, device) for name, job in once.items()}
        whole = sum(each.values()) * len(mine) / len(once)
        epochs[stage] = max(1, min(int(scale * allowed / whole), mine[0].most))
        click.echo(f"{stage}: {epochs[stage]} epochs; seconds of each: {each}")
    return [(job, epochs[job.stage]) for job in found]


def run_many(width: int, epochs: int, folder: Path, out: Path, device: str) -> list[dict[str, Any]]:
    """`train_many` on the first samples."""
    torch.set_num_threads(1)
    sets = [data(folder, "cifar", split) for split in ("train", "test")]
    rows = np.sort(np.random.default_rng(0).permutation(len(sets[0]))[:FEW])
    train_set = pixels(sets[0].inputs.array[rows], sets[0].labels[rows], device)  # type: ignore[attr-defined]
    test_set = pixels(sets[1].inputs.array, sets[1].labels, device)  # type: ignore[attr-defined]
    found = train_many(width, train_set, test_set, epochs, out, {**sets[0].about(), "first": FEW, "seed": 0})
    np.savez(folder / f"{width}-train.npz", x=sets[0].inputs.array[rows], y=sets[0].labels[rows])  # type: ignore[attr-defined]
    for one in found:
        at = out / f"{one['name']}.pt"
        for images in (folder / f"{width}-train.npz", folder / "cifar-test.npz"):
            table = out / f"{one['name']}-{images.stem.rpartition('-')[2]}.h5"
            measured(at, images, "cifar", table, {"first_order": 60.0}, "cpu", norms=("l2",))
    return found


def zipped(paths: Sequence[Path], at: Path) -> None:
    """Files in one, by their names."""
    with zipfile.ZipFile(at, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(paths):
            archive.write(path, path.name)


@click.command()
@click.argument("packed", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--budget", default=340.0, show_default=True, help="Seconds after which nothing more begins.")
@click.option("--processes", default=1, show_default=True, help="Jobs at the same time, on the same GPU.")
@click.option("--scale", default=1.0, show_default=True, help="Times the seconds of each stage.")
@click.option("--many-epochs", default=40, show_default=True, help="Of the small networks; 0 for none.")
@click.option("--every", default=1, show_default=True, help="Take each such image only: to try it out.")
@click.option("--only", default="", help="Stages, with commas between; all by default.")
def main(
    packed: Path,
    out: Path,
    budget: float,
    processes: int,
    scale: float,
    many_epochs: int,
    every: int,
    only: str,
) -> None:
    """Trains everything, as far as the budget goes."""
    began = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [job for job in jobs() if not only or job.stage in only.split(",")]
    for stage in set(STAGES) - {job.stage for job in chosen}:
        del STAGES[stage]
    out.mkdir(parents=True, exist_ok=True)
    named = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    figures: dict[str, Any] = {"device": named, "jobs": [], "many": []}
    with TemporaryDirectory() as temporary:
        top = Path(temporary)
        folder, models, many = top / "data", top / "models", top / "many"
        for path in (models, many):
            path.mkdir()
        unpacked(packed, folder, every)
        click.echo(f"unpacked after {time.monotonic() - began:.0f} s")
        plan = planned(chosen, folder, top, device, scale)
        click.echo(f"planned after {time.monotonic() - began:.0f} s")
        tasks: list[tuple[str, str, Any]] = [
            ("jobs", f"{job.dataset}-{job.name}", (fit, job, epochs, folder, models, device))
            for job, epochs in plan
        ]
        if many_epochs:
            tasks[MAIN:MAIN] = [
                ("many", f"many-{width}", (run_many, width, many_epochs, folder, many, device))
                for width in WIDTHS
            ]
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(within, began + budget, *task) for _, _, task in tasks]
            for (kind, name, _), found in zip(tasks, waiting, strict=True):
                try:
                    done = found.result() or []
                except Exception as error:  # the others go on
                    click.echo(f"{name} failed: {type(error).__name__}: {error}")
                    continue
                figures[kind] += done if isinstance(done, list) else [done]
                short = [done[k] for k in SHOWN if k in done] if isinstance(done, dict) else len(done)
                click.echo(f"{time.monotonic() - began:.0f} s: {name} {short}")
                (out / "figures.json").write_text(json.dumps(figures, indent=1))
                zipped([*models.glob("cifar-[!fw]*.*"), *models.glob("mnist-*.*")], out / "models.zip")
                zipped([*many.glob("*.pt")], out / "many.zip")
                zipped([*many.glob("*.h5")], out / "tables.zip")


def within(end: float, function: Any, *arguments: Any) -> Any:
    """The function's result, or None where it is too late to begin."""
    return function(*arguments) if time.monotonic() < end else None


if __name__ == "__main__":
    main()

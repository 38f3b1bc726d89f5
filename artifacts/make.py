"""Makes what lies beside it: `python artifacts/make.py [digits] [mnist] [fashion-mnist] [cifar10] [--check]`.

For each data set: models trained in several ways, a table of the margins of test samples for each, and
report.md, which compares them with cross-entropy. `--check` makes them in a temporary folder instead and says
whether the files here are what comes out. CIFAR-10's networks were trained by cifar/train.py, on a GPU: they
are measured anew, in a check on some samples.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch

from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.measurement.measure import measure_file
from marginkit.models.checkpoint import Checkpoint
from marginkit.report import markup
from marginkit.table.reading import read
from marginkit.table.summary import accuracy
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

HERE = Path(__file__).parent / "marginkit_artifacts"
CROWN = {"ascents": 0}  # a third of the time for 1 % of the radius


@dataclass(frozen=True)
class Set:
    """What is trained and measured on a data set.

    Attributes:
        architecture, options: of every model; none where they were trained elsewhere.
        epochs: of training.
        samples: of the test split, the first.
        methods: that measure them.
        radius: of adversarial training, in Linf.
    """

    architecture: str
    options: dict[str, Any]
    epochs: int
    samples: int
    methods: tuple[str, ...]
    radius: float


SMALL = {"channels": (8, 16), "kernel": 3, "hidden": 64, "halve": "stride"}
METHODS = ("first_order", "nearest", "crown")
PROVED = ("lipschitz", "first_order", "nearest")
SETS = {
    "digits": Set("mlp", {"hidden": (16, 16)}, 40, 355, (*METHODS, "exact"), 0.05),
    "mnist": Set("cnn", SMALL, 5, 1000, METHODS, 0.1),
    "fashion-mnist": Set("cnn", SMALL, 5, 1000, METHODS, 0.05),
    "cifar10": Set("", {}, 0, 1000, ("lipschitz", "nearest"), 0.0),
}


# One more of some data sets: a network whose margins are proved distances.
CERTIFIED = {
    "mnist": ({"radius": 1.35, "temperature": 0.3}, 32),
    "fashion-mnist": ({"radius": 0.7, "temperature": 0.2}, 16),
}
DENSE = {"hidden": (256, 176)}
GIVEN = (
    "cross-entropy",
    "large-margin",
    "adversarial",
    "certified",
)  # trained elsewhere, as far as they are there
FEW = 20  # samples on which networks trained elsewhere are measured anew


def names_of(name: str) -> list[str]:
    """The models of a data set, the baseline first."""
    if not SETS[name].architecture:
        return [way for way in GIVEN if (HERE / name / f"{way}.pt").exists()]
    return [*ways(0.0), *(["certified"] if name in CERTIFIED else [])]


def ways(radius: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """Loss and options by the model's name; the first is the baseline."""
    return {
        "cross-entropy": ("cross-entropy", {}),
        "hinge": ("hinge", {}),
        "large-margin": ("large-margin", {}),
        "large-margin-input": ("large-margin", {"layers": ("input",)}),
        "large-margin-linf": ("large-margin", {"norm": "linf"}),
        "adversarial": ("adversarial", {"radius": radius}),
    }


def fit(name: str, way: str, at: Path, root: Path) -> Checkpoint:
    """Trains one model of one data set; leaves the checkpoint and nothing else."""
    what = SETS[name]
    architecture, network = what.architecture, what.options
    recipe = Recipe(epochs=what.epochs, learning_rate=2e-3, validation=0.0)
    if way == "certified":
        architecture, network, loss = "lipschitz-mlp", DENSE, "certified-margin"
        options, epochs = CERTIFIED[name]
        recipe = Recipe(epochs=epochs, batch_size=256, learning_rate=1e-2, ema=0.99, validation=0.0)
    else:
        loss, options = ways(what.radius)[way]
    found = train(
        load(name, Source(split="train", root=root)),
        at,
        architecture=architecture,
        architecture_options=network,
        loss=loss,
        loss_options=options,
        recipe=recipe,
    )
    for extra in (".last.pt", ".metrics.jsonl"):
        at.with_name(at.stem + extra).unlink()
    return found


def make(job: tuple[str, str, Path, Path, bool]) -> str:
    """Trains and measures one model of a data set into a folder; where `few`, a given one on few samples."""
    torch.set_num_threads(1)
    name, way, folder, root, few = job
    at = folder / f"{way}.pt"
    given = not SETS[name].architecture
    if given:
        shutil.copy(HERE / name / at.name, at)
    else:
        fit(name, way, at, root)
    what = SETS[name]
    methods = PROVED if way == "certified" and not given else what.methods
    table, _ = measure_file(
        at,
        methods,
        options={"crown": CROWN} if "crown" in methods else {},
        dataset=f"imagefolder:{root / name}" if given else None,
        source=Source(root=root),
        **{"limit" if given else "first": FEW if given and few else what.samples},
        checks=0 if given else 32,
        command=["python", "artifacts/make.py", name],
    )
    if given:
        table = table.with_meta(
            {**table.meta, "dataset": table.meta["dataset"] | {"name": f"imagefolder:{name}"}}
        )
    write(table, at.with_suffix(".h5"))
    return f"{name}/{way}"


def report(folder: Path, names: Sequence[str]) -> None:
    """The comparisons with the first, as Markdown."""
    markup.write_markdown(
        Study.of_files([folder / f"{name}.h5" for name in names], Settings()), folder / "report.md"
    )


def differences(stored: Path, made: Path) -> Iterator[str]:
    """What differs by more than another processor's rounding may do.

    Training amplifies rounding: accuracies may differ by a point, and medians by 5 %. Of fewer samples, which
    only the same network is measured on, 19 in 20 distances are the same.
    """
    a, b = read(stored), read(made)
    few = len(b) < len(a)
    a = a.rows(np.isin(a.index, b.index))
    names = [{column.name for column in table.columns} for table in (a, b)]
    if names[0] != names[1]:
        yield f"{stored}: columns {sorted(names[0] ^ names[1])} are in one of them only"
        return
    accuracies = [accuracy(table) for table in (a, b)]
    if abs(accuracies[0] - accuracies[1]) > 0.01:
        yield f"{stored}: accuracy {accuracies[0]:.4f}, made anew {accuracies[1]:.4f}"
    for name in sorted(names[0]):
        if few and np.isclose(a[name].distance, b[name].distance, rtol=1e-2, atol=1e-4).mean() < 0.95:
            yield f"{stored}: of {len(b)} samples' {name} more than one in 20 is another, made anew"
        medians = [float(np.median(table[name].distance)) for table in (a, b)]
        if not few and not np.isclose(*medians, rtol=0.05, atol=1e-3):
            yield f"{stored}: {name} has the median {medians[0]:.5g}, made anew {medians[1]:.5g}"


def build(wanted: Sequence[tuple[str, str]], top: Path, root: Path, processes: int, few: bool) -> None:
    """These models, by data set and name, in folders of `top`."""
    jobs = [(name, way, top / name, root, few) for name, way in wanted]
    names = dict.fromkeys(name for name, _ in wanted)
    for name in names:
        (top / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in pool.map(make, jobs):
            click.echo(f"made {done}")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SETS)))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--processes", default=2, show_default=True, help="Models made at the same time, a core each.")
@click.option("--only", "ways_", multiple=True, metavar="NAME", help="Models; by default all.")
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 where files are not what is made.")
def main(
    names: tuple[str, ...], data_root: Path, processes: int, ways_: tuple[str, ...], check: bool
) -> None:
    """Makes the artifacts of these data sets, by default of all."""
    with TemporaryDirectory() as temporary:
        made = Path(temporary)
        wanted = [(n, way) for n in names or SETS for way in names_of(n) if not ways_ or way in ways_]
        build(wanted, made, data_root, processes, check)
        if not check:
            for name in dict.fromkeys(name for name, _ in wanted):
                shutil.copytree(made / name, HERE / name, dirs_exist_ok=True)
                if len(names_of(name)) > 1:
                    report(HERE / name, names_of(name))
            return
        tables = [Path(name, f"{way}.h5") for name, way in wanted]
        found = [line for table in tables for line in differences(HERE / table, made / table)]
    for line in found:
        click.echo(line, err=True)
    if found:
        raise SystemExit(1)
    click.echo(f"{len(tables)} tables are what the code makes")


if __name__ == "__main__":
    main()

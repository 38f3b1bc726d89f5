"""Makes what lies beside it: `python artifacts/make.py [digits] [mnist] [fashion-mnist] [cifar10] [--check]`.

For each data set: models trained in several ways, a table of the margins of test samples for each, and
report.md, which compares them with cross-entropy. `--check` makes them in a temporary folder instead and says
whether the files here are what comes out. `--columns crown.l2` trains nothing: it measures these columns of
the networks here anew and leaves the others as they are. networks.py says what is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from cifar.images import NAME, cifar10
from networks import SETS

from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.defaults import NORMS
from marginkit.measurement.measure import measure_file
from marginkit.models.checkpoint import Checkpoint
from marginkit.report import markup
from marginkit.table.reading import read
from marginkit.table.summary import accuracy, median
from marginkit.table.table import MarginTable
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

HERE = Path(__file__).parent / "marginkit_artifacts"
CROWN = {"ascents": 0}  # a third of the time for 1 % of the radius


def fit(name: str, way: str, at: Path, root: Path) -> Checkpoint:
    """Trains one network of one data set; leaves the checkpoint and nothing else."""
    what = SETS[name].networks[way]
    found = train(
        cifar10(root, "train") if name == "cifar10" else load(name, Source(split="train", root=root)),
        at,
        architecture=what.architecture,
        architecture_options=what.options,
        loss=what.loss,
        loss_options=what.loss_options,
        recipe=Recipe(**what.recipe),
    )
    for extra in (".last.pt", ".metrics.jsonl"):
        at.with_name(at.stem + extra).unlink()
    return found


def methods_of(name: str, way: str) -> tuple[str, ...]:
    """Those that measure it."""
    return SETS[name].networks[way].methods or SETS[name].methods


def measured(
    name: str, way: str, at: Path, root: Path, methods: Sequence[str], norms: Sequence[str] = NORMS
) -> MarginTable:
    """The margins of a network's test samples: of the first, of image folders spread over the classes."""
    what, folders = SETS[name], name == "cifar10"
    table, _ = measure_file(
        at,
        methods,
        norms,
        options={"crown": CROWN} if "crown" in methods else {},
        dataset=f"imagefolder:{root / name}" if folders else None,
        source=Source(root=root),
        **{"limit" if folders else "first": what.samples},
        checks=0 if folders else 32,
        command=["python", "artifacts/make.py", name],
    )
    if not folders:
        return table
    return table.with_meta({**table.meta, "dataset": table.meta["dataset"] | {"name": NAME}})


def make(job: tuple[str, str, Path, Path]) -> str:
    """Trains and measures one network of a data set into a folder."""
    torch.set_num_threads(1)
    name, way, folder, root = job
    at = folder / f"{way}.pt"
    fit(name, way, at, root)
    write(measured(name, way, at, root, methods_of(name, way)), at.with_suffix(".h5"))
    return f"{name}/{way}"


def renew(folder: Path, name: str, way: str, root: Path, columns: Sequence[str]) -> list[str]:
    """Measures these columns of a table here anew, where it has them; says what became of their medians."""
    at, said = folder / f"{way}.pt", list[str]()
    table = read(at.with_suffix(".h5"))
    for wanted in columns:
        method, norm = wanted.rsplit(".", 1)
        if method not in methods_of(name, way):
            continue
        found = measured(name, way, at, root, (method,), (norm,))
        if not np.array_equal(found.index, table.index) or not np.array_equal(found.hash, table.hash):
            raise click.ClickException(f"{at}: other samples than in the table: make it whole")
        new = {column.name: column for column in found.columns}
        before = {column.name: median(column.distance) for column in table.columns if column.name in new}
        kept = tuple(new.get(column.name, column) for column in table.columns)
        table = replace(table, columns=kept)
        said += [f"{name}/{way}: {k} {v:.4g} -> {median(new[k].distance):.4g}" for k, v in before.items()]
    write(table, at.with_suffix(".h5"))
    return said


def report(folder: Path, names: Sequence[str]) -> None:
    """The comparisons with the first, as Markdown."""
    markup.write_markdown(
        Study.of_files([folder / f"{name}.h5" for name in names], Settings()), folder / "report.md"
    )


def differences(stored: Path, made: Path) -> Iterator[str]:
    """What differs by more than another processor's rounding may do.

    Training amplifies rounding: accuracies may differ by a point, and medians by 5 %.
    """
    a, b = read(stored), read(made)
    names = [{column.name for column in table.columns} for table in (a, b)]
    if names[0] != names[1]:
        yield f"{stored}: columns {sorted(names[0] ^ names[1])} are in one of them only"
        return
    accuracies = [accuracy(table) for table in (a, b)]
    if abs(accuracies[0] - accuracies[1]) > 0.01:
        yield f"{stored}: accuracy {accuracies[0]:.4f}, made anew {accuracies[1]:.4f}"
    for name in sorted(names[0]):
        medians = [float(np.median(table[name].distance)) for table in (a, b)]
        if not np.isclose(*medians, rtol=0.05, atol=1e-3):
            yield f"{stored}: {name} has the median {medians[0]:.5g}, made anew {medians[1]:.5g}"


def build(wanted: Sequence[tuple[str, str]], top: Path, root: Path, processes: int) -> None:
    """These models, by data set and name, in folders of `top`."""
    jobs = [(name, way, top / name, root) for name, way in wanted]
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
@click.option("--columns", multiple=True, metavar="METHOD.NORM", help="Measure these anew and nothing else.")
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 where files are not what is made.")
def main(
    names: tuple[str, ...],
    data_root: Path,
    processes: int,
    ways_: tuple[str, ...],
    columns: tuple[str, ...],
    check: bool,
) -> None:
    """Makes the artifacts of these data sets, by default of all."""
    wanted = [(n, way) for n in names or SETS for way in SETS[n].networks if not ways_ or way in ways_]
    if columns:
        torch.set_num_threads(1)
        for name, way in wanted:
            for line in renew(HERE / name, name, way, data_root, columns):
                click.echo(line)
        for name in dict.fromkeys(name for name, _ in wanted):
            report(HERE / name, list(SETS[name].networks))
        return
    with TemporaryDirectory() as temporary:
        made = Path(temporary)
        build(wanted, made, data_root, processes)
        if not check:
            for name in dict.fromkeys(name for name, _ in wanted):
                shutil.copytree(made / name, HERE / name, dirs_exist_ok=True)
                report(HERE / name, list(SETS[name].networks))
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

"""`marginkit measure`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import (
    PATH,
    Bounds,
    assignment,
    data_options,
    grouped,
    names,
    output_options,
    run_options,
    write_json,
)
from .options import device as find_device
from .output import bars, show


@click.command()
@click.option("--model", type=PATH, default=Path("model.pt"), show_default=True, help="A checkpoint.")
@click.option("--arch", help="What the weights belong to, where the file does not say.")
@click.option(
    "--arch-option", multiple=True, type=assignment, metavar="NAME=VALUE", help="Of that architecture."
)
@click.option("--dataset", help="By default what the model was trained on.")
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    default="test",
    show_default=True,
    help="Which part of the data set.",
)
@click.option(
    "--methods",
    type=names,
    metavar="NAMES",
    default="first_order,nearest",
    show_default=True,
    help="See `marginkit methods`; also torchattacks:NAME, and column=method.",
)
@click.option(
    "--norms", type=names, metavar="NAMES", default="l2,linf", show_default=True, help="l1, l2, linf."
)
@click.option(
    "--layers",
    type=names,
    metavar="NAMES",
    default="all",
    show_default=True,
    help="Where first_order looks: input, hidden, all, or modules' names.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    type=assignment,
    metavar="NAME=VALUE",
    help="Of a method: deepfool.steps=100.",
)
@click.option(
    "--search-at",
    type=names,
    metavar="NAMES",
    default="input",
    show_default=True,
    help="Layers at which searches run: input, hidden, all, or modules' names.",
)
@click.option("--mask", type=PATH, help="A .npy array, true where a feature may change.")
@click.option(
    "--subspace",
    type=click.IntRange(1),
    metavar="N",
    help="Measure within the top N principal directions of the training split (l2, no box).",
)
@click.option(
    "--quantize",
    type=click.Choice(["8bit"]),
    help="Adversarial inputs must survive rounding: to 255 steps of the box.",
)
@click.option("--limit", type=click.IntRange(1), help="Only so many samples, the first.")
@click.option("--witnesses", is_flag=True, help="Keep the adversarial inputs in the file.")
@click.option("--out", type=PATH, default=Path("margins.h5"), show_default=True, help="The table.")
@data_options
@run_options
@output_options
def measure(
    model: Path,
    arch: str | None,
    arch_option: tuple[tuple[str, str], ...],
    dataset: str | None,
    split: str,
    methods: tuple[str, ...],
    norms: tuple[str, ...],
    layers: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    search_at: tuple[str, ...],
    mask: Path | None,
    subspace: int | None,
    quantize: str | None,
    limit: int | None,
    witnesses: bool,
    out: Path,
    data_root: Path,
    download: bool,
    image_size: int | None,
    bounds: Bounds | None,
    device: str,
    seed: int,
    batch_size: int,
    workers: int,
    json_file: Path | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure a model's margins, sample by sample, into an HDF5 file."""
    from marginkit.artifacts import located
    from marginkit.data import Source
    from marginkit.files import require_absent
    from marginkit.measure import measure_file
    from marginkit.report import figures, summary
    from marginkit.table import write

    require_absent(out, overwrite)
    table, remarks = measure_file(
        located(model, ".pt"),
        methods,
        norms,
        layers=layers,
        options=grouped(options),
        architecture=(arch, dict(arch_option)) if arch else None,
        dataset=dataset,
        source=Source(split=split, root=data_root, download=download, image_size=image_size),
        bounds=bounds,
        search_at=search_at,
        mask=mask,
        subspace=subspace,
        levels=255 if quantize == "8bit" else None,
        limit=limit,
        batch_size=batch_size,
        device=find_device(device),
        seed=seed,
        workers=workers,
        witnesses=witnesses,
        command=["marginkit", *sys.argv[1:]],
        track=bars(quiet),
    )
    write(table, out)
    for remark in remarks:
        click.echo(remark, err=True)
    write_json({"table": str(out), **figures(table)}, json_file)
    details = [f"{key}: {value}" for key, value in table.meta.items()] if verbose else []
    show([*summary(table), *details, f"wrote {out}"], quiet or str(json_file) == "-")

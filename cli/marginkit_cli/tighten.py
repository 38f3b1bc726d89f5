"""`marginkit tighten`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from marginkit import defaults

from .options import PATH, details_option, output_options, write_json
from .output import bars, show_answer


@click.command()
@click.argument("table", type=PATH)
@click.option(
    "--model", type=PATH, default=Path("model.pt"), show_default=True, help="The checkpoint it measures."
)
@click.option(
    "--time", "seconds", type=click.FloatRange(0, min_open=True), default=defaults.TIME, show_default=True,
    metavar="SECONDS", help="To spend on the whole table.",
)  # fmt: skip
@click.option("--out", type=PATH, help="Where to write; by default the table itself.")
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True,
              help="Folder of torchvision's data sets.")  # fmt: skip
@click.option("--image-size", type=click.IntRange(1), help="Resize and crop a folder's images to squares.")
@details_option
@output_options
def tighten(
    table: Path,
    model: Path,
    seconds: float,
    out: Path | None,
    data_root: Path,
    image_size: int | None,
    details: bool,
    json_file: Path | None,
    overwrite: bool,
    quiet: int,
    verbose: bool,
) -> None:
    """Narrow a table's brackets, sample by sample, as far as the time allows.

    Both ends go into the columns exact.NORM.lower and exact.NORM.upper. The file is replaced whole, every
    half minute and at the end; run it again to go on.
    """
    from marginkit.artifacts import located
    from marginkit.comparison.summary import figures
    from marginkit.data.dataset import Source
    from marginkit.files.atomic import require_absent
    from marginkit.measurement.tighten import tighten_file
    from marginkit.report import Answer, summary

    if out is not None and out != table:
        require_absent(out, overwrite)
    source = Source(root=data_root, image_size=image_size)
    with bars(quiet) as on_event:
        found = tighten_file(table, located(model, ".pt"), seconds, out, source=source, on_event=on_event)
    run = found.provenance.tightened[-1]
    write_json({"table": str(out or table), **run.plain(), **figures(found)}, json_file)
    text = [*summary(found)] if details or verbose else []
    text += [f"{key}: {value}" for key, value in found.meta.items()] if verbose else []
    done = [f"{_words(run.closed)}; wrote {out or table}"]
    show_answer(Answer.of_table(found), text, done, quiet=quiet, silent=str(json_file) == "-")


def _words(counts: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{norm}: {closed} of {n} closed" for norm, (closed, n) in counts.items())

"""`marginkit demo`."""

from __future__ import annotations

from pathlib import Path

import click

from marginkit import defaults

from .options import output_options, write_json
from .output import bars, show


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("marginkit-demo"),
    show_default=True,
    help="Folder for what it makes.",
)
@click.option("--seed", type=int, default=defaults.SEED, show_default=True, help="Of everything random.")
@output_options
def demo(out: Path, seed: int, json_file: Path | None, overwrite: bool, quiet: bool, verbose: bool) -> None:
    """Train a baseline and a large-margin model on digits, measure both, and compare."""
    from marginkit.demo import demonstrate
    from marginkit.report import overview, sentences

    with bars(quiet) as on_event:
        study = demonstrate(out, seed=seed, overwrite=overwrite, on_event=on_event)
    write_json(study.figures(), json_file)
    (comparison,) = study.comparisons
    where = f"models and tables are in {out}/; open {out}/report.html to look at them"
    report = [*overview(comparison), "", *sentences(comparison), "", where]
    show(report, quiet or str(json_file) == "-")

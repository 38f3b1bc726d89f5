"""`marginkit demo`."""

from __future__ import annotations

from pathlib import Path

import click

from marginkit import defaults

from .options import details_option, output_options, write_json
from .output import bars, show_answer


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("marginkit-demo"),
    show_default=True,
    help="Folder for what it makes.",
)
@click.option("--seed", type=int, default=defaults.SEED, show_default=True, help="Of everything random.")
@details_option
@output_options
def demo(
    out: Path, seed: int, details: bool, json_file: Path | None, overwrite: bool, quiet: int, verbose: bool
) -> None:
    """Train a baseline and a large-margin model on digits, measure both, and compare."""
    from marginkit.demo import demonstrate
    from marginkit.report import Answer, overview, sentences

    with bars(quiet) as on_event:
        study = demonstrate(out, seed=seed, overwrite=overwrite, on_event=on_event)
    write_json(study.figures(), json_file)
    (comparison,) = study.comparisons
    where = [f"models and tables: {out}/", f"a page to look at: {out}/report.html"]
    report = [*overview(comparison), "", *sentences(comparison), ""] if details or verbose else []
    show_answer(Answer.of_study(study), report, where, quiet=quiet, silent=str(json_file) == "-")

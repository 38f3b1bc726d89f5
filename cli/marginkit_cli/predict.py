"""`marginkit predict`."""

from __future__ import annotations

from pathlib import Path

import click

from marginkit.errors import MarginkitError

from .options import output_options, write_json
from .output import show


@click.command()
@click.argument("tables", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--norm", default="l2", show_default=True, help="Of the first-order distances.")
@output_options
def predict(
    tables: tuple[Path, ...], norm: str, json_file: Path | None, overwrite: bool, quiet: int, verbose: bool
) -> None:
    """Rank models by the generalisation gap that their margins predict, beside simpler figures.

    TABLES are files, or folders of them: five models or more, each measured with first_order on its training
    samples and on the test split. Each model's gap is predicted by a line through the others.
    """
    from dataclasses import asdict

    from rich.table import Table

    from marginkit.comparison.prediction import predict as run
    from marginkit.table.reading import read

    files = [path for given in tables for path in _files(given)]
    found = run({str(path): read(path) for path in files}, norm)
    write_json(asdict(found), json_file)
    rows = Table("the gap predicted by", "numbers", "Spearman", "Kendall", "R2", box=None)
    for one in found.rankings:
        figures = (f"{value:.2f}" for value in (one.spearman, one.kendall, one.r2))
        rows.add_row(one.predictor, str(one.features), *figures)
    least, most = min(found.gaps), max(found.gaps)
    about = f"{len(found.models)} models, gaps from {least:.1%} to {most:.1%}; each predicted from the others"
    lines = [f"{name}: {gap:.4f}" for name, gap in zip(found.models, found.gaps, strict=True)]
    show([*(lines if verbose else []), rows, about], quiet > 1 or str(json_file) == "-")


def _files(given: Path) -> list[Path]:
    """The tables of a folder, or the file itself."""
    if not given.is_dir():
        return [given]
    found = sorted(given.glob("*.h5"))
    if not found:
        raise MarginkitError(f"{given} has no tables (*.h5): measure models into it")
    return found

"""`marginkit show` and `marginkit export`: what is in a table, and the table for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH, details_option, output_options, write_json
from .output import show as display
from .output import show_answer


@click.command()
@click.argument("table", type=PATH)
@details_option
@output_options
def show(
    table: Path, details: bool, json_file: Path | None, overwrite: bool, quiet: int, verbose: bool
) -> None:
    """Show what is in a table: where it comes from, its columns, brackets and doubts."""
    import json

    from marginkit.artifacts import located
    from marginkit.comparison.summary import figures
    from marginkit.files.atomic import require_absent
    from marginkit.report import Answer, contents
    from marginkit.table.reading import read

    if json_file is not None and str(json_file) != "-":
        require_absent(json_file, overwrite)
    found = read(located(table))
    write_json({"table": str(table), "meta": found.meta, **figures(found)}, json_file)
    text = [*contents(found)] if details or verbose else []
    text += [json.dumps(found.meta, indent=2, sort_keys=True)] if verbose else []
    show_answer(Answer.of_table(found), text, [], quiet=quiet, silent=str(json_file) == "-")


@click.command()
@click.argument("table", type=PATH)
@click.option("--csv", type=PATH, metavar="FILE", help="Write a row a sample, with every digit.")
@click.option(
    "--parquet", type=PATH, metavar="FILE", help="The same with types and provenance; needs pyarrow."
)
@click.option("--overwrite", is_flag=True, help="Write over existing files.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def export(table: Path, csv: Path | None, parquet: Path | None, overwrite: bool, quiet: bool) -> None:
    """Write a table as CSV or Parquet."""
    from marginkit.files.atomic import require_absent
    from marginkit.table.export import write_csv, write_parquet
    from marginkit.table.reading import read

    if csv is None and parquet is None:
        raise click.UsageError("say what to write: --csv FILE, --parquet FILE, or both")
    found = read(table)
    for path, write in ((csv, write_csv), (parquet, write_parquet)):
        if path is not None:
            require_absent(path, overwrite)
            write(found, path)
            display([f"wrote {path}"], quiet)

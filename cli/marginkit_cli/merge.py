"""`marginkit merge`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH, details_option
from .output import show_answer


@click.command()
@click.argument("out", type=PATH)
@click.argument("shards", type=PATH, nargs=-1, required=True)
@click.option("--overwrite", is_flag=True, help="Write over an existing file.")
@details_option
@click.option("-q", "--quiet", count=True, help="The answer alone; -qq prints nothing but errors.")
def merge(out: Path, shards: tuple[Path, ...], overwrite: bool, details: bool, quiet: int) -> None:
    """Put the shards of one measurement together: OUT is what a single run would have written."""
    from marginkit.files.atomic import require_absent
    from marginkit.report import Answer, summary
    from marginkit.table.merge import merge as put_together

    require_absent(out, overwrite)
    table = put_together(out, shards)
    text = [*summary(table)] if details else []
    show_answer(Answer.of_table(table), text, [f"wrote {out}"], quiet=quiet)

"""`marginkit merge`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH
from .output import show


@click.command()
@click.argument("out", type=PATH)
@click.argument("shards", type=PATH, nargs=-1, required=True)
@click.option("--overwrite", is_flag=True, help="Write over an existing file.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def merge(out: Path, shards: tuple[Path, ...], overwrite: bool, quiet: bool) -> None:
    """Put the shards of one measurement together: OUT is what a single run would have written."""
    from marginkit.files.atomic import require_absent
    from marginkit.report import summary
    from marginkit.table.merge import merge as put_together

    require_absent(out, overwrite)
    table = put_together(out, shards)
    show([*summary(table), f"wrote {out}"], quiet)

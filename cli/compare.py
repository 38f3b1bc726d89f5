"""`marginkit compare`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH, assignment, output_options, write_json
from .output import show


@click.command()
@click.argument("tables", type=PATH, nargs=-1, required=True)
@click.option("--baseline", type=PATH, help="What the others are compared with; by default the first table.")
@click.option(
    "--radii",
    multiple=True,
    type=assignment,
    metavar="NAME=VALUE",
    help="Where to tell robust accuracy: l2=0.5,1.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@output_options
def compare(
    tables: tuple[Path, ...],
    baseline: Path | None,
    radii: tuple[tuple[str, str], ...],
    seed: int,
    json_file: Path | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare tables of distances, sample by sample: each with the baseline."""
    from dataclasses import asdict

    from marginkit.compare import compare as run
    from marginkit.files import require_absent
    from marginkit.report import overview, sentences
    from marginkit.table import read

    first, *others = tables if baseline is None else (baseline, *(t for t in tables if t != baseline))
    if not others:
        raise click.UsageError("one table can't be compared: give a second, or a --baseline")
    if json_file is not None and str(json_file) != "-":
        require_absent(json_file, overwrite)
    wanted = {norm: _radii(norm, text) for norm, text in radii}
    reference = read(first)
    found = [run(reference, read(p), labels=(str(first), str(p)), radii=wanted, seed=seed) for p in others]
    write_json({"comparisons": [asdict(comparison) for comparison in found]}, json_file)
    for comparison in found:
        show([*overview(comparison), "", *sentences(comparison)], quiet or str(json_file) == "-")


def _radii(norm: str, text: str) -> list[float]:
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--radii {norm}={text}: expected numbers with commas between") from None
    return sorted(radii)

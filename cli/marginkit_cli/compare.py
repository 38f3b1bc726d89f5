"""`marginkit compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import PATH, STRICT, assignment, details_option, output_options, write_json
from .output import show_answer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from marginkit.comparison.study import Study

Pairs = tuple[tuple[str, str], ...]


@click.command()
@click.argument("tables", type=PATH, nargs=-1)
@click.option(
    "--baseline",
    type=PATH,
    help="What the others are compared with; by default the first table. artifact:mnist/cross-entropy and "
    "the like name tables that come with marginkit.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    type=assignment,
    metavar="NAME=FILES",
    help="Several models of one kind, such as seeds: files or patterns with commas between, a=a-*.h5. The "
    "first group is the baseline.",
)
@click.option(
    "--radii",
    multiple=True,
    type=assignment,
    metavar="NORM=RADII",
    help="Where to tell robust accuracy: l2=0.5,1.",
)
@click.option(
    "--tau",
    "taus",
    multiple=True,
    type=assignment,
    metavar="NORM=DISTANCE",
    help="Where to cut distances.  [default: the searches' limit, else the largest distance found]",
)
@click.option(
    "--rope",
    "ropes",
    multiple=True,
    type=assignment,
    metavar="NORM=DISTANCE",
    help="How large a difference counts as none.  [default: 0]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option("--html", type=PATH, metavar="FILE", help="Write a report: one page that needs nothing else.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write every figure as PNG, SVG and PDF.",
)
@click.option("--markdown", type=PATH, metavar="FILE", help="Write the tables in Markdown.")
@click.option("--latex", type=PATH, metavar="FILE", help="Write the tables for LaTeX (booktabs).")
@click.option("--strict", is_flag=True, help="Exit with 3 where there are doubts about the measurements.")
@details_option
@output_options
@click.pass_context
def compare(
    ctx: click.Context,
    tables: tuple[Path, ...],
    baseline: Path | None,
    groups: Pairs,
    radii: Pairs,
    taus: Pairs,
    ropes: Pairs,
    seed: int,
    html: Path | None,
    plots: Path | None,
    markdown: Path | None,
    latex: Path | None,
    strict: bool,
    details: bool,
    json_file: Path | None,
    overwrite: bool,
    quiet: int,
    verbose: bool,
) -> None:
    """Compare tables of distances, sample by sample: each with the baseline; or groups of them."""
    from marginkit.comparison.settings import Settings
    from marginkit.comparison.study import Study
    from marginkit.files.atomic import require_absent
    from marginkit.report import Answer

    for path in (html, markdown, latex, json_file):
        if path is not None and str(path) != "-":
            require_absent(path, overwrite)
    settings = Settings(
        radii={norm: sorted(_numbers("radii", norm, text)) for norm, text in _once("radii", radii).items()},
        taus={norm: _number("tau", norm, text) for norm, text in _once("tau", taus).items()},
        ropes={norm: _number("rope", norm, text) for norm, text in _once("rope", ropes).items()},
        seed=seed,
    )
    if groups:
        if tables or baseline:
            raise click.UsageError("give tables, or groups of them with --group, not both")
        study = Study.of_groups(_grouped(groups), settings)
    else:
        study = Study.of_files(_ordered(tables, baseline), settings)
    write_json(study.figures(), json_file)
    written = list(
        _write(study, {"html": html, "plots": plots, "markdown": markdown, "latex": latex}, overwrite)
    )
    text = _text(study, verbose) if details or verbose else []
    show_answer(Answer.of_study(study), text, written, quiet=quiet, silent=str(json_file) == "-")
    if strict and study.flags:
        ctx.exit(STRICT)


def _ordered(tables: Sequence[Path], baseline: Path | None) -> list[Path]:
    if not tables and baseline is None:
        raise click.UsageError("Missing argument: give two tables, or groups of them with --group")
    ordered = [*tables] if baseline is None else [baseline, *(t for t in tables if t != baseline)]
    if len(ordered) < 2:
        raise click.UsageError("one table can't be compared: give a second, or a --baseline")
    return ordered


def _write(study: Study, wanted: dict[str, Path | None], overwrite: bool) -> Sequence[str]:
    from marginkit.report import html, markup
    from marginkit.report import plots as figure_files

    writers: dict[str, Callable[[Study, Path], object]] = {
        "html": html.write,
        "plots": lambda study, folder: figure_files.write(study, folder, overwrite),
        "markdown": markup.write_markdown,
        "latex": markup.write_latex,
    }
    done = []
    for name, path in wanted.items():
        if path is not None:
            writers[name](study, path)
            done.append(f"wrote {path}")
    return done


def _text(study: Study, verbose: bool) -> list[RenderableType]:
    from marginkit.report import terminal, words

    lines: list[RenderableType] = []
    for comparison in study.comparisons:
        lines += terminal.overview(comparison)
        lines += terminal.in_depth(comparison) if verbose else []
        lines += ["", *words.sentences(comparison)]
    if len(study.comparisons) > 1:
        lines += terminal.several(study.comparisons)
    for group in study.groups:
        lines += [*terminal.group_overview(group), "", *words.group_sentences(group)]
    if study.groups:
        lines += terminal.flags(study.flags)
    return lines


def _numbers(option: str, norm: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--{option} {norm}={text}: expected numbers with commas between") from None


def _number(option: str, norm: str, text: str) -> float:
    found = _numbers(option, norm, text)
    if len(found) != 1:
        raise click.UsageError(f"--{option} {norm}={text}: expected one number")
    return found[0]


def _once(option: str, given: Pairs) -> dict[str, str]:
    """By norm; a norm that comes twice is a mistake: one of the two would be forgotten."""
    found: dict[str, str] = {}
    for norm, text in given:
        if norm in found:
            raise click.UsageError(f"--{option} gives {norm} twice: {found[norm]} and {text}; give it once")
        found[norm] = text
    return found


def _grouped(given: Pairs) -> dict[str, list[Path]]:
    """Files by group; one that comes twice has the files of both."""
    found: dict[str, list[Path]] = {}
    for name, text in given:
        found.setdefault(name, []).extend(_files(name, text))
    return {name: list(dict.fromkeys(files)) for name, files in found.items()}


def _files(name: str, text: str) -> list[Path]:
    """Files and patterns; a pattern that matches nothing is a mistake."""
    found: list[Path] = []
    for part in text.split(","):
        path = Path(part)
        matches = sorted(path.parent.glob(path.name)) if any(c in part for c in "*?[") else [path]
        if not matches:
            raise click.UsageError(f"--group {name}: no file matches {part}")
        found += matches
    return found

"""The report's tables as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marginkit.comparison.study import Study
from marginkit.files.atomic import replacing
from marginkit.report import rows as of
from marginkit.report.rows import Rows, of_groups
from marginkit.report.words import group_sentences, sentences

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]<>#|!~$&"})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {"<": "\\textless{}", ">": "\\textgreater{}", "[": "{[}", "\n": " "}
)


def write_markdown(study: Study, path: Path) -> None:
    """Tables, sentences and doubts; names from files are escaped."""
    _write(path, "\n".join(_markdown(study)))


def write_latex(study: Study, path: Path) -> None:
    r"""One `table` environment each, for `\input`; needs the package booktabs."""
    _write(path, "\n\n".join(latex_table(rows) for _, rows in _tables(study)))


def _tables(study: Study) -> Iterator[tuple[str, Rows]]:
    if len(study.comparisons) > 1:
        yield "", of.against_baseline(study.comparisons)
    for c in study.comparisons:
        for rows in (*of.of_comparison(c), *of.in_depth(c)):
            yield f"{c.other} (B) against {c.baseline} (A)", rows
    for g in study.groups:
        yield from ((f"{g.other} (B) against {g.baseline} (A)", rows) for rows in of_groups(g))


def _markdown(study: Study) -> Iterator[str]:
    yield "# Margins compared\n"
    pairs = [(c, sentences(c)) for c in study.comparisons] + [(g, group_sentences(g)) for g in study.groups]
    for c, texts in pairs:
        if len(pairs) > 1:
            yield f"\n{_plain(c.other)} (B) against {_plain(c.baseline)} (A):\n"
        yield from (f"- {_plain(text)}" for text in texts)
    if study.flags:
        yield "\nBefore you believe it:\n"
        yield from (f"- {_plain(flag.text)}" for flag in study.flags)
    last = ""
    for heading, rows in _tables(study):
        if heading != last:
            yield f"\n## {_plain(heading)}"
            last = heading
        yield f"\n### {_plain(rows.title)}\n"
        if rows.note:
            yield f"{_plain(rows.note)}\n"
        yield f"| {' | '.join(map(_plain, rows.headings))} |"
        yield f"|---{'|---:' * (len(rows.headings) - 1)}|"
        yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows.rows)


def latex_table(rows: Rows) -> str:
    """One `table` environment."""
    body = [
        f"{' & '.join(cell.translate(_LATEX) for cell in row)} \\\\" for row in (rows.headings, *rows.rows)
    ]
    note = f" {rows.note[0].upper()}{rows.note[1:]}." if rows.note else ""
    lines = (
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{(rows.title + '.' + note).translate(_LATEX)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(rows.headings) - 1)}}}",
        "\\toprule",
        body[0],
        "\\midrule",
        *body[1:],
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    )
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.translate(_MARKDOWN).replace("\n", " ")


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")

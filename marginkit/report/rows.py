"""The tables of a report as plain text cells: the terminal, Markdown, LaTeX and HTML show the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from marginkit.comparison.columns import ColumnComparison
from marginkit.comparison.compare import Comparison
from marginkit.comparison.groups import GroupColumn, GroupComparison, GroupRobust
from marginkit.comparison.layers import Signature
from marginkit.comparison.radii import RobustAccuracy
from marginkit.table.attacks import attacked
from marginkit.table.brackets import closed, ends, norms, robust
from marginkit.table.summary import median
from marginkit.table.table import INPUT, MarginTable

Band = tuple[float, float]


@dataclass(frozen=True)
class Rows:
    """A table: the first column is text, the others are numbers.

    Attributes:
        title: what it shows.
        note: how to read it; may be empty.
        headings: one a column.
        rows: cells, already text.
    """

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None, digits: int = 4) -> str:
    """Short, and a dash where nothing is known."""
    return "-" if value is None or value != value else f"{value:.{digits}g}"


def interval(pair: tuple[float, float]) -> str:
    """`[low, high]`."""
    return f"[{number(pair[0], 3)}, {number(pair[1], 3)}]"


def percents(pair: tuple[float, float]) -> str:
    """`[low, high]` in percent, signed."""
    return f"[{pair[0]:+.1%}, {pair[1]:+.1%}]"


def p_value(p: float | None) -> str:
    """`1` is no evidence at all; `same` where there was nothing to test."""
    if p is None or p < 1e-99:
        return "same" if p is None else "<1e-99"
    return "1" if p >= 0.9995 else f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """With one decimal."""
    return "-" if share != share else f"{share:.1%}"


def of_comparison(c: Comparison) -> Iterator[Rows]:
    """The tables of figures, most important first; empty ones are left out."""
    tables = (_distances(c), _differences(c), _robust(c), _attacks(c), _bands(c), _brackets(c), _faithful(c))
    yield from (table for table in tables if table.rows)


def in_depth(c: Comparison) -> Iterator[Rows]:
    """The longer tables: layers and classes."""
    yield from (table for table in (_layers(c), _classes(c)) if table.rows)


def _distances(c: Comparison) -> Rows:
    return Rows(
        "Distances",
        "wrong, failed: samples misclassified, searches exhausted, by A/by B; medians count failed as"
        " inf; shift: Hodges-Lehmann median of B - A; tau: where distances are cut from here on",
        ("column", "kind", "wrong", "failed", "median A", "median B", "shift", "tau"),
        tuple(
            (
                r.name,
                str(r.kind),
                _pair(r.misclassified),
                _pair(r.exhausted),
                *map(number, r.median),
                number(r.shift, 3),
                number(r.tau, 3),
            )
            for r in c.columns
        ),
    )


def _differences(c: Comparison) -> Rows:
    return Rows(
        "Mean of min(d, tau), B minus A",
        "95 %: paired bootstrap; win/tie/loss: samples on which B is farther/equal/nearer;"
        f" p: Wilcoxon (Pratt's zeros), after Holm for {c.tests} tests",
        ("column", "difference", "95 %", "win/tie/loss", "p"),
        tuple(
            (
                r.name,
                number(r.difference, 3),
                interval(r.interval),
                f"{r.wins}/{r.ties}/{r.losses}",
                p_value(r.adjusted),
            )
            for r in c.columns
        ),
    )


def _robust(c: Comparison) -> Rows:
    return Rows(
        "Robust accuracy",
        "found: no search found an adversarial input within the radius; certified: a proof that there is"
        " none; only A/B: samples robust in one model only; p: McNemar, exact, after Holm",
        ("norm", "radius", "end", "A", "B", "B - A, 95 %", "only A/B", "p"),
        tuple(
            (
                r.norm,
                number(r.radius),
                r.end,
                percent(r.baseline),
                percent(r.other),
                percents(r.interval),
                f"{r.only_baseline}/{r.only_other}",
                p_value(r.adjusted),
            )
            for r in c.robust
        ),
    )


ATTACKS = (
    "Robust accuracy under attacks at given radii",
    "each attack by itself; stuck: samples on which it failed for a gradient of exactly zero",
)


def _attacks(c: Comparison) -> Rows:
    return Rows(
        *ATTACKS,
        ("attack", "eps", "A", "B", "stuck A", "stuck B"),
        tuple(
            (a.name, number(a.radius), *map(percent, (a.robust, b.robust, a.zero_gradient, b.zero_gradient)))
            for a, b in zip(*c.attacks, strict=True)
        ),
    )


def of_attacks(table: MarginTable) -> Rows:
    """Of one table."""
    rows = ((a.name, number(a.radius), percent(a.robust), percent(a.zero_gradient)) for a in attacked(table))
    return Rows(*ATTACKS, ("attack", "eps", "robust", "stuck"), tuple(rows))


def of_brackets(table: MarginTable) -> Rows:
    """Of one table: what all methods together know, where there are proofs."""
    rows = []
    for norm in norms(table, [column.name for column in table.columns]):
        known = ends(table, norm)
        if known.certified and known.searched:
            middle = np.array([median(known.upper)])
            shares = [percent(float(robust(end, middle)[0])) for end in (known.lower, known.upper)]
            row = (number(median(known.lower)), number(middle[0]), percent(closed(known)), *shares)
            rows.append((norm, *row))
    return Rows(
        "Brackets: the distance is at least what is certified, at most what was found",
        "closed: median of certified / found; the last two: share of samples certified, and not broken, at"
        " the median found",
        ("norm", "median certified", "median found", "closed", "certified", "unbroken"),
        tuple(rows),
    )


def _bands(c: Comparison) -> Rows:
    return Rows(
        "Robust accuracy, from certified to found",
        "the true one lies in the band; B - A: what the bands leave possible",
        ("norm", "radius", "A", "B", "B - A"),
        tuple(
            (norm, number(radius), *(f"{percent(low)} to {percent(high)}" for low, high in shares))
            for norm, radius, *shares in bands(c.robust)
        ),
    )


def _brackets(c: Comparison) -> Rows:
    return Rows(
        "Decided samples",
        "samples whose brackets, from certified to found, do not overlap",
        ("norm", "A surely farther", "B surely farther", "undecided"),
        tuple((d.norm, str(d.baseline), str(d.other), str(d.undecided)) for d in c.brackets),
    )


def _faithful(c: Comparison) -> Rows:
    return Rows(
        "First order against distances found",
        "ratio: median of estimate / found; hidden layers have units of their own, unless found there too",
        ("first order", "found at", "rank A", "rank B", "ratio A", "ratio B"),
        tuple(
            (f"{f.norm}.{f.layer}", f.against, *tuple(number(value, 3) for value in (*f.spearman, *f.ratio)))
            for f in c.faithfulness
        ),
    )


def _layers(c: Comparison) -> Rows:
    rows: list[tuple[str, ...]] = []
    for name, found in (("A", c.signatures[0]), ("B", c.signatures[1])):
        rows += [_layer(name, s) for s in found if s.n]
    scaled = all(s.variance is not None for found in c.signatures for s in found)
    unit = "divided by sqrt(total activation variance)" if scaled else "in the layers' raw units"
    return Rows(
        "Margin distributions by layer",
        f"first-order distances of correct samples, {unit}: quartiles, fences 1.5 interquartile ranges away,"
        " moments (the features of Jiang et al., arXiv 1810.00113)",
        ("model, layer", "fence", "q1", "median", "q3", "fence", "mean", "sd", "skewness", "kurtosis", "5th"),
        tuple(sorted(rows, key=lambda row: row[0].split(" ", 1)[1])),
    )


def _layer(model: str, s: Signature) -> tuple[str, ...]:
    return (f"{model} {s.norm}.{s.layer}", *(number(value, 3) for value in (*s.fences, *s.moments)))


def _classes(c: Comparison) -> Rows:
    return Rows(
        "By class",
        "medians and mean of min(d, tau) of the smallest distance found",
        ("norm, class", "n", "right A", "right B", "median A", "median B", "B - A"),
        tuple(
            (
                f"{r.norm} {r.label}",
                str(r.n),
                percent(r.accuracy[0]),
                percent(r.accuracy[1]),
                *tuple(number(value, 3) for value in (*r.median, r.difference)),
            )
            for r in c.classes
        ),
    )


def against_baseline(comparisons: Sequence[Comparison]) -> Rows:
    """Several models: a row for each and each column that bounds something."""
    return Rows(
        f"Against {comparisons[0].baseline}",
        "difference of the mean of min(d, tau), its 95 % interval, p after Holm over all of them",
        ("model, column", "accuracy", "difference", "95 %", "p"),
        tuple(
            (
                f"{c.other} {r.name}",
                percent(c.accuracy[1]),
                number(r.difference, 3),
                interval(r.interval),
                p_value(r.adjusted),
            )
            for c in comparisons
            for r in bounding(c)
        ),
    )


def bounding(c: Comparison) -> list[ColumnComparison]:
    """The columns that bound the distance at the input, in units that mean something."""
    return [
        row for row in c.columns if row.kind == "exact" or (row.kind != "estimate" and row.layer == INPUT)
    ]


def _pair(counts: tuple[int, int]) -> str:
    return f"{counts[0]}/{counts[1]}"


def bands(robust: tuple[RobustAccuracy, ...]) -> list[tuple[str, float, Band, Band, Band]]:
    """Norm, radius, the true shares' bands of the baseline and the other, and of the difference.

    Where both ends are known in both models: certified <= true robust accuracy <= found.
    """
    ends = {(r.norm, r.radius, r.end): r for r in robust}
    rows = []
    for (norm, radius, end), found in ends.items():
        proved = ends.get((norm, radius, "certified"))
        if end == "found" and proved is not None:
            a, b = (proved.baseline, found.baseline), (proved.other, found.other)
            rows.append((norm, radius, a, b, (b[0] - a[1], b[1] - a[0])))
    return rows


def of_groups(c: GroupComparison) -> Iterator[Rows]:
    """Two groups of models."""
    note = (
        "95 %: cluster bootstrap over models and samples; p: Welch's t-test on the models' means, after Holm"
    )
    yield Rows(
        f"{c.other} (B) minus {c.baseline} (A): {len(c.files[1])} and {len(c.files[0])} models",
        note,
        ("column", "mean A", "mean B", "difference", "95 %", "p"),
        tuple(
            (r.name, *map(number, r.mean), number(r.difference, 3), interval(r.interval), _welch(r))
            for r in c.columns
        ),
    )
    if c.robust:
        yield Rows(
            "Robust accuracy of the groups",
            f"found, certified: as for two tables; {note}",
            ("norm", "radius", "end", "A", "B", "B - A, 95 %", "p"),
            tuple(
                (r.norm, number(r.radius), r.end, *map(percent, r.mean), percents(r.interval), _welch(r))
                for r in c.robust
            ),
        )


def _welch(row: GroupColumn | GroupRobust) -> str:
    return "-" if row.welch is None else p_value(row.adjusted)

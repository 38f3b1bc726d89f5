"""Two tables: distances, differences, robust accuracy, brackets, faithfulness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marginkit.comparison.compare import Comparison
from marginkit.comparison.radii import bands
from marginkit.report.rows.cells import Rows, interval, number, p_value, percent, percents

ATTACKS = (
    "Robust accuracy under attacks at given radii",
    "each attack by itself; stuck: samples on which it failed for a gradient of exactly zero",
)


def of_comparison(c: Comparison) -> Iterator[Rows]:
    """The tables of figures, most important first; empty ones are left out."""
    tables = (_distances(c), _differences(c), _robust(c), _attacks(c), _bands(c), _brackets(c), _faithful(c))
    yield from (table for table in tables if table.rows)


def _distances(c: Comparison) -> Rows:
    return Rows(
        "Distances",
        "wrong, not ok: samples misclassified, and others not answered fully (exhausted, timed out, failed,"
        " ...), by A/by B; medians count what was not found as inf; shift: Hodges-Lehmann median of B - A;"
        " tau: where distances are cut from here on",
        ("column", "kind", "wrong", "not ok", "median A", "median B", "shift", "tau"),
        tuple(
            (
                r.name,
                str(r.answer),
                _pair(r.misclassified),
                _pair(r.not_ok),
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


def _attacks(c: Comparison) -> Rows:
    return Rows(
        *ATTACKS,
        ("attack", "eps", "A", "B", "stuck A", "stuck B"),
        tuple(
            (a.name, number(a.radius), *map(percent, (a.robust, b.robust, a.zero_gradient, b.zero_gradient)))
            for a, b in zip(*c.attacks, strict=True)
        ),
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
            for r in c.bounding
        ),
    )


def _pair(counts: tuple[int, int]) -> str:
    return f"{counts[0]}/{counts[1]}"

"""The longer tables of two: layers, classes, samples."""

from __future__ import annotations

from collections.abc import Iterator

from marginkit.comparison.compare import Comparison
from marginkit.comparison.layers import Signature
from marginkit.report.rows.cells import Rows, number, percent


def in_depth(c: Comparison) -> Iterator[Rows]:
    """The longer tables: layers and classes."""
    yield from (table for table in (_layers(c), _classes(c)) if table.rows)


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


def of_samples(c: Comparison) -> Rows:
    """The samples of the gallery."""
    return Rows(
        "Samples that changed most, and those nearest to B's boundary",
        "the smallest distance found; index: position in the data set",
        ("norm, why", "index", "class", "A says", "B says", "distance A", "distance B"),
        tuple(
            (
                f"{s.norm} {s.why}",
                str(s.index),
                str(s.label),
                *map(str, s.predicted),
                *map(number, s.distance),
            )
            for s in c.samples
        ),
    )

"""The figures of a report, as Vega-Lite: the page and the files for papers show the same ones."""

from __future__ import annotations

from collections.abc import Iterator

from marginkit.comparison.alignment import Aligned
from marginkit.comparison.compare import Comparison
from marginkit.comparison.layers import signatures
from marginkit.comparison.study import Study
from marginkit.kinds import INPUT, Kind
from marginkit.report.charts import curves, layers, samples
from marginkit.report.charts.spec import Chart

__all__ = ["Chart", "of_comparison", "of_study"]


def of_study(study: Study) -> Iterator[Chart]:
    """All models together, on the samples they all have."""
    models = study.together
    for norm, brackets in models.brackets.items():
        found = dict(zip(models.labels, brackets, strict=True))
        yield curves.robust_accuracy(norm, found)
        if all(e.searched for e in brackets):
            yield samples.histogram(norm, found)
        if any(e.certified for e in brackets):
            yield curves.brackets(norm, found)
    first = models.tables[0]
    by_layer = dict(zip(models.labels, map(signatures, models.tables), strict=True))
    answered = {s.norm for found in by_layer.values() for s in found}
    estimated = dict.fromkeys(
        c.norm
        for c in first.columns
        if c.kind is Kind.ESTIMATE and c.name in models.shared and c.norm in answered
    )
    yield from (layers.distributions(norm, by_layer) for norm in estimated)


def of_comparison(c: Comparison, pair: Aligned) -> Iterator[Chart]:
    """Two models, sample by sample."""
    labels = (f"A: {c.baseline}", f"B: {c.other}")
    for norm, found in pair.searched().items():
        yield curves.difference(norm, *found)
        yield samples.pairs(norm, pair, labels)
        name = f"first_order.{norm}.{INPUT}"
        faithful = any(f.norm == norm for f in c.faithfulness)
        if name in pair.shared and faithful:
            both = zip(labels, found, pair.columns(name), strict=True)
            yield samples.estimates(norm, {label: (e.upper, column.distance) for label, e, column in both})
        if faithful:
            yield layers.faithfulness(norm, c.faithfulness, labels)

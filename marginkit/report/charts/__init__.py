"""The figures of a report, as Vega-Lite: the page and the files for papers show the same ones."""

from __future__ import annotations

from collections.abc import Iterator

from marginkit.comparison.compare import Comparison
from marginkit.comparison.layers import signatures
from marginkit.comparison.pairing import paired
from marginkit.comparison.study import Study
from marginkit.kinds import Kind
from marginkit.report.charts import curves, layers, samples
from marginkit.report.charts.spec import Chart
from marginkit.table.brackets import ends, norms
from marginkit.table.table import INPUT, MarginTable, names

__all__ = ["Chart", "of_comparison", "of_study"]


def of_study(study: Study) -> Iterator[Chart]:
    """All models together, on the samples they all have."""
    tables = dict(zip(study.tables, paired(list(study.tables.values())), strict=True))
    first, shared = next(iter(tables.values())), names(tables.values())
    for norm in norms(first, shared):
        found = {label: ends(table, norm, shared) for label, table in tables.items()}
        yield curves.robust_accuracy(norm, found)
        if all(e.searched for e in found.values()):
            yield samples.histogram(norm, found)
        if any(e.certified for e in found.values()):
            yield curves.brackets(norm, found)
    for norm in dict.fromkeys(c.norm for c in first.columns if c.kind is Kind.ESTIMATE and c.name in shared):
        yield layers.distributions(norm, {label: signatures(table) for label, table in tables.items()})


def of_comparison(c: Comparison, a: MarginTable, b: MarginTable) -> Iterator[Chart]:
    """Two models, sample by sample."""
    a, b = paired([a, b])
    shared, labels = names([a, b]), (f"A: {c.baseline}", f"B: {c.other}")
    for norm in norms(a, shared):
        found = (ends(a, norm, shared), ends(b, norm, shared))
        if not (found[0].searched and found[1].searched):
            continue
        yield curves.difference(norm, *found)
        yield samples.pairs(norm, a, found, labels)
        name = f"first_order.{norm}.{INPUT}"
        if name in shared:
            both = zip(labels, (a, b), found, strict=True)
            yield samples.estimates(norm, {label: (e.upper, t[name].distance) for label, t, e in both})
        if any(f.norm == norm for f in c.faithfulness):
            yield layers.faithfulness(norm, c.faithfulness, labels)

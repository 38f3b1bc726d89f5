"""Sample by sample: pairs, histograms, and estimates against what was found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from marginkit.comparison.alignment import Aligned
from marginkit.report.charts.spec import Chart, Spec, by_model, chart, table, tips, x
from marginkit.table.brackets import Ends

POINTS = 10_000
ESTIMATES = 1500
BINS = 40


def pairs(norm: str, pair: Aligned, labels: tuple[str, str]) -> Chart:
    """B's distance against A's, a point a sample; exhausted searches stand at the edge."""
    a, found = pair.tables[0], pair.brackets[norm]
    finite = np.concatenate([e.upper[np.isfinite(e.upper)] for e in found])
    edge = float(finite.max(initial=0.0)) or 1.0
    shown = thinned(len(a), POINTS)
    first, second = (np.minimum(e.upper[shown], edge) for e in found)
    failed = np.isinf(found[0].upper[shown]) | np.isinf(found[1].upper[shown])
    apart = np.where(second > first, "B farther", np.where(second < first, "A farther", "equal"))
    which = np.where(failed, "a search failed", apart)
    data = table(
        {"index": a.index[shown], "label": a.label[shown], "a": first, "b": second, "which": which.tolist()}
    )
    domain = {"domain": [0, edge], "nice": False}
    colour = {
        "field": "which",
        "type": "nominal",
        "title": None,
        "scale": {"domain": ["A farther", "B farther", "equal", "a search failed"]},
        "legend": {"orient": "top"},
    }
    tooltip = tips(
        ("index", "sample", "d"),
        ("label", "class", "d"),
        ("a", "A", ".4g"),
        ("b", "B", ".4g"),
        ("which", "", ""),
    )
    layers: list[Spec] = [
        {
            "mark": {"type": "point", "filled": True, "size": 16, "opacity": 0.45},
            "encoding": {
                "x": x("a", f"A: {norm} distance found", scale=domain),
                "y": x("b", f"B: {norm} distance found", scale=domain),
                "color": colour,
                "tooltip": tooltip,
            },
        },
        {
            "data": table({"a": [0.0, edge], "b": [0.0, edge]}),
            "mark": {"type": "line", "strokeDash": [4, 4], "color": "#888888", "strokeWidth": 1},
            "encoding": {"x": x("a", "", scale=domain), "y": x("b", "", scale=domain)},
        },
    ]
    part = "" if len(shown) == len(a) else f" {len(shown)} of {len(a)} samples are shown."
    caption = f"A point a sample: above the line, B is farther from its boundary.{part}"
    return chart(f"pairs-{norm}", f"Sample by sample, {norm}", caption, data, layers)


def histogram(norm: str, found: Mapping[str, Ends]) -> Chart:
    """How the found distances are spread; exhausted searches have none to show."""
    finite = {label: e.upper[np.isfinite(e.upper)] for label, e in found.items()}
    edges = np.linspace(0, max(values.max(initial=0.0) for values in finite.values()) or 1.0, BINS + 1)
    counts = [np.histogram(values, edges)[0] / len(found[label].upper) for label, values in finite.items()]
    data = table(
        {
            "model": np.repeat(list(found), BINS).tolist(),
            "low": np.tile(edges[:-1], len(found)),
            "high": np.tile(edges[1:], len(found)),
            "share": np.concatenate(counts),
        }
    )
    encoding = {
        "x": x("low", f"{norm} distance found, raw input units", scale={"nice": False}),
        "x2": {"field": "high"},
        "y": x("share", "share of samples", stack=None, axis={"format": "%"}),
        "y2": {"datum": 0},
        "color": by_model(labels=list(found)),
        "tooltip": tips(
            ("model", "model", ""), ("low", "from", ".4g"), ("high", "to", ".4g"), ("share", "share", ".1%")
        ),
    }
    layer: Spec = {"mark": {"type": "bar", "opacity": 0.45, "binSpacing": 0}, "encoding": encoding}
    if len(found) > 2:  # more than two colours over each other can't be told apart
        lines = {key: value for key, value in encoding.items() if key not in ("x2", "y2")}
        layer = {"mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5}, "encoding": lines}
    failed = sum(int(np.isinf(e.upper).sum()) for e in found.values())
    caption = "Misclassified samples are at 0." + (
        f" {failed} exhausted searches are left out." if failed else ""
    )
    return chart(f"histogram-{norm}", f"Distances found, {norm}", caption, data, [layer])


def estimates(norm: str, models: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Chart:
    """First order at the input against the distance found there: (found, estimate) by model."""
    known = {label: np.isfinite(f) & np.isfinite(e) & (f > 0) for label, (f, e) in models.items()}
    rows = {label: np.flatnonzero(mask)[thinned(int(mask.sum()), ESTIMATES)] for label, mask in known.items()}
    found = np.concatenate([models[label][0][r] for label, r in rows.items()])
    estimated = np.concatenate([models[label][1][r] for label, r in rows.items()])
    data = table(
        {"model": [label for label, r in rows.items() for _ in r], "found": found, "estimate": estimated}
    )
    edge = float(max(found.max(initial=0.0), estimated.max(initial=0.0))) or 1.0
    layers: list[Spec] = [
        {
            "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.4},
            "encoding": {
                "x": x("found", f"{norm} distance found"),
                "y": x("estimate", "first-order estimate"),
                "color": by_model(labels=list(models)),
                "tooltip": tips(
                    ("model", "model", ""), ("found", "found", ".4g"), ("estimate", "estimate", ".4g")
                ),
            },
        },
        {
            "data": table({"found": [0.0, edge], "estimate": [0.0, edge]}),
            "mark": {
                "type": "line",
                "strokeDash": [4, 4],
                "color": "#888888",
                "strokeWidth": 1,
                "clip": True,
            },
            "encoding": {"x": x("found", ""), "y": x("estimate", "")},
        },
    ]
    caption = "On the line the estimate is right; above it, it promises more distance than there is."
    return chart(f"first-order-{norm}", f"First order against found, {norm}", caption, data, layers)


def thinned(n: int, most: int) -> np.ndarray:
    """Evenly spaced positions, at most so many."""
    return np.linspace(0, max(n - 1, 0), min(n, most)).round().astype(int)

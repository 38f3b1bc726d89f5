"""Layer by layer: margin distributions, and how faithful first order is with depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marginkit.comparison.layers import FENCES, Faithfulness, Signature
from marginkit.report.charts.spec import Chart, Spec, by_model, chart, table, tips, x


def distributions(norm: str, found: Mapping[str, Sequence[Signature]]) -> Chart:
    """A box a layer and model."""
    rows = [(label, s) for label, signatures in found.items() for s in signatures if s.norm == norm and s.n]
    columns = {name: [s.fences[i] for _, s in rows] for i, name in enumerate(FENCES)}
    data = table({"model": [label for label, _ in rows], "layer": [s.layer for _, s in rows], **columns})
    layer = x("layer", "layer", "nominal", sort=None, axis={"labelAngle": 0, "labelLimit": 90})
    offset = {"field": "model", "type": "nominal", "sort": None}
    scaled = all(s.variance is not None for _, s in rows)
    unit = " / sqrt(total variance)" if scaled else ", raw units of the layer"
    margin = x("lower_fence", f"{norm} margin{unit}", scale={"type": "symlog", "constant": 0.01})
    common = {"x": layer, "xOffset": offset, "color": by_model(labels=list(found))}
    tooltip = tips(
        ("model", "model", ""), ("layer", "layer", ""), *((f, f.replace("_", " "), ".4g") for f in FENCES)
    )
    layers: list[Spec] = [
        {"mark": {"type": "rule"}, "encoding": {**common, "y": margin, "y2": {"field": "upper_fence"}}},
        {
            "mark": {"type": "bar", "size": 14},
            "encoding": {**common, "y": {**margin, "field": "q1"}, "y2": {"field": "q3"}, "tooltip": tooltip},
        },
        {
            "mark": {"type": "tick", "size": 14, "thickness": 2, "color": "white"},
            "encoding": {"x": layer, "xOffset": offset, "y": {**margin, "field": "median"}},
        },
    ]
    caption = (
        "First-order margins of the correct samples: quartiles, median, and the outermost values within 1.5"
        " interquartile ranges. "
    )
    caption += (
        "Divided by each layer's activation scale, layers can be set side by side."
        if scaled
        else "In each layer's own units: layers and models can't be set side by side."
    )
    return chart(f"layers-{norm}", f"Margins by layer, {norm}", caption, data, layers)


def faithfulness(norm: str, found: Sequence[Faithfulness], labels: tuple[str, str]) -> Chart:
    """Rank correlation with the distance found, by layer."""
    rows = [f for f in found if f.norm == norm]
    both = [(label, f, i) for f in rows for i, label in enumerate(labels)]
    data = table(
        {
            "model": [label for label, _, _ in both],
            "layer": [f.layer for _, f, _ in both],
            "against": [f"found at {f.against}" for _, f, _ in both],
            "rank": [f.spearman[i] for _, f, i in both],
            "ratio": [f.ratio[i] for _, f, i in both],
        }
    )
    tooltip = tips(
        ("model", "model", ""), ("layer", "estimate at", ""), ("against", "against", ""),
        ("rank", "rank correlation", ".3f"), ("ratio", "estimate / found", ".3g"),
    )  # fmt: skip
    encoding = {
        "x": x("layer", "layer", "nominal", sort=None, axis={"labelAngle": 0, "labelLimit": 90}),
        "y": x("rank", "rank correlation", scale={"zero": False}),
        "color": by_model(labels=list(labels)),
    }
    shape = {"field": "against", "type": "nominal", "title": None, "legend": {"orient": "top"}}
    layers: list[Spec] = [
        {
            "mark": {"type": "line"},
            "encoding": {**encoding, "detail": {"field": "against", "type": "nominal"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70},
            "encoding": {**encoding, "shape": shape, "tooltip": tooltip},
        },
    ]
    caption = "1: the estimate puts the samples in the order of their distances; 0: it knows nothing of it."
    return chart(f"faithfulness-{norm}", f"Faithfulness of first order, {norm}", caption, data, layers)

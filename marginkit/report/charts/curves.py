"""Robust accuracy against the radius, its difference, and the brackets behind it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import norm as normal

from marginkit.report.charts.spec import Chart, Spec, by_model, chart, table, tips, x
from marginkit.statistics.brackets import Ends, robust
from marginkit.statistics.resample import LEVEL

POINTS = 160
RANKS = 300


def robust_accuracy(norm: str, found: Mapping[str, Ends]) -> Chart:
    """One band a model, from what is certified to what no search broke."""
    radii = _radii(found)
    curves = {
        end: np.concatenate([robust(getattr(e, end), radii) for e in found.values()])
        for end in ("lower", "upper", "pessimistic")
    }
    certified = any(e.certified for e in found.values())
    failed = any(np.isinf(e.upper).any() for e in found.values())
    data = table(
        {"model": np.repeat(list(found), POINTS).tolist(), "radius": np.tile(radii, len(found)), **curves}
    )
    radius = x("radius", f"{norm} radius, raw input units", scale={"nice": False})
    share = x("upper", "robust accuracy", axis={"format": "%"}, scale={"domain": [0, 1]})
    colour = by_model(labels=list(found))
    layers = [_line(radius, share, colour)]
    if certified:
        layers.insert(0, _band(radius, share, colour))
        layers.append(_line(radius, {**share, "field": "lower"}, colour, [6, 3]))
    if failed:
        layers.append(_line(radius, {**share, "field": "pessimistic"}, colour, [2, 3]))
    shown = [("upper", "not broken", ".1%")]
    shown += [("lower", "certified", ".1%")] if certified else []
    shown += [("pessimistic", "failed searches counted as broken", ".1%")] if failed else []
    tooltip = tips(("model", "model", ""), ("radius", "radius", ".4g"), *shown)
    layers.append(_hover(radius, {**share, "field": "upper"}, colour, tooltip))
    caption = "Solid: share of samples for which no search found an adversarial input within the radius."
    caption += " Dashed: share certified; the truth is in the band between." if certified else ""
    caption += " Dotted: exhausted searches counted as broken beyond what is sure." if failed else ""
    return chart(f"robust-accuracy-{norm}", f"Robust accuracy, {norm}", caption, data, layers)


def difference(norm: str, a: Ends, b: Ends) -> Chart:
    """Robust accuracy of B minus A with its pointwise interval."""
    radii = _radii({"a": a, "b": b})
    n = len(a.upper)
    only = [
        np.array([((first > r) & (second <= r)).sum() for r in radii]) / n
        for first, second in ((a.upper, b.upper), (b.upper, a.upper))
    ]
    delta = only[1] - only[0]
    error = normal.ppf((1 + LEVEL) / 2) * np.sqrt(np.maximum(only[0] + only[1] - delta**2, 0) / n)
    data = table({"radius": radii, "difference": delta, "low": delta - error, "high": delta + error})
    radius = x("radius", f"{norm} radius, raw input units", scale={"nice": False})
    share = x("difference", "robust accuracy, B minus A", axis={"format": "+%"})
    tooltip = tips(
        ("radius", "radius", ".4g"), ("difference", "B minus A", "+.1%"),
        ("low", "95 % from", "+.1%"), ("high", "to", "+.1%"),
    )  # fmt: skip
    layers: list[Spec] = [
        {"mark": {"type": "rule", "strokeDash": [3, 3]}, "encoding": {"y": {"datum": 0}}},
        {
            "mark": {"type": "area", "opacity": 0.2},
            "encoding": {"x": radius, "y": {**share, "field": "low"}, "y2": {"field": "high"}},
        },
        {"mark": "line", "encoding": {"x": radius, "y": share}},
        _hover(radius, share, None, tooltip),
    ]
    caption = "Above 0, B is robust on more samples. Shaded: 95 % interval at each radius, of paired samples."
    return chart(f"difference-{norm}", f"Difference of robust accuracy, {norm}", caption, data, layers)


def brackets(norm: str, found: Mapping[str, Ends]) -> Chart:
    """Each model's samples in the order of what was found: from certified to found."""
    parts: dict[str, list[np.ndarray]] = {"share": [], "lower": [], "upper": []}
    for e in found.values():
        order = np.lexsort((e.lower, e.upper))
        picked = order[np.linspace(0, len(order) - 1, min(RANKS, len(order))).round().astype(int)]
        parts["share"].append(np.linspace(0, 1, len(picked)))
        parts["lower"].append(e.lower[picked])
        parts["upper"].append(e.upper[picked])
    models = [label for label, share in zip(found, parts["share"], strict=True) for _ in share]
    data = table({"model": models, **{name: np.concatenate(values) for name, values in parts.items()}})
    share = x("share", "samples, nearest first", axis={"format": "%"})
    distance = x("lower", f"{norm} distance, raw input units")
    colour = by_model(labels=list(found))
    tooltip = tips(
        ("model", "model", ""),
        ("share", "rank", ".1%"),
        ("lower", "at least", ".4g"),
        ("upper", "at most", ".4g"),
    )
    layers: list[Spec] = [
        {
            "transform": [{"filter": "isValid(datum.upper)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.35},
            "encoding": {
                "x": share,
                "y": distance,
                "y2": {"field": "upper"},
                "color": colour,
                "tooltip": tooltip,
            },
        },
        {
            "transform": [{"filter": "isValid(datum.upper)"}],
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {"x": share, "y": {**distance, "field": "upper"}, "color": colour},
        },
        {
            "mark": {"type": "point", "size": 8, "filled": True},
            "encoding": {"x": share, "y": distance, "color": colour, "tooltip": tooltip},
        },
    ]
    caption = "Each bar is a sample's bracket, from what is certified (dot) to what was found (line)."
    return chart(f"brackets-{norm}", f"Brackets, {norm}", caption, data, layers)


def _radii(found: Mapping[str, Ends]) -> np.ndarray:
    finite = np.concatenate([e.upper[np.isfinite(e.upper)] for e in found.values()])
    certified = np.concatenate([e.lower for e in found.values()])
    return np.linspace(0, max(finite.max(initial=0.0), certified.max(initial=0.0)) or 1.0, POINTS)


def _line(radius: Spec, share: Spec, colour: Spec, dash: list[int] | None = None) -> Spec:
    mark = {"type": "line", "strokeWidth": 2} | ({"strokeDash": dash} if dash else {})
    return {"mark": mark, "encoding": {"x": radius, "y": share, "color": colour}}


def _band(radius: Spec, share: Spec, colour: Spec) -> Spec:
    return {
        "mark": {"type": "area", "opacity": 0.15},
        "encoding": {
            "x": radius,
            "y": {**share, "field": "lower"},
            "y2": {"field": "upper"},
            "color": colour,
        },
    }


def _hover(radius: Spec, share: Spec, colour: Spec | None, tooltip: list[Spec]) -> Spec:
    """Points that show near the pointer, and tell what is there."""
    nearest = {
        "name": "hover",
        "select": {
            "type": "point",
            "on": "pointerover",
            "nearest": True,
            "clear": "pointerout",
            "encodings": ["x"],
        },
    }
    opacity = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0}
    encoding = {"x": radius, "y": share, "opacity": opacity, "tooltip": tooltip}
    return {
        "params": [nearest],
        "mark": {"type": "point", "filled": True, "size": 70},
        "encoding": encoding | ({"color": colour} if colour else {}),
    }

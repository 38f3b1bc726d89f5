"""Robust accuracy against the radius, its difference, and the brackets behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marginkit.comparison.paired_shares import score_limits
from marginkit.report.charts.spec import Chart, Spec, by_model, chart, table, tips, x
from marginkit.table.brackets import Ends, robust

POINTS = 160
RANKS = 300
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]


def robust_accuracy(norm: str, found: Mapping[str, Ends]) -> Chart:
    """One band a model, from what is certified to what no search broke."""
    radii = _radii(found)
    ends = {"upper": "not broken"}
    if any(e.certified for e in found.values()):
        ends["lower"] = "certified"
    if any(np.isinf(e.upper).any() for e in found.values()):
        ends["pessimistic"] = "failed searches as broken"
    shares = {end: [robust(getattr(e, end), radii) for e in found.values()] for end in ends}
    models = np.repeat(list(found), POINTS).tolist()
    long: dict[str, Any] = {"model": models, "radius": np.tile(radii, len(found))}
    data = table(long | {end: np.concatenate(each) for end, each in shares.items()})
    radius = x("radius", f"{norm} radius, raw input units", scale={"nice": False})
    share = x("upper", "robust accuracy", axis={"format": "%"}, scale={"domain": [0, 1]})
    colour = by_model(labels=list(found))
    layers = [_line(radius, share, colour)]
    caption = "Solid: share of samples for which no search found an adversarial input within the radius."
    if "lower" in ends:
        layers.insert(0, _band(radius, share, colour))
        layers.append(_line(radius, {**share, "field": "lower"}, colour, [6, 3]))
        caption += " Dashed: share certified; the truth is in the band between."
    if "pessimistic" in ends:
        layers.append(_line(radius, {**share, "field": "pessimistic"}, colour, [2, 3]))
        caption += " Dotted: exhausted searches counted as broken beyond what is sure."
    layers.append(_told_apart(radius, share, colour, radii, shares["upper"], list(found)))
    layers.append(_all_models_at(radius, radii, shares, ends, list(found)))
    return chart(f"robust-accuracy-{norm}", f"Robust accuracy, {norm}", caption, data, layers)


def _told_apart(
    radius: Spec,
    share: Spec,
    colour: Spec,
    radii: np.ndarray,
    shares: Sequence[np.ndarray],
    models: Sequence[str],
) -> Spec:
    """Every model's own shape on its line, here and there: colours are not needed, nor seen by everybody."""
    at = [np.arange(4 + 6 * i, POINTS, 24) for i in range(len(models))]
    data: dict[str, Any] = {
        "model": [name for name, chosen in zip(models, at, strict=True) for _ in chosen],
        "radius": np.concatenate([radii[chosen] for chosen in at]),
        "upper": np.concatenate([each[chosen] for each, chosen in zip(shares, at, strict=True)]),
    }
    shape = {key: value for key, value in colour.items() if key != "scale"}
    shape["scale"] = {"domain": list(models), "range": SHAPES}
    return {
        "data": table(data),
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
        "encoding": {"x": radius, "y": share, "color": colour, "shape": shape},
    }


def _all_models_at(
    radius: Spec,
    radii: np.ndarray,
    shares: Mapping[str, Sequence[np.ndarray]],
    ends: Mapping[str, str],
    models: Sequence[str],
) -> Spec:
    """A line under the pointer that tells every model's shares there."""
    wide = {f"{end}{i}": each[i] for end, each in shares.items() for i in range(len(models))}
    told = [
        (f"{end}{i}", f"{what}: {name}", ".1%") for i, name in enumerate(models) for end, what in ends.items()
    ]
    rule = _hover({"x": radius}, tips(("radius", "radius", ".4g"), *told), "rule")
    return {"data": table({"radius": radii, **wide}), **rule}


def difference(norm: str, a: Ends, b: Ends) -> Chart:
    """Robust accuracy of B minus A with its pointwise interval."""
    radii = _radii({"a": a, "b": b})
    n = len(a.upper)
    only = [
        np.array([((first > r) & (second <= r)).sum() for r in radii])
        for first, second in ((a.upper, b.upper), (b.upper, a.upper))
    ]
    delta = (only[1] - only[0]) / n
    low, high = score_limits(only[0], only[1], n)
    data = table({"radius": radii, "difference": delta, "low": low, "high": high})
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
        _hover({"x": radius, "y": share}, tooltip, "point"),
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


def _hover(place: Spec, tooltip: list[Spec], mark: str) -> Spec:
    """A mark that shows near the pointer and tells what is there.

    Only numbers are told: Vega-Lite 6.4 says "undefined" for text where the nearest mark is asked for.
    """
    select = {
        "type": "point",
        "on": "pointerover",
        "nearest": True,
        "clear": "pointerout",
        "encodings": ["x"],
    }
    opacity = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0}
    return {
        "params": [{"name": "hover", "select": select}],
        "mark": {"type": mark} | ({"filled": True, "size": 70} if mark == "point" else {}),
        "encoding": {**place, "opacity": opacity, "tooltip": tooltip},
    }

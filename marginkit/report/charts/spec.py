"""The bricks of Vega-Lite figures: data as text, encodings, layers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Spec = dict[str, Any]
DIGITS = 5


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: of its file, and of its place in the page.
        title: what it shows.
        caption: how to read it.
        spec: Vega-Lite, with its data; the page and the files add size and colours.
    """

    name: str
    title: str
    caption: str
    spec: Spec


def chart(name: str, title: str, caption: str, data: Spec, layers: Sequence[Spec], **more: Any) -> Chart:
    """Layers over the same data."""
    spec = {"description": f"{title}. {caption}", "data": data, "layer": list(layers), **more}
    return Chart(name, title, caption, spec)


def table(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Spec:
    """Inline CSV: a third of the size of a list of objects. Infinities and NaN are left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    cells = [[_cell(value) for value in values] for values in columns.values()]
    writer.writerows(zip(*cells, strict=True))
    numbers = {name: "number" for name, values in columns.items() if not _is_text(values)}
    return {"values": text.getvalue(), "format": {"type": "csv", "parse": numbers}}


def x(field: str, title: str, kind: str = "quantitative", **more: Any) -> Spec:
    """A position; text from files is never taken for an expression or a path into the data."""
    return {"field": field, "type": kind, "title": title, **more}


def by_model(title: str = "model", labels: Sequence[str] | None = None) -> Spec:
    """Colour, in the order of the models."""
    return {
        "field": "model",
        "type": "nominal",
        "title": title,
        "sort": None,
        "scale": {"domain": list(labels)} if labels else {},
        "legend": {"orient": "top", "columns": 1, "labelLimit": 250, "title": None},
    }


def tips(*fields: tuple[str, str, str]) -> list[Spec]:
    """What hovering tells: (field, title, format); an empty format is for text."""
    return [
        {"field": field, "title": title}
        | ({"type": "quantitative", "format": shape} if shape else {"type": "nominal"})
        for field, title, shape in fields
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not np.isfinite(value):
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float | np.floating) else int(value)


def _is_text(values: Sequence[Any] | np.ndarray) -> bool:
    return len(values) > 0 and isinstance(values[0], str)

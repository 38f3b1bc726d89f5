"""Vega, from vl-convert: the script that draws in a page, and figures as files."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

from marginkit.errors import MarginkitError

LIGHT = {"ink": "#1a1d21", "soft": "#5b6470", "grid": "#e3e6ea"}
DARK = {"ink": "#e8eaed", "soft": "#a3abb5", "grid": "#343a42"}
COLOURS = {  # distinguishable with colour-blindness too (after Okabe and Ito), each on its background
    "light": ["#0072b2", "#d55e00", "#009e73", "#a0528a", "#7a6a00", "#56606b"],
    "dark": ["#56b4e9", "#f0883e", "#2fc79a", "#d98bbd", "#e0cc52", "#aab4bf"],
}


def library() -> ModuleType:
    """vl-convert, imported when a figure is asked for.

    Raises:
        MarginkitError: it is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise MarginkitError(
            "figures need the package vl-convert-python: pip install 'vl-convert-python>=1.6'"
        ) from error
    return vl_convert


@cache
def script() -> str:
    """Vega, Vega-Lite and vega-embed, as a script that can stand in a page."""
    bundle = str(library().javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return bundle.replace("</script", "<\\/script")


def theme(mode: str) -> dict[str, Any]:
    """Vega-Lite's config for `light` or `dark`."""
    tone = LIGHT if mode == "light" else DARK
    font = "system-ui, 'DejaVu Sans', sans-serif"
    text = {"labelColor": tone["soft"], "titleColor": tone["ink"], "labelFont": font, "titleFont": font}
    return {
        "background": "transparent",
        "view": {"stroke": None},
        "font": font,
        "axis": {
            **text,
            "titleFontWeight": "normal",
            "gridColor": tone["grid"],
            "domainColor": tone["soft"],
            "tickColor": tone["soft"],
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titlePadding": 8,
            "labelFlush": False,
            "labelOverlap": "greedy",
            "labelSeparation": 6,
        },
        "legend": {
            **text,
            "labelFontSize": 12,
            "symbolOpacity": 1,
            "symbolBaseFillColor": tone["soft"],
            "symbolBaseStrokeColor": tone["soft"],
        },
        "rule": {"color": tone["soft"]},
        "line": {"color": COLOURS[mode][0]},
        "area": {"color": COLOURS[mode][0]},
        "point": {"color": COLOURS[mode][0]},
        "range": {"category": COLOURS[mode]},
    }

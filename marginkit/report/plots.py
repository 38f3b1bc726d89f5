"""Every figure of a report as files for papers and slides: PNG, SVG and PDF."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from marginkit.comparison.study import Study
from marginkit.errors import MarginkitError
from marginkit.files.atomic import replacing, require_absent
from marginkit.report.charts import Chart, of_comparison, of_study
from marginkit.report.drawing import library, theme

SIZE = {"width": 420, "height": 280}
SCALE = 2.5  # of PNG: 180 dots an inch at Vega's 72


def write(
    study: Study, folder: Path, overwrite: bool = False, suffixes: Sequence[str] = ("svg", "png", "pdf")
) -> list[Path]:
    """Writes them all, in these forms, into the folder, which is made where missing; returns the files.

    Raises:
        MarginkitError: a file is there already, or the folder can't be made.
    """
    draw = library()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarginkitError(f"can't make the folder {folder}: {error.strerror}") from error
    done = []
    for name, chart in _named(study):
        spec = json.dumps({**chart.spec, **SIZE, "config": {**theme("light"), "background": "white"}})
        svg = draw.vegalite_to_svg(spec)
        for suffix in suffixes:
            path = folder / f"{name}.{suffix}"
            require_absent(path, overwrite)
            with replacing(path) as temporary:
                temporary.write_bytes(_drawn(svg, suffix))
            done.append(path)
    return done


def _drawn(svg: str, suffix: str) -> bytes:
    if suffix == "svg":
        return svg.encode()
    draw = library()
    return bytes(draw.svg_to_png(svg, scale=SCALE) if suffix == "png" else draw.svg_to_pdf(svg))


def _named(study: Study) -> list[tuple[str, Chart]]:
    """Charts by file name; where several models are compared, the other one's name is in front."""
    found = [(chart.name, chart) for chart in of_study(study)]
    for i, (c, pair) in enumerate(zip(study.comparisons, study.pairs, strict=True)):
        front = f"{i + 1}-{slug(Path(c.other).stem)}-" if len(study.comparisons) > 1 else ""
        found += [(f"{front}{chart.name}", chart) for chart in of_comparison(c, pair)]
    return found


def slug(text: str) -> str:
    """Letters, digits and dashes: safe in any file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "model"

"""The report as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from marginkit.comparison.compare import Comparison
from marginkit.comparison.study import Study
from marginkit.files.atomic import replacing
from marginkit.report import rows as of
from marginkit.report.answer import LETTERS, Answer
from marginkit.report.charts import Chart, of_comparison, of_study
from marginkit.report.drawing import script, theme
from marginkit.report.gallery import Exhibit, gallery
from marginkit.report.words import group_sentences, sentences, verdict
from marginkit.versions import versions


def write(study: Study, path: Path) -> None:
    """Writes the page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(page(study), encoding="utf-8")


def page(study: Study) -> str:
    """The page's text. The same study gives the same page."""
    environment = Environment(
        loader=PackageLoader("marginkit.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts: list[Chart] = []

    def place(chart: Chart) -> dict[str, Any]:
        charts.append(chart)
        return {"id": f"chart-{len(charts)}", "title": chart.title, "caption": chart.caption}

    content = _content(study, place)
    read = {name: _source(environment, name) for name in ("page.js", "page.css")}
    scripts = [script(), read["page.js"]]
    drawn = {f"chart-{i + 1}": chart.spec for i, chart in enumerate(charts)}
    return environment.get_template("page.html").render(
        **content,
        css=Markup(read["page.css"]),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        data=_json({"charts": drawn, "themes": {mode: theme(mode) for mode in ("light", "dark")}}),
    )


def _content(study: Study, place: Any) -> dict[str, Any]:
    return {
        "summary": of.of_standings(study.standings, _lettered(study)),
        "verified": of.of_verified(study.standings),
        "answer": Answer.of_study(study),
        "verdict": verdict(study.comparisons) if study.comparisons else "",
        "flags": study.flags,
        "overall": [place(chart) for chart in of_study(study)],
        "against": of.against_baseline(study.comparisons) if len(study.comparisons) > 1 else None,
        "comparisons": [
            {
                "c": c,
                "sentences": list(sentences(c)),
                "charts": [place(chart) for chart in of_comparison(c, pair)],
                "tables": list(of.of_comparison(c)),
                "long": [*of.in_depth(c), *([rows] if (rows := of.of_samples(c)).rows else [])],
                "gallery": (shown := gallery(c, pair)),
                "links": _links(c, shown),
            }
            for c, pair in zip(study.comparisons, study.pairs, strict=True)
        ],
        "groups": [
            {"c": g, "sentences": list(group_sentences(g)), "tables": list(of.of_groups(g))}
            for g in study.groups
        ],
        "provenance": {
            name: json.dumps(t.meta, indent=2, sort_keys=True) for name, t in study.tables.items()
        },
        "made_by": f"marginkit {versions()['marginkit']}",
    }


def _lettered(study: Study) -> list[str]:
    """The models' names after their letters, as the terminal has them."""
    models = list(dict.fromkeys(s.model for s in study.standings))
    return [f"{LETTERS[models.index(s.model) % 26]} {s.model}" for s in study.standings]


def _links(c: Comparison, shown: Mapping[str, Sequence[Exhibit]]) -> list[str]:
    """For each sample of the table of samples, where its pictures are; empty where it has none."""
    there = {
        (e.sample.norm, e.sample.why, e.sample.index): e.anchor for found in shown.values() for e in found
    }
    return [there.get((s.norm, s.why, s.index), "") for s in c.samples]


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """JSON that can't end its script element, whatever text is in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))

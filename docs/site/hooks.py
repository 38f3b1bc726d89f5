"""What the site has beside the pages in docs/: README as its front, API, gallery, formulas as MathML."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

import marginkit
from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.report import html, plots
from marginkit.report.charts import of_comparison, of_study

ROOT = Path(__file__).parents[2]
FRONT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
TABLES = [Path(f"artifact:digits/{name}") for name in ("cross-entropy", "large-margin")]


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and pictures that are made."""
    for source, page in FRONT.items():
        files.append(File.generated(config, page, content=_moved((ROOT / source).read_text())))
    files.append(File.generated(config, "api.md", content=_api()))
    files.append(
        File.generated(config, "examples/tour.md", content=_notebook(ROOT / "docs/examples/tour.ipynb"))
    )
    study = Study.of_files(TABLES, Settings())
    files.append(File.generated(config, "gallery/report.html", content=html.page(study)))
    pictures = dict(_pictures(study))
    for name, content in pictures.items():
        files.append(File.generated(config, f"gallery/{name}", content=content))
    files.append(File.generated(config, "gallery.md", content=_gallery(study)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Formulas in ```math blocks, as GitHub writes them, become MathML: no script, no network."""
    return re.sub(
        r"^```math\n(.*?)^```$",
        lambda found: f"<div class='formula'>{convert(found[1].strip(), display='block')}</div>",
        markdown,
        flags=re.DOTALL | re.MULTILINE,
    )


def _moved(text: str) -> str:
    """A page of the repository's root among those of docs/: its links lead to the same places."""
    for source, page in FRONT.items():
        text = text.replace(f"]({source}", f"]({page}")
    text = text.replace("](docs/examples)", "](examples/two_models.py)")
    return text.replace("](docs/", "](").replace('src="docs/', 'src="')


def _notebook(path: Path) -> str:
    """Its cells as a page."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]
    texts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
    return "\n\n".join([*texts, "[The notebook](tour.ipynb) itself.", ""])


def _api() -> str:
    """Every public name, by the module that it comes from."""
    parts: dict[str, list[str]] = {}
    for name, home in sorted(marginkit.HOMES.items()):
        module, _, there = home.partition(":")
        parts.setdefault(module.split(".")[0], []).append(f"::: marginkit.{module}.{there or name}")
    lines = ["# API", "", "Everything here is imported from `marginkit` itself."]
    for part, entries in sorted(parts.items()):
        lines += ["", f"## {part}", "", "\n\n".join(dict.fromkeys(entries))]
    return "\n".join(lines) + "\n"


def _pictures(study: Study) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        for path in plots.write(study, Path(folder), suffixes=("svg",)):
            yield path.name, path.read_text()


def _gallery(study: Study) -> str:
    """What a report draws, of two models that come with marginkit."""
    lines = [
        "# Gallery",
        "",
        "Two networks that come with marginkit, on scikit-learn's digits, drawn when this site was built:",
        "",
        "```bash",
        f"marginkit compare {' '.join(map(str, TABLES))} --html report.html --plots figures",
        "```",
        "",
        "[The whole report](gallery/report.html): one page that needs nothing else.",
    ]
    pair = zip(study.comparisons, study.pairs, strict=True)
    for chart in [*of_study(study), *(chart for c, p in pair for chart in of_comparison(c, p))]:
        lines += [
            "",
            f"## {chart.title}",
            "",
            chart.caption,
            "",
            f"![{chart.title}](gallery/{chart.name}.svg)",
        ]
    return "\n".join(lines) + "\n"

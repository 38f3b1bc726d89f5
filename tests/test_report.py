"""The report's forms: the same tables everywhere, names escaped, limits kept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from made_up import column, model, table
from marginkit_cli.main import main
from marginkit_cli.options import plain

from marginkit.comparison import alignment
from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.report import drawing, html, markup, plots
from marginkit.report.rows import Rows, number, p_value
from marginkit.table.reading import read
from marginkit.table.writing import write

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/compare.schema.json").read_text())
NASTY = "a&<script>alert('x')</script>_%$#{}|`\"].h5"


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Three models as files, one with images, and seeds of two kinds."""
    path = tmp_path_factory.mktemp("tables")
    write(model(200, 1, images=True), path / "a.h5")
    write(model(200, 2, 1.3, images=True), path / "b.h5")
    write(model(200, 3, 1.0), path / "c.h5")
    for seed in range(3):
        write(model(60, seed), path / f"low-{seed}.h5")
        write(model(60, 10 + seed, 1.5), path / f"high-{seed}.h5")
    return path


@pytest.fixture(scope="session")
def study(folder) -> Study:
    return Study.of_files([folder / "a.h5", folder / "b.h5"], Settings())


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def drawn(page: str) -> dict:
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return json.loads(data[1])["charts"]


def test_tables_are_aligned_once_and_brackets_computed_once(folder, tmp_path, monkeypatch):
    """Whatever is written: a pair once, and all of them together once where they are more than two."""
    count: dict[str, int] = {"paired": 0, "ends": 0}

    def counted(name, do):
        def counting(*arguments):
            count[name] += 1
            return do(*arguments)

        return counting

    for name in count:
        monkeypatch.setattr(alignment, name, counted(name, getattr(alignment, name)))
    a, b, c = (read(folder / f"{name}.h5") for name in "abc")
    for tables, groups in (({"a": a, "b": b}, 1), ({"a": a, "b": b, "c": c}, 3)):
        found = Study.of_tables(tables)
        html.page(found)
        markup.write_markdown(found, tmp_path / f"{groups}.md")
        assert count["paired"] == groups
        assert count["ends"] == {1: 4, 3: 14}[groups], "two norms, for every table of a pair and of all three"
        count.update(paired=0, ends=0)


def test_everything_is_written_by_one_command(folder, tmp_path):
    out = {name: tmp_path / f"r.{name}" for name in ("html", "markdown", "latex", "json")}
    options = [part for name, path in out.items() for part in (f"--{name}", path)]
    result = run("compare", folder / "a.h5", folder / "b.h5", folder / "c.h5", *options, "--details")
    assert all(path.stat().st_size > 500 for path in out.values())
    assert "Against" in result.stdout
    assert "exists" in run("compare", folder / "a.h5", folder / "b.h5", *options, code=1).stderr


def test_the_json_follows_its_schema(folder, tmp_path):
    files = [folder / "a.h5", folder / "b.h5"]
    run("compare", *files, "--json", tmp_path / "pair.json", "-q")
    groups = [f"--group=low={folder}/low-*.h5", f"--group=high={folder}/high-*.h5"]
    run("compare", *groups, "--json", tmp_path / "groups.json", "-q")
    for name in ("pair", "groups"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        jsonschema.validate(found, SCHEMA)
        assert found["comparisons" if name == "pair" else "groups"]
    found["flags"].append({"code": 3})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


def test_the_schema_describes_every_field(study):
    """A field that is added to the figures and not to the schema is found here."""
    jsonschema.validate(plain(study.figures()), SCHEMA)
    for name, definition in SCHEMA["$defs"].items():
        if definition.get("type") == "object":
            assert definition["additionalProperties"] is False, name
            assert set(definition["required"]) == set(definition["properties"]), name


def test_degenerate_tables_make_whole_reports(tmp_path):
    for distance in ([0.0, 0.0], [np.inf, np.inf], [1.0], [2.0, 2.0, np.inf]):
        for name in ("a.h5", "b.h5"):
            write(table(column(distance), wrong=np.array(distance) == 0), tmp_path / name)
        found = Study.of_files([tmp_path / "a.h5", tmp_path / "b.h5"], Settings())
        jsonschema.validate(plain(found.figures()), SCHEMA)
        page = html.page(found)
        assert "nan" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL).lower()
        assert drawn(page)


def test_groups_have_a_page_too(folder):
    files = {kind: sorted(folder.glob(f"{kind}-*.h5")) for kind in ("low", "high")}
    page = html.page(Study.of_groups(files, Settings()))
    assert "high (B) minus low (A): 3 and 3 models" in page
    assert any(spec["description"].startswith("Robust accuracy, l2") for spec in drawn(page).values())


def test_the_same_study_gives_the_same_page(study):
    assert html.page(study) == html.page(study)


def test_names_from_files_are_escaped(tmp_path):
    path = tmp_path / NASTY.replace("/", "")
    for file in (path, tmp_path / "b.h5"):
        made = model(40, 1, images=True)
        write(made.with_meta({**made.meta, "note": "</script><img src=x onerror=alert(1)>"}), file)
    found = Study.of_files([path, tmp_path / "b.h5"], Settings())
    page = html.page(found)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == page.count("</script>") == 3
    markup.write_markdown(found, tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "\\<script\\>" in text
    assert "<script>" not in text


def test_markdown_and_latex_have_the_same_cells(study, tmp_path):
    markup.write_markdown(study, tmp_path / "r.md")
    markup.write_latex(study, tmp_path / "r.tex")
    text, tex = (tmp_path / "r.md").read_text(), (tmp_path / "r.tex").read_text()
    row = study.comparisons[0].columns[2]
    assert f"| deepfool.l2 | upper | {row.misclassified[0]}/{row.misclassified[1]} |" in text
    assert f"deepfool.l2 & upper & {row.misclassified[0]}/{row.misclassified[1]} &" in tex
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == text.count("\n### ")
    assert r"first\_order.l2.input" in tex
    assert "95 \\%" in tex
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| first\\_order.l2")}
    assert len(widths) >= 2


def test_latex_escapes_what_tex_would_read():
    cells = markup.latex_table(Rows("T", "", ("a",), (("50% & $x_1 \\ {#} ~^<>[",),)))
    assert r"50\% \& \$x\_1 \textbackslash{} \{\#\} \textasciitilde{}\textasciicircum{}" in cells


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_whatever_the_files_are_called(folder, tmp_path):
    tables = {"baseline": read(folder / "a.h5"), NASTY: read(folder / "b.h5")}
    markup.write_latex(Study.of_tables(tables), tmp_path / "r.tex")
    lines = (r"\documentclass{article}\usepackage{booktabs}", r"\begin{document}\input{r}\end{document}")
    (tmp_path / "all.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_gallery_shows_inputs_witnesses_and_changes(study):
    page = html.page(study)
    assert page.count("data:image/png;base64,") >= 30
    assert re.search(r"the change, \d+\.\d times", page)
    assert "No pictures" not in page


def test_without_pictures_it_says_how_to_have_them(folder):
    assert "measure images with --witnesses" in html.page(
        Study.of_files([folder / "low-0.h5", folder / "low-1.h5"], Settings())
    ).replace("\n", " ")


def test_plots_are_files_for_papers(folder, tmp_path):
    for name in ("b.h5", "c.h5"):
        whole = read(folder / name)
        write(replace(whole, columns=tuple(c for c in whole.columns if c.norm == "l2")), tmp_path / name)
    files = (tmp_path / "b.h5", tmp_path / "c.h5")
    run("compare", *files, "--plots", tmp_path / "plots", "-q")
    found = sorted(path.name for path in (tmp_path / "plots").iterdir())
    names = {name.rpartition(".")[0] for name in found}
    assert names >= {"robust-accuracy-l2", "difference-l2", "pairs-l2", "brackets-l2", "layers-l2"}
    assert len(found) == 3 * len(names)
    heads = {
        suffix: (tmp_path / "plots" / f"pairs-l2.{suffix}").read_bytes()[:5]
        for suffix in ("png", "pdf", "svg")
    }
    assert heads == {"png": b"\x89PNG\r", "pdf": b"%PDF-", "svg": b"<svg "}
    assert "exists" in run("compare", *files, "--plots", tmp_path / "plots", code=1).stderr


def test_file_names_of_plots_are_safe():
    assert plots.slug("../../Etc <x>\0.h5") == "etc-x-h5"
    assert plots.slug("??") == "model"


def test_strict_exits_with_three_where_there_are_doubts(folder, tmp_path):
    few = [folder / "a.h5", folder / "b.h5"]
    assert "Before you believe it" in run("compare", *few, "--strict", "--details", code=3).stdout
    for name in ("x.h5", "y.h5"):
        write(table(column(np.linspace(1, 2, 50))), tmp_path / name)
    run("compare", tmp_path / "x.h5", tmp_path / "y.h5", "--strict")


def test_without_the_figures_library_one_sentence_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    drawing.script.cache_clear()
    result = run("compare", folder / "a.h5", folder / "b.h5", "--html", tmp_path / "r.html", code=1)
    assert result.stderr.startswith("Error: figures need the package vl-convert-python: pip install")
    assert not list(tmp_path.iterdir())


def test_the_terminal_is_eighty_columns_without_colour(folder):
    command = [
        Path(sys.executable).with_name("marginkit"),
        "compare",
        folder / "a.h5",
        folder / "b.h5",
        folder / "c.h5",
        "-v",
    ]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_show_tells_what_is_in_a_file(folder):
    out = run("show", folder / "a.h5", "--details").stdout
    assert "data:    d test" in out
    assert "median certified" in out
    assert "deepfool.l2 is EXHAUSTED on" in out
    assert json.loads(run("show", folder / "a.h5", "--json", "-").stdout)["n"] == 200


def test_tables_are_called_by_what_tells_them_apart(folder):
    files = [folder / "a.h5", folder / "b.h5", folder / "a.h5"]
    assert list(Study.of_files(files, Settings()).tables) == ["a.h5", "b.h5", "a.h5 (3)"]
    groups = {kind: sorted(folder.glob(f"{kind}-*.h5")) for kind in ("low", "high")}
    assert list(Study.of_groups(groups, Settings()).tables)[:2] == ["low-0.h5", "low-1.h5"]


@pytest.mark.quick
def test_cells():
    assert [number(v) for v in (1.23456, float("nan"), None, float("inf"))] == ["1.235", "-", "-", "inf"]
    assert [p_value(p) for p in (None, 1.0, 0.02, 1e-5, 0.0)] == ["same", "1", "0.020", "1.0e-05", "<1e-99"]


GROUP_MISTAKES = [
    ("--group a={f}/low-*.h5", 2, "one group can't be compared"),
    ("--group a={f}/low-*.h5 --group b={f}/none-*.h5", 2, "no file matches"),
    ("--group a={f}/low-*.h5 --group b={f}/absent.h5", 1, "no such table"),
    ("{f}/a.h5 --group b={f}/b.h5", 2, "not both"),
    ("--tau l2=far {f}/a.h5 {f}/b.h5", 2, "expected numbers"),
    ("--baseline {f}/a.h5", 2, "one table"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), GROUP_MISTAKES)
def test_mistakes_are_one_sentence(folder, arguments, code, message):
    assert message in run("compare", *arguments.format(f=folder).split(), code=code).stderr

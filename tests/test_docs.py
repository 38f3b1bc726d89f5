"""What the documentation says to run, runs."""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
from argparse import Namespace
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from made_up import column, table
from quickly import measure_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import marginkit
from marginkit.activations import capture
from marginkit.comparison.compare import compare
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.kinds import Status
from marginkit.losses import LOSSES
from marginkit.methods.configure import configure_methods
from marginkit.norms import L2
from marginkit.table.provenance import Provenance
from marginkit.table.writing import write

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("artifacts/*.md")]


def blocks(path: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


MEMBERS = (property, cached_property, staticmethod, classmethod, type(lambda: 0))
RUN = ["README.md", "docs/format.md", "docs/statistics.md"]


def test_every_python_block_is_run():
    """Here as a whole page, or by a test of its own."""
    with_python = {str(path.relative_to(ROOT)) for path in PAGES if blocks(str(path.relative_to(ROOT)))}
    assert with_python == {*RUN, "docs/porting.md", "CONTRIBUTING.md"}, (
        "CONTRIBUTING's line is in test_schema.py"
    )


@pytest.mark.parametrize("path", RUN)
def test_python_blocks_run(path, checkpoint_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = ["first_order", "nearest"]
    measured, _ = measure_file(checkpoint_path, list(configure_methods(methods)), ["l2"], first=5)
    write(measured, tmp_path / "margins.h5")
    found = blocks(path)
    assert found
    space: dict = {}
    for block in found:
        exec(compile(block, path, "exec"), space)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path, checkpoint_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured, _ = measure_file(checkpoint_path, ["nearest"], ["l2"], first=20)
    write(measured, tmp_path / "margins.h5")
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.count("\n") >= 2


def digits_loader(split: str) -> DataLoader:
    data = load("digits", Source(split=split))
    x = data.inputs(list(range(len(data))))
    return DataLoader(
        TensorDataset((x - x.mean()) / x.std(), torch.from_numpy(data.labels)), 64, shuffle=True
    )


def mnist_example_like() -> nn.Module:
    """The example's shape of network, for 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10), nn.LogSoftmax(1),
    )  # fmt: skip


def test_the_ported_train_function_trains(capsys):
    space: dict = {}
    exec(blocks("docs/porting.md")[0], space)
    torch.manual_seed(0)
    model, loader = mnist_example_like(), digits_loader("train")
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    for epoch in range(12):
        space["train"](Namespace(log_interval=1000), model, "cpu", loader, optimizer, epoch)
    model.eval()
    hits = [(model(x).argmax(1) == y).float() for x, y in digits_loader("test")]
    assert torch.cat(hits).mean() > 0.95
    assert capsys.readouterr().out.count("loss") == 12


def test_the_distances_by_hand_are_the_librarys(network, samples):
    from marginkit.methods.first_order import FirstOrder
    from marginkit.types import Threat

    space: dict = {}
    exec(blocks("docs/porting.md")[1], space)
    x, y = samples
    scores, (h,) = capture(network, x, ("hidden1",))
    by_hand = space["distances"](scores, y, h).amin(1)
    ours = FirstOrder(layers=("hidden1",), top_k=None)(network, x, y, Threat(L2)).distance[:, 0]
    torch.testing.assert_close(by_hand.detach(), ours, rtol=1e-5, atol=1e-6)


def test_links_between_documents_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_has_the_commands_that_ci_runs():
    (commands,) = re.findall(r"<!-- test command -->\n```bash\n(.*?)\n```", (ROOT / "README.md").read_text())
    assert commands.count("\n") == 0
    assert commands.endswith("pytest")
    assert "marginkit demo" in blocks("README.md", "bash")[0]


def test_every_option_of_the_loss_is_documented():
    from marginkit.losses.large_margin import LargeMargin

    text = (ROOT / "docs/training.md").read_text()
    for field in fields(LargeMargin):
        assert f"| `{field.name}` |" in text


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_and_its_options_are_documented(name):
    text = (ROOT / "docs/training.md").read_text()
    assert f"`{name}`" in text
    assert all(f"`{field.name}`" in text for field in fields(LOSSES[name]))


def test_every_doubt_is_documented():
    from marginkit.comparison.flags import DOUBTFUL

    text = (ROOT / "docs/report.md").read_text()
    codes = re.findall(r'Flag\(\s*"([a-z-]+)"', (ROOT / "marginkit/comparison/flags.py").read_text())
    codes += [status.name.lower() for status in DOUBTFUL]
    assert len(codes) >= 12
    assert all(f"`{code}`" in text for code in codes)


def test_every_check_is_documented_with_its_threshold_and_source():
    from marginkit.table.verdicts import CHECKS

    text = (ROOT / "docs/reliability.md").read_text()
    for name, check in CHECKS.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
        assert f"| {check.above:g} |" in row
        assert all(source in row for source in check.source.replace("arXiv ", "").split(", "))


def test_every_source_of_models_is_documented():
    from marginkit.models.sources import SOURCES

    text = (ROOT / "docs/models.md").read_text()
    assert all(f"`{name}:NAME`" in text for name in SOURCES)


def test_every_method_and_status_is_documented():
    from marginkit.methods import METHODS

    methods, form = (ROOT / "docs/methods.md").read_text(), (ROOT / "docs/format.md").read_text()
    assert all(f"## {name}" in methods for name in METHODS)
    assert all(f"| {int(s)} | {s.name} |" in form for s in Status)


def test_the_tour_runs_and_its_results_show_in_a_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/examples/tour.ipynb").read_text())["cells"]
    assert len(cells) == 10
    space: dict = {}
    shown = [ran("".join(cell["source"]), space) for cell in cells if cell["cell_type"] == "code"]
    pages = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert [("crown.l2" in page, page.count("<table>")) for page in pages] == [(True, 1), (True, 1)]
    assert "large-margin (B) against cross-entropy (A), 20 samples" in pages[1]
    assert shown[-1] >= 0


def ran(source: str, space: dict):
    """Runs a cell; gives what its last line is worth, as a notebook would show."""
    *before, last = ast.parse(source).body
    show = isinstance(last, ast.Expr)
    exec(compile(ast.Module([*before, *([] if show else [last])], []), "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space) if show else None


def test_names_in_a_notebook_are_text():
    made = replace(table(column([1.0, 2.0])), provenance=Provenance())
    renamed = replace(made, columns=(replace(made.columns[0], method="<script>"),))
    assert "<script>" not in renamed._repr_html_()
    assert "<b>" not in compare(made, made, labels=("<b>", "B"))._repr_html_()


def test_every_public_name_is_documented():
    """Functions and classes, their public methods and properties, and what registries hold."""
    bare = []
    for name in marginkit.__all__:
        value = getattr(marginkit, name)
        entries = list(value.values()) if isinstance(value, dict) else [value]
        for entry in (e for e in entries if inspect.isclass(e) or inspect.isroutine(e)):
            members = vars(entry).items() if inspect.isclass(entry) else ()
            public = [(k, v) for k, v in members if k[0] != "_" and isinstance(v, MEMBERS)]
            bare += [f"{name}.{k}" for k, v in [("", entry), *public] if not inspect.getdoc(v)]
    assert bare == []


def test_the_stub_tells_type_checkers_the_same_names():
    told = re.findall(
        r"import (?:\w+ as )?(.+)$", (ROOT / "marginkit/__init__.pyi").read_text(), re.MULTILINE
    )
    names = {name.split(" as ")[-1].strip("() ") for line in told for name in line.split(",")}
    assert names >= {*marginkit.__all__}


def test_what_the_faq_quotes_stands_in_the_code():
    """Every option, status and code in backticks, and every message in quotes."""
    text = " ".join((ROOT / "docs/faq.md").read_text().split())
    code = "\n".join(p.read_text() for top in ("marginkit", "cli") for p in (ROOT / top).rglob("*.py"))
    flat = re.sub(r'"\s*f?"', "", re.sub(r"\s+", " ", code))
    for quoted in re.findall(r'"([^"]{12,})"', text):
        assert quoted.rstrip(".") in flat, quoted
    for option in set(re.findall(r"--[a-z-]+", text)):
        assert f'"{option}"' in code, option
    for status in set(re.findall(r"`([A-Z_]{4,})`", text)):
        assert status in Status.__members__, status


def test_the_readme_fits_two_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert re.search(r"!\[[^]]*\]\(docs/[^)]*report", "\n".join(lines[:12])), (
        "its first picture is the report's"
    )

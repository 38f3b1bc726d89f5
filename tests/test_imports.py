"""What loads torch, and what must not."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typecheck

import marginkit
from marginkit.losses import LOSSES
from marginkit.methods import METHODS
from marginkit.norms import along

WITHOUT_TORCH = """
import sys
import {module}
assert "torch" not in sys.modules, "torch was imported"
"""


@pytest.mark.parametrize(
    "module",
    [
        "marginkit",
        "marginkit.table.reading",
        "marginkit.comparison.study",
        "marginkit.report",
        "marginkit_cli.main",
    ],
)
def test_it_loads_no_torch(module):
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH.format(module=module)], check=True)


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["measure", "--help"]])
def test_help_loads_neither_torch_nor_numpy(arguments):
    code = f"""
import sys
from marginkit_cli.main import main
try:
    main({arguments!r})
except SystemExit as done:
    assert done.code == 0
assert not {{"torch", "numpy", "rich"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_no_peer_is_imported_by_the_library():
    code = "import sys, marginkit.measurement.measure; assert 'torchattacks' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


PUBLIC = [
    "ARCHITECTURES",
    "Bracket",
    "DATASETS",
    "Estimate",
    "Kind",
    "L1",
    "L2",
    "LINF",
    "LOSSES",
    "METHODS",
    "MarginTable",
    "MarginkitError",
    "NORMS",
    "Recipe",
    "Status",
    "Threat",
    "TorchAttack",
    "compare",
    "large_margin",
    "load",
    "load_checkpoint",
    "load_dataset",
    "measure",
    "measure_file",
    "read_table",
    "save",
    "tighten",
    "train",
    "write_table",
]


def test_what_is_promised_is_public():
    entries = [entry.__name__ for entry in (*METHODS.values(), *LOSSES.values())]
    assert sorted(marginkit.__all__) == sorted([*PUBLIC, *entries])
    assert set(marginkit.__all__) <= set(dir(marginkit))
    for registry in (METHODS, LOSSES):
        assert all(getattr(marginkit, entry.__name__) is entry for entry in registry.values())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        marginkit.nothing  # noqa: B018


def test_every_public_name_is_imported_in_one_line():
    """A name that is also a module would be the module, once that is loaded."""
    code = """
import marginkit
for name in marginkit.__all__:
    space = {}
    exec(f"from marginkit import {name}", space)
    assert space[name] is not None
    assert type(space[name]).__name__ != "module", name
assert marginkit.read_table is marginkit.load
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_stub_says_what_the_table_says():
    stub = ast.parse(Path(marginkit.__file__).with_suffix(".pyi").read_text())
    told = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: home.partition(":") for name, home in marginkit.HOMES.items()}
    assert told == {name: (f"marginkit.{home}", there or name) for name, (home, _, there) in homes.items()}
    (names,) = (node for node in stub.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(names.value) == marginkit.__all__


def test_the_stub_is_shipped():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    shipped = project["tool"]["setuptools"]["package-data"]["marginkit"]
    assert {"py.typed", "__init__.pyi"} <= set(shipped)


AREAS = sorted(path.parent.name for path in Path(marginkit.__file__).parent.glob("*/__init__.py"))


@pytest.mark.quick
@pytest.mark.parametrize("area", [f"marginkit.{area}" for area in AREAS] + ["marginkit_cli"])
def test_each_part_of_the_house_has_quick_tests(area):
    """`pytest -m quick` says something of everything."""
    sources = [
        path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_imports.py"
    ]
    quick = [source for source in sources if "pytest.mark.quick" in source]
    assert any(f"from {area}." in source or f"import {area}" in source for source in quick)


def test_shapes_are_checked_on_the_first_calls_of_every_test():
    vector, matrix = torch.zeros(3), torch.zeros(3, 2)
    for first in (True, False):
        with pytest.raises(Exception, match=r"Type-check error|type-checking"):
            along(matrix, matrix)
        for _ in range(2 * typecheck.CALLS):
            along(vector, matrix)
        assert hasattr(along.__wrapped__, "__no_type_check__")
        if first:
            typecheck.begin_again()

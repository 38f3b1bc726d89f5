"""What loads torch, and what must not."""

import subprocess
import sys

import pytest

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


def test_public_names_are_there():
    import marginkit

    for name in marginkit.__all__:
        assert getattr(marginkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        marginkit.nothing  # noqa: B018

"""A new field of every sample is one line: two lines are put into a copy of marginkit, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from one_more_field import STEPS

import marginkit
from marginkit.table.schema import per_sample_fields
from marginkit.table.table import Column, MarginTable

pytestmark = pytest.mark.quick

TESTS = Path(__file__).parent
OPTIONAL = "np.ndarray | None = field(default=None, metadata=per_sample"
LINES = {  # by what they stand before
    "    note: str": f'    steps: {OPTIONAL}(np.int32, "{{}}.steps"))',
    "    hash: np": f'    weight: {OPTIONAL}(np.float64, "weight", least=0))',
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of the fields in each step."""
    copy = tmp_path_factory.mktemp("longer") / "marginkit"
    shutil.copytree(Path(marginkit.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / "table" / "table.py").read_text()
    for before, line in LINES.items():
        assert source.count(f"\n{before}") == 1
        source = source.replace(f"\n{before}", f"\n{line}\n{before}")
    (copy / "table" / "table.py").write_text(source)
    found = subprocess.run(
        [sys.executable, "-W", "error", str(TESTS / "one_more_field.py")],
        env=os.environ | {"PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.parametrize("step", [step.__name__ for step in STEPS])
def test_a_new_field_is_one_line(outcomes, step):
    assert outcomes[step] == "fine"


@pytest.mark.parametrize("cls", [MarginTable, Column])
def test_every_array_says_in_its_line_what_it_is(cls):
    specs = per_sample_fields(cls)
    arrays = [name for name, hint in cls.__annotations__.items() if "ndarray" in hint]
    assert [spec.name for spec in specs] == arrays
    assert len({spec.named("c") for spec in specs}) == len(specs)

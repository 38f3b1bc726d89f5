"""The audit's tables: a witness for each image, and verdicts that follow from the intervals."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

AUDIT = Path(__file__).parents[1] / "artifacts" / "audit"
TABLES = sorted(AUDIT.glob("*.csv"))


@pytest.fixture
def verdict(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(AUDIT), *sys.path])
    return runpy.run_path(str(AUDIT / "audit.py"))["verdict"]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_image_has_an_interval_a_witness_and_its_verdict(path, verdict):
    table = pd.read_csv(path)
    assert (table.proved <= table.found * (1 + 1e-6)).all()
    assert table.image.is_unique
    assert [verdict(row) for _, row in table.iterrows()] == table.verdict.tolist()
    with np.load(path.with_suffix(".npz")) as witnesses:
        assert {int(name) for name in witnesses} == set(table.image)
        assert all(x.min() >= 0 and x.max() <= 1 for x in witnesses.values())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((0.05, 0.07, 0.055, 0.06), "narrower"),
        ((0.05, 0.07, 0.04, 0.065), "wider"),
        ((0.05, 0.07, 0.05, 0.07), "equal"),
        ((0.05, 0.07, 0.03, 0.045), "contradicts its proof"),
        ((0.05, 0.07, 0.08, 0.09), "contradicts its attack"),
        ((0.05, np.nan, 0.05, 0.06), "closes what was open"),
    ],
)
def test_verdicts_are_those_of_the_intervals(verdict, row, said):
    names = ("published_proved", "published_found", "proved", "found")
    assert verdict(pd.Series(dict(zip(names, row, strict=True)))) == said


def test_there_is_a_table():
    assert TABLES

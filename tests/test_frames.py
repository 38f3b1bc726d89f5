"""Tables in pandas, CSV and Parquet."""

from __future__ import annotations

import sys

import numpy as np
import pandas
import pytest
from click.testing import CliRunner
from made_up import ABOUT, column, table
from marginkit_cli.main import main

import marginkit
from marginkit.table.writing import write

pytestmark = pytest.mark.quick


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(table(column([0.1 + 0.2, 0.0, np.inf]), index=np.array([4, 7, 9])), tmp_path / "a.h5")
    return tmp_path / "a.h5"


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_a_frame_has_a_row_a_sample(path):
    frame = marginkit.load(path).to_pandas()
    assert frame.index.tolist() == [4, 7, 9]
    assert frame["deepfool.l2"].tolist() == [0.1 + 0.2, 0.0, np.inf]
    assert frame["deepfool.l2.status"].tolist() == ["OK", "MISCLASSIFIED", "EXHAUSTED"]
    assert frame.attrs["meta"] == ABOUT
    assert frame.attrs["kinds"] == {"deepfool.l2": "upper"}
    assert frame.loc[frame["deepfool.l2.status"] == "OK", "deepfool.l2"].median() == pytest.approx(0.3)


def test_an_unknown_status_is_no_category():
    strange = column([1.0, 2.0])
    strange.status[:] = (0, 77)
    assert table(strange).to_pandas()["deepfool.l2.status"].isna().tolist() == [False, True]


def test_csv_keeps_every_digit(path):
    run("export", "a.h5", "--csv", "a.csv")
    back = pandas.read_csv("a.csv", index_col="index")
    assert back["deepfool.l2"].tolist() == [0.1 + 0.2, 0.0, np.inf]
    assert back["deepfool.l2.status"].tolist() == ["OK", "MISCLASSIFIED", "EXHAUSTED"]


def test_parquet_keeps_types_and_provenance(path):
    run("export", "a.h5", "--parquet", "a.parquet")
    back = pandas.read_parquet("a.parquet")
    pandas.testing.assert_frame_equal(back, marginkit.load(path).to_pandas())
    assert back.attrs["meta"] == ABOUT


def test_mistakes_are_one_sentence(path, monkeypatch):
    assert "say what to write" in run("export", "a.h5", code=2).stderr
    run("export", "a.h5", "--csv", "a.csv")
    assert "exists" in run("export", "a.h5", "--csv", "a.csv", code=1).stderr
    assert "no such table" in run("export", "b.h5", "--csv", "b.csv", code=1).stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert (
        "pip install 'marginkit[parquet]'" in run("export", "a.h5", "--parquet", "p.parquet", code=1).stderr
    )

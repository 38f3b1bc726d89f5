"""The paper's regimes as scripts: what they run, and what is drawn from it."""

from __future__ import annotations

import json
import runpy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

PAPER = Path(__file__).parent.parent / "artifacts/paper"


@pytest.fixture(scope="module")
def run():
    return runpy.run_path(str(PAPER / "run.py"))


@pytest.fixture
def figures():
    return runpy.run_path(str(PAPER / "figures.py"))


def lines(run) -> list[dict]:
    """Every run, with made-up results that differ by the seed."""
    radii = {str(eps): 0.5 for eps in run["EPS"]}
    attacks = dict.fromkeys(("fgsm", "ifgsm", "fgsm_transfer", "ifgsm_transfer", "nearest_linf"), radii)
    whole = {"input_noise": {"0.1": 0.8}, **attacks, "median_l2": 1.5, "median_linf": 0.1}
    found = []
    for each in run["runs"]():
        clean = each.label_noise == 0 and each.samples == run["SAMPLES"]
        found.append(asdict(each) | {"accuracy": 0.9 + each.seed / 100} | (whole if clean else {}))
    return found


def test_every_way_meets_every_regime_with_every_seed_once(run):
    planned = list(run["runs"]())
    assert len(set(planned)) == len(planned)
    each = 1 + len(run["NOISE"]) + len(run["SIZES"])
    assert len(planned) == len(run["WAYS"]) * len(run["SEEDS"]) * each


def test_intervals_are_students(run, figures):
    found = figures["intervals"](figures["observations"](lines(run)))
    row = found[
        (found["figure"] == "label_noise") & (found["way"] == "hinge") & (found["level"] == 0.4)
    ].iloc[0]
    values = [0.9, 0.91, 0.92]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert row["mean"] == pytest.approx(0.91)
    assert (row["low"], row["high"]) == pytest.approx(expected)


def test_leads_are_paired_by_the_seed(run, figures):
    everything = lines(run)
    for line in everything:
        line["accuracy"] -= 0.03 * (line["way"] == "cross-entropy")
    found = figures["intervals"](figures["leads"](figures["observations"](everything)))
    assert set(found["way"]) == set(run["WAYS"]) - {"cross-entropy"}
    for column in ("mean", "low", "high"):  # seeds differ, leads do not
        np.testing.assert_allclose(found[column], 0.03)


def test_the_tables_and_figures_come_from_the_runs(run, figures, tmp_path):
    everything = lines(run)
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in everything))
    figures["main"].__globals__["HERE"] = tmp_path
    figures["main"]()
    text = (tmp_path / "tables.md").read_text()
    assert "| cross-entropy | 91.0 ± 2.5 |" in text
    assert text.count("\n| default |") == 10  # nine tables and the medians
    assert text.count("\n| cross-entropy |") == 9  # it is not ahead of itself
    drawn = {path.stem for path in tmp_path.glob("*.svg")}
    assert {"label-noise", "samples", "sigma", "fgsm", "ifgsm-transfer"} <= drawn
    assert "nearest" in (tmp_path / "fgsm.svg").read_text()


def test_budgets_are_all_there_with_their_intervals(run, monkeypatch):
    monkeypatch.syspath_prepend(str(PAPER))
    budget = runpy.run_path(str(PAPER / "budget.py"))
    plan = budget["PLAN"]
    assert len({tuple(line.items()) for line in plan}) == len(plan) == 2 * 2 * 2 * 3 * len(run["SEEDS"])
    text = budget["table"]([line | {"accuracy": 0.9 + line["seed"] / 100} for line in plan])
    assert text.count("| 91.0 ± 2.5 | 91.0 ± 2.5 | 91.0 ± 2.5 |") == 8
    assert "| 20 % | cross-entropy, 0.001 |" in text

"""The generalisation gap predicted over a pool of models, from the command too."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from made_up import column, table
from marginkit_cli.main import main

from marginkit.comparison.prediction import predict
from marginkit.errors import MarginkitError
from marginkit.kinds import Kind
from marginkit.table.writing import write

N = 400


def pool(count: int, follows: bool):
    """Models whose gap falls with the hidden layer's margin, or has nothing to do with it."""
    random, found = np.random.default_rng(0), {}
    for i in range(count):
        better = random.uniform(0.5, 2)
        gap = 0.3 - 0.1 * better if follows else random.uniform(0.1, 0.3)
        columns = [
            column(scale * random.gamma(4, size=N), "first_order", Kind.ESTIMATE, layer=layer)
            for layer, scale in (("input", 1.0), ("hidden", better))
        ]
        for split, right in (("train", 1.0), ("test", 1 - gap)):
            made = table(*columns)
            predicted = np.where(np.arange(N) < right * N, made.label, 1 - made.label)
            meta = {
                "checkpoint": {"sha256": f"{i}"},
                "dataset": {"name": "made up", "split": split},
                "activation_variance": {"input": 1.0, "hidden": 1.0},
            }
            found[f"{i}-{split}"] = type(made)(made.index, made.label, predicted.astype(np.int32),
                                               made.logit_margin, made.columns).with_meta(meta)  # fmt: skip
    return found


def test_a_gap_that_follows_the_margins_is_ranked_and_one_that_does_not_is_not():
    found = predict(pool(20, True))
    by = {ranking.predictor: ranking for ranking in found.rankings}
    assert len(found.models) == 20
    random = np.random.default_rng(0)
    assert found.gaps[0] == pytest.approx(0.3 - 0.1 * random.uniform(0.5, 2), abs=1 / N)
    assert by["margins at every layer"].spearman > 0.9
    assert by["median margin at hidden"].spearman > 0.9
    assert by["margins at every layer"].features == 10
    assert by["median margin at the input"].spearman < 0.6
    assert predict(pool(20, False)).rankings[0].r2 < 0.3


def test_each_model_is_predicted_from_the_others():
    """With its own gap in the line, noise would seem predictable."""
    tables = pool(8, False)
    before = predict(tables).rankings[0].predicted
    one = tables["3-test"]
    flipped = type(one)(one.index, one.label, one.label.copy(), one.logit_margin, one.columns, one.provenance)
    after = predict({**tables, "3-test": flipped}).rankings[0].predicted
    assert after[3] == pytest.approx(before[3])
    assert after[2] != pytest.approx(before[2])


def test_what_is_no_pool_is_refused():
    tables = pool(6, True)
    with pytest.raises(MarginkitError, match="4 of 10 tables' models are measured on both"):
        predict({k: v for k, v in tables.items() if k not in ("0-test", "1-train")})
    with pytest.raises(MarginkitError, match="0-train and again are both"):
        predict({**tables, "again": tables["0-train"]})


def test_the_command_ranks_a_folder_of_tables(tmp_path):
    for name, made in pool(6, True).items():
        write(made, tmp_path / f"{name}.h5")
    done = CliRunner().invoke(main, ["predict", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "margins at every layer" in done.stdout
    assert "6 models, gaps from" in done.stdout
    done = CliRunner().invoke(main, ["predict", str(tmp_path), "--json", "-"])
    assert len(json.loads(done.stdout)["rankings"][0]["predicted"]) == 6
    (tmp_path / "none").mkdir()
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "has no tables" in done.output

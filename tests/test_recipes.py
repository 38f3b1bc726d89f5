"""Recipes by name, and the range test of the learning rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from marginkit_cli.config import RECIPES
from marginkit_cli.main import main
from quickly import measure_file

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.models import checkpoint as checkpoints
from marginkit.training.range_test import LEAST, range_test
from marginkit.training.recipe import Recipe

NAMES = sorted(Path(entry.name).stem for entry in RECIPES.iterdir())
SMALL = ["--dataset", "digits", "--epochs", "1", "--fraction", "0.05", "-q"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_and_is_documented(name):
    done = CliRunner().invoke(main, ["train", "--recipe", name, *SMALL])
    assert done.exit_code == 0, done.output
    found, _ = checkpoints.load("model.pt")
    assert found.training["recipe"]["learning_rate"] != Recipe().learning_rate
    found.model()
    text = (Path(__file__).parent.parent / "docs/training.md").read_text()
    assert f"| `{name}` |" in text


def test_what_the_tight_recipe_trains_is_proved_to_nearly_where_it_is_fooled():
    arguments = ["train", "--recipe", "mnist-tight", "--dataset", "digits", "--epochs", "8", "-q"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    table, _ = measure_file("model.pt", ["nearest", "crown"], ["l2"], first=10)
    found, proved = (table[f"{name}.l2"].distance for name in ("nearest", "crown"))
    assert (proved <= found).all()
    assert np.median(proved) >= 0.8 * np.median(found) > 0.3


def test_a_file_goes_before_the_recipe_and_the_command_line_before_both():
    Path("mine.toml").write_text("learning-rate = 0.007\nbatch-size = 16\n")
    arguments = ["train", "--config", "mine.toml", "--recipe", "mnist-large-margin", *SMALL]
    assert CliRunner().invoke(main, [*arguments, "--batch-size", "8"]).exit_code == 0
    found, _ = checkpoints.load("model.pt")
    recipe = found.training["recipe"]
    assert (recipe["learning_rate"], recipe["batch_size"], recipe["validation"]) == (0.007, 8, 0.0)
    assert found.options == {"halve": "stride"}


def test_an_unknown_recipe_is_refused_with_those_there_are():
    done = CliRunner().invoke(main, ["train", "--recipe", "imagenet"])
    assert done.exit_code == 2
    assert "no recipe is called 'imagenet'; there are cifar10-certified" in done.output


def test_the_range_test_suggests_a_rate_at_which_training_works():
    digits = load("digits", Source(split="train"))
    options = {"architecture": "mlp", "architecture_options": {"hidden": (32,)}, "loss": "cross-entropy"}
    found = range_test(digits, steps=60, **options)
    assert found == range_test(digits, steps=60, **options)
    assert found.rates[0] == pytest.approx(LEAST)
    assert list(found.rates) == sorted(found.rates)
    assert min(found.losses) < 0.7 * found.losses[0]
    assert 1e-4 < found.suggested < 0.1


def test_the_command_suggests_and_writes_nothing():
    done = CliRunner().invoke(main, ["train", "--find-learning-rate", "--arch", "linear"])
    assert done.exit_code == 0, done.output
    assert "try --learning-rate" in done.stdout
    assert not list(Path().iterdir())

"""Fractions, wrong labels, augmentation and noise: what training and evaluation are made to face."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marginkit_cli.main import main

from marginkit.data.dataset import Source
from marginkit.data.regimes import AUGMENTATIONS, augmented, limited
from marginkit.data.sources import load
from marginkit.errors import MarginkitError
from marginkit.models import checkpoint as checkpoints
from marginkit.training.evaluation import accuracy
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

SMALL = {"architecture": "mlp", "architecture_options": {"hidden": (16,)}, "loss": "cross-entropy"}


@pytest.fixture(scope="module")
def digits():
    return load("digits", Source(split="train"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_share_of_flipped_labels_is_exact_and_every_flip_is_wrong(digits, share):
    noisy, record = limited(digits, 1.0, share, seed=3)
    flipped = np.flatnonzero(noisy.labels != digits.labels)
    assert len(flipped) == round(share * len(digits))
    assert record["flipped"] == flipped.tolist()
    assert record["flipped_to"] == noisy.labels[flipped].tolist()
    assert set(noisy.labels) == set(range(10))
    assert noisy.fingerprint == digits.fingerprint


def test_flips_reach_every_other_class_alike(digits):
    noisy, _ = limited(replace(digits, labels=np.zeros(1000, np.int64)), 1.0, 0.9, seed=0)
    counts = np.bincount(noisy.labels, minlength=10)
    assert counts[0] == 100
    assert (abs(counts[1:] - 100) < 35).all()  # 3.7 standard deviations


def test_a_seed_chooses_the_same_samples_and_another_others(digits):
    first, again, other = (limited(digits, 0.1, 0.4, seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first["kept"] != other["kept"]
    assert first["flipped"] != other["flipped"]


@pytest.mark.parametrize("fraction", [0.00125, 0.01, 0.3])
def test_fractions_keep_each_classs_share_to_within_one(fraction):
    digits = load("digits", Source(split="train"))
    many = replace(digits, labels=np.sort(np.random.default_rng(0).integers(0, 10, 60000)))
    kept, record = limited(many, fraction, 0.0, seed=0)
    assert len(kept) == round(fraction * 60000)
    shares = fraction * np.bincount(many.labels)
    assert (abs(np.bincount(kept.labels, minlength=10) - shares) <= 1).all()
    assert len(set(record["kept"])) == len(kept)
    assert kept.labels.tolist() == many.labels[record["kept"]].tolist()


def test_the_inputs_stay_with_their_labels(digits):
    kept, record = limited(digits, 0.05, 0.5, seed=0)
    assert torch.equal(kept.inputs([0, 7, 3]), digits.inputs([record["kept"][i] for i in (0, 7, 3)]))
    right = np.isin(record["kept"], record["flipped"], invert=True)
    assert (kept.labels == digits.labels[record["kept"]]).tolist() == right.tolist()


def test_a_fraction_with_fewer_samples_than_classes_is_refused(digits):
    with pytest.raises(MarginkitError, match=r"leaves 7 of 1442 .* 10 classes .* at least 0.0069"):
        limited(digits, 0.005, 0.0, seed=0)


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.1}, {"label_noise": -0.1}])
def test_impossible_shares_are_refused(options):
    with pytest.raises(MarginkitError, match="expected 0 < fraction <= 1 and 0 <= noise <= 1"):
        Recipe(**options)


def test_the_checkpoint_keeps_the_flips_and_the_tables_do_not(tmp_path, digits):
    recipe = Recipe(epochs=1, fraction=0.2, label_noise=0.25)
    train(digits, tmp_path / "m.pt", recipe=recipe, **SMALL)
    stored = checkpoints.load(tmp_path / "m.pt")[0]
    assert stored.training["regime"] == limited(digits, 0.2, 0.25, seed=0)[1]
    assert len(stored.training["regime"]["flipped"]) == 72
    assert "regime" not in checkpoints.describe(stored)["training"]
    assert checkpoints.describe(stored)["training"]["recipe"]["label_noise"] == 0.25


def test_noise_in_the_labels_costs_what_is_learnt_from_them(tmp_path, digits):
    """Training is really on the wrong labels: on the right ones the same run is better."""
    right, wrong = (
        train(digits, tmp_path / "m.pt", recipe=recipe, **SMALL)
        for recipe in (Recipe(epochs=10, learning_rate=0.01, label_noise=share) for share in (0.0, 0.6))
    )
    assert wrong.training["history"][-1]["accuracy"] < 0.45  # held-out labels are as wrong
    assert right.training["history"][-1]["accuracy"] > 0.9
    test = load("digits")
    assert accuracy(wrong.model(), test) > 0.6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_changes_each_image_on_its_own_and_stays_in_the_box(name):
    x = torch.rand(1, 3, 20, 20).expand(40, -1, -1, -1)
    found = augmented(x, (name,))
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert len({image.sum(0).flatten()[7].item() for image in found}) >= 2
    assert torch.equal(augmented(x, ()), x)


def test_flip_mirrors_and_shift_moves():
    x = torch.zeros(30, 1, 20, 20)
    x[:, :, 10, 4] = 1
    flipped = augmented(x, ("flip",))
    assert {int(image.argmax()) for image in flipped} == {10 * 20 + 4, 10 * 20 + 15}
    places = [divmod(int(image.argmax()), 20) for image in augmented(x, ("shift",))]
    assert all(abs(row - 10) <= 2 and abs(column - 4) <= 2 for row, column in places)
    assert len(set(places)) > 5


def test_augmented_training_differs_and_is_reproducible(tmp_path, digits):
    few = replace(digits, labels=digits.labels[:200])
    runs = [
        train(few, tmp_path / "m.pt", recipe=Recipe(epochs=1, augment=augment), **SMALL).training["history"]
        for augment in ((), ("shift", "flip"), ("shift", "flip"))
    ]
    assert runs[0] != runs[1]
    assert runs[1] == runs[2]


def test_augmenting_what_is_no_image_is_refused():
    with pytest.raises(MarginkitError, match="for images; these inputs have the shape"):
        augmented(torch.rand(4, 7), ("flip",))


def test_accuracy_under_noise_falls_and_does_not_depend_on_the_batch(network):
    test, model = load("digits"), deepcopy(network).float()
    few, many = (accuracy(model, test, sigma=0.3, batch_size=size) for size in (7, 400))
    assert few == many
    assert accuracy(model, test) > few + 0.05 > accuracy(model, test, sigma=2.0)
    assert accuracy(model, test, sigma=0.3, seed=1) != few
    with pytest.raises(MarginkitError, match="sigma is -1"):
        accuracy(model, test, sigma=-1.0)


def test_mixed_precision_trains_to_nearly_the_same(tmp_path, digits):
    losses = [
        train(digits, tmp_path / "m.pt", recipe=Recipe(epochs=3, learning_rate=0.01, amp=amp), **SMALL)
        for amp in (False, True)
    ]
    a, b = (found.training["history"][-1] for found in losses)
    assert a["loss"] != b["loss"]
    assert abs(a["accuracy"] - b["accuracy"]) < 0.05
    assert all(v.dtype != torch.bfloat16 for v in losses[1].state.values())


def test_the_commands_take_regimes_and_tell_accuracies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--arch", "mlp", "--epochs", "1", "--fraction", "0.5", "--label-noise", "0.2"]
    done = CliRunner().invoke(main, [*arguments, "--augment", "shift,flip", "-q"])
    assert done.exit_code == 0, done.output
    recipe = checkpoints.load("model.pt")[0].training["recipe"]
    assert (recipe["fraction"], recipe["label_noise"], recipe["augment"]) == (0.5, 0.2, ("shift", "flip"))
    done = CliRunner().invoke(main, ["evaluate", "--noise", "0,0.5", "--json", "-"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["accuracy"]) == {"0", "0.5"}
    done = CliRunner().invoke(main, ["train", "--augment", "rotate", "--overwrite"])
    assert done.exit_code == 2
    assert "augment" in done.output
    done = CliRunner().invoke(main, ["evaluate", "--noise", "loud"])
    assert done.exit_code == 2
    assert "expected numbers" in done.output

"""The training loop: what it learns, writes, resumes and refuses."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from marginkit.data.dataset import Data, Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError, UsageError
from marginkit.events import Progress
from marginkit.losses import LOSSES
from marginkit.models import checkpoint as checkpoints
from marginkit.training import evaluation
from marginkit.training.averaging import Averaged
from marginkit.training.evaluation import accuracy
from marginkit.training.evaluation import test_accuracy as accuracy_on_test
from marginkit.training.loop import _Run, train
from marginkit.training.recipe import OPTIMIZERS, SCHEDULES, Recipe

SMALL = {"architecture": "mlp", "architecture_options": {"hidden": (16,)}, "loss": "cross-entropy"}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", Source(split="train"))


def weights(checkpoint) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in checkpoint.state.values()])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_the_digits(tmp_path, digits, loss):
    recipe = Recipe(epochs=25, learning_rate=5e-3)
    found = train(digits, tmp_path / "m.pt", recipe=recipe, **{**SMALL, "loss": loss})
    least = 0.9 if loss == "certified" else 0.93  # robustness at Linf .1 costs accuracy
    assert accuracy_on_test(found, digits, Source(), "cpu") > least
    assert found.training["history"][-1]["loss"] < found.training["history"][0]["loss"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimizer_and_schedule_trains(tmp_path, digits, optimizer, schedule):
    rate = 0.05 if optimizer == "sgd" else 5e-3
    recipe = Recipe(
        epochs=4, optimizer=optimizer, schedule=schedule, learning_rate=rate, weight_decay=1e-4, clip=1.0
    )
    found = train(digits, tmp_path / "m.pt", recipe=recipe, **SMALL)
    assert found.training["history"][-1]["accuracy"] > 0.5


@pytest.mark.quick
def test_schedules_start_at_one_and_do_not_rise():
    for factor in SCHEDULES.values():
        values = [factor(t) for t in np.linspace(0, 0.999, 50)]
        assert values[0] == 1
        assert all(a >= b >= 0 for a, b in pairwise(values))


def test_a_seed_gives_the_same_numbers_and_another_gives_others(tmp_path, digits):
    torch.rand(7)  # the global generator's state must not matter
    runs = [
        train(digits, tmp_path / f"{i}.pt", recipe=Recipe(epochs=2, seed=seed), **SMALL)
        for i, seed in enumerate((3, 3, 4))
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert runs[0].training["history"] == runs[1].training["history"]
    assert not torch.equal(weights(runs[0]), weights(runs[2]))


def test_the_global_generator_is_left_alone(tmp_path, digits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(digits, tmp_path / "m.pt", recipe=Recipe(epochs=1), **SMALL)
    assert torch.equal(torch.rand(3), expected)


class InterruptedHereError(Exception):
    pass


def interrupting(after: int):
    """A listener that fails in the middle of an epoch."""

    def on_event(event):
        if isinstance(event, Progress) and event.task.startswith(f"epoch {after}/") and event.done == 3:
            raise InterruptedHereError

    return on_event


@pytest.mark.parametrize(("name", "ema"), [("elsayed", 0.9), ("mlp", 0.0), ("lipschitz-mlp", 0.0)])
def test_resuming_gives_the_numbers_of_an_uninterrupted_run(tmp_path, name, ema):
    """With BatchNorm's buffers, an optimiser's state, averages, free weights and a schedule to restore."""
    digits = load("digits", Source(split="train"))
    digits = replace(digits, labels=digits.labels[:300])
    options = {
        "architecture": name,
        "loss": "large-margin",
        "recipe": Recipe(epochs=4, batch_size=32, schedule="step", ema=ema),
    }
    whole = train(digits, tmp_path / "whole.pt", **options)
    with pytest.raises(InterruptedHereError):
        train(digits, tmp_path / "m.pt", on_event=interrupting(3), **options)
    assert len(checkpoints.load(tmp_path / "m.last.pt")[0].training["history"]) == 2
    resumed = train(digits, tmp_path / "m.pt", resume=True, **options)
    assert resumed.training == whole.training
    assert torch.equal(weights(resumed), weights(whole))
    for ending in ("metrics.jsonl",):
        assert (tmp_path / f"m.{ending}").read_text() == (tmp_path / f"whole.{ending}").read_text()
    again = train(digits, tmp_path / "m.pt", resume=True, **options)
    assert again.training == whole.training, "nothing is left to do"


def test_resume_starts_where_there_is_nothing_to_resume(tmp_path, digits):
    found = train(digits, tmp_path / "m.pt", resume=True, recipe=Recipe(epochs=1), **SMALL)
    assert len(found.training["history"]) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"loss": "hinge"}, "loss"),
        ({"loss_options": {"label_smoothing": 0.1}}, "loss_options"),
        ({"recipe": Recipe(epochs=9)}, "recipe"),
        ({"architecture_options": {"hidden": (17,)}}, "options"),
        ({"bounds": (0.0, None)}, "bounds"),
    ],
)
def test_resume_refuses_another_run_and_names_what_differs(tmp_path, digits, change, field):
    options = {"recipe": Recipe(epochs=1), **SMALL}
    train(digits, tmp_path / "m.pt", **options)
    with pytest.raises(MarginkitError, match=f"m.last.pt has {field} .*resume with the same"):
        train(digits, tmp_path / "m.pt", resume=True, **{**options, **change})


def test_the_best_epoch_is_kept_and_metrics_tell_every_epoch(tmp_path, digits):
    recipe = Recipe(epochs=6, learning_rate=0.05, schedule="constant")
    found = train(digits, tmp_path / "m.pt", recipe=recipe, **SMALL)
    lines = [json.loads(line) for line in (tmp_path / "m.metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(set(line) == {"epoch", "loss", "accuracy", "median_first_order_l2"} for line in lines)
    assert found.training["history"][-1]["accuracy"] == max(line["accuracy"] for line in lines)
    stored = checkpoints.load(tmp_path / "m.pt")[0]
    assert torch.equal(weights(stored), weights(found))
    assert not stored.progress, "the finished model carries no optimiser"


@pytest.mark.parametrize("name", ["elsayed", "mlp"])
@pytest.mark.parametrize("best", [1, 2])
def test_an_early_best_epoch_is_what_is_returned_and_told(tmp_path, digits, monkeypatch, name, best):
    """Parameters and BatchNorm's statistics go on changing after it, in the model's own tensors."""
    few = replace(digits, labels=digits.labels[:200])
    accuracies = iter([0.9 if epoch == best else 0.1 for epoch in (1, 2, 3)])
    told = {"median_first_order_l2": 0.0}
    monkeypatch.setattr(_Run, "_validate", lambda self, *_: {"accuracy": next(accuracies), **told})
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=0.02, schedule="constant")
    found = train(few, tmp_path / "m.pt", architecture=name, recipe=recipe)
    stored, last = (checkpoints.load(tmp_path / f"m{end}.pt")[0] for end in ("", ".last"))
    assert torch.equal(weights(found), weights(stored))
    assert not torch.equal(weights(found), weights(last))
    assert found.training == stored.training
    assert found.training["history"][-1]["epoch"] == best
    expected = accuracy(stored.model(), load("digits"))
    assert accuracy_on_test(found, few, Source(), "cpu") == expected


def test_the_test_accuracy_is_computed_on_the_device_asked_for(tmp_path, digits, monkeypatch):
    found = train(digits, tmp_path / "m.pt", recipe=Recipe(epochs=1), **SMALL)
    seen = []
    monkeypatch.setattr(
        evaluation, "accuracy", lambda model, data: seen.append(next(model.parameters()).device)
    )
    accuracy_on_test(found, digits, Source(), "meta")
    assert seen == [torch.device("meta")]


def test_without_validation_the_last_epoch_is_kept(tmp_path, digits):
    found = train(
        digits,
        tmp_path / "m.safetensors",
        recipe=Recipe(epochs=4, learning_rate=5e-3, validation=0.0),
        **SMALL,
    )
    assert found.training["history"][-1]["epoch"] == 4
    assert accuracy(checkpoints.load(tmp_path / "m.safetensors")[0].model(), digits) > 0.5


def test_a_checkpoint_says_where_it_came_from(tmp_path, digits):
    found = train(
        digits, tmp_path / "m.pt", recipe=Recipe(epochs=1, seed=7), **{**SMALL, "loss": "large-margin"}
    )
    assert found.dataset == {"name": "digits", "split": "train", "fingerprint": digits.fingerprint}
    assert found.training["loss"] == "large-margin"
    assert found.training["loss_options"]["gamma"] == LOSSES["large-margin"]().gamma
    assert found.training["recipe"]["seed"] == 7
    assert {"torch", "marginkit", "python"} <= set(found.training["versions"])


@pytest.mark.quick
def test_tabular_data_trains(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3)) * [1, 100, 0] + [0, 5, 7]
    np.savez(tmp_path / "t.npz", x=x, y=(x[:, 0] > 0).astype(int))
    data = load(f"npz:{tmp_path / 't.npz'}", bounds=(None, None))
    recipe = Recipe(epochs=30, batch_size=32, learning_rate=0.02)
    found = train(
        data, tmp_path / "m.pt", **{**SMALL, "architecture_options": {}}, bounds=(None, None), recipe=recipe
    )
    assert accuracy(found.model(), data) > 0.95


def test_one_class_is_refused(tmp_path, digits):
    with pytest.raises(
        MarginkitError, match="every label of digits is 3: training needs at least two classes"
    ):
        train(replace(digits, labels=np.full(50, 3)), tmp_path / "m.pt")


def test_a_loss_that_explodes_is_reported_and_nothing_is_lost(tmp_path, digits):
    train(digits, tmp_path / "m.pt", recipe=Recipe(epochs=1), **SMALL)
    before = (tmp_path / "m.pt").read_bytes()
    recipe = Recipe(epochs=2, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(MarginkitError, match=r"the loss became .* lower the learning rate .* or clip"):
        train(digits, tmp_path / "m.pt", recipe=recipe, **SMALL)
    assert (tmp_path / "m.pt").read_bytes() == before


@pytest.mark.quick
@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"validation": 1.0}]
)
def test_impossible_recipes_are_refused(options):
    with pytest.raises(MarginkitError, match="expected"):
        Recipe(**options)


@pytest.mark.quick
def test_unknown_names_are_refused(tmp_path, digits):
    for options, message in [
        ({"architecture": "vgg"}, "unknown architecture 'vgg'"),
        ({"loss": "mse"}, "unknown loss 'mse'; choose from cross-entropy"),
        ({"loss": "large-margin", "loss_options": {"gama": 1}}, "has no option 'gama'; it has layers, norm"),
        ({"loss": "large-margin", "loss_options": {"norm": "l3"}}, "option norm is 'l3'"),
        ({"loss": "large-margin", "loss_options": {"layers": "conv9"}}, "unknown layer 'conv9'"),
    ]:
        with pytest.raises(UsageError, match=message):
            train(digits, tmp_path / "m.pt", **options)
    assert not list(tmp_path.iterdir())


def test_a_last_batch_of_one_does_not_stop_batch_norm(tmp_path, digits):
    few = replace(digits, labels=digits.labels[:33])
    train(
        few,
        tmp_path / "m.pt",
        architecture="elsayed",
        loss="cross-entropy",
        recipe=Recipe(epochs=1, batch_size=16, validation=0.0),
    )


def test_a_run_from_before_an_option_came_goes_on(tmp_path, digits):
    options = {"recipe": Recipe(epochs=2, validation=0.0, schedule="constant"), **SMALL}
    with pytest.raises(InterruptedHereError):
        train(digits, tmp_path / "m.pt", on_event=interrupting(2), **options)
    last = tmp_path / "m.last.pt"
    before = checkpoints.load(last)[0]
    del before.training["recipe"]["ema"]
    checkpoints.save(before, last)
    assert len(train(digits, tmp_path / "m.pt", resume=True, **options).training["history"]) == 2


def test_averaged_weights_follow_with_a_decay_that_grows():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    averaged = Averaged(model, 0.3)
    expected = model[0].weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            model[0].weight += 1.0
            model[1].num_batches_tracked += 1
        averaged.update(model)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(averaged.model[0].weight, expected)
    assert averaged.model[1].num_batches_tracked == 6


def test_averaged_weights_are_what_is_kept(tmp_path, digits):
    found = [
        train(digits, tmp_path / f"{ema}.pt", recipe=Recipe(epochs=1, validation=0.0, ema=ema), **SMALL)
        for ema in (0.0, 0.99)
    ]
    assert found[0].state.keys() == found[1].state.keys()
    assert not torch.equal(weights(found[0]), weights(found[1]))
    with pytest.raises(MarginkitError, match="the decay of averaged weights is 1"):
        Recipe(ema=1.0)


def test_a_listener_hears_how_far_the_whole_training_is(tmp_path, digits):
    heard = []
    train(digits, tmp_path / "m.pt", recipe=Recipe(epochs=2), on_event=heard.append, **SMALL)
    done = [event.done for event in heard if isinstance(event, Progress) and event.task == "training"]
    assert done == [0, 1, 2]

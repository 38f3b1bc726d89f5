"""Training with bounds: the losses are bounds, and lowering them raises certified radii."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError
from marginkit.losses.certified import Certified
from marginkit.losses.lipschitz_margin import LipschitzMargin
from marginkit.methods.crown import Crown
from marginkit.methods.lipschitz import Lipschitz
from marginkit.norms import L2, LINF
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Threat


def small(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    conv[1].running_var.copy_(torch.tensor([0.2, 1.0, 2.0, 3.0]))
    return nn.Sequential(conv, nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))


@pytest.mark.parametrize("bounds", ["ibp", "crown-ibp"])
def test_the_loss_is_at_least_that_of_any_input_in_the_ball(bounds, norm):
    model, x, y = small().eval(), torch.rand(8, 1, 4, 4), torch.randint(3, (8,))
    loss = Certified(radius=0.1, norm=norm.name, bounds=bounds, natural=0.0)
    bound = loss(model, x, y)
    for _ in range(50):
        moved = norm.project(torch.randn_like(x), torch.full((8,), 0.1))
        assert F.cross_entropy(model((x + moved).clamp(0, 1)), y) <= bound + 1e-5


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("loss", "build"),
    [
        (Certified(intervals=0.3), small),
        (Certified(bounds="ibp", norm="l2"), small),
        (LipschitzMargin(steps=300), dense),  # exact where power iteration has converged
    ],
)
def test_every_parameter_gets_the_gradient_of_finite_differences(loss, build):
    model, x, y = build().double().eval(), torch.rand(6, 1, 4, 4).double(), torch.randint(3, (6,))
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss(model, x, y), parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        step = 1e-6 * torch.randn_like(parameter)
        with torch.no_grad():
            parameter += step
            up = loss(model, x, y)
            parameter -= 2 * step
            down = loss(model, x, y)
            parameter += step
        assert_close((grad * 2 * step).sum(), up - down, rtol=1e-3, atol=1e-10)


def test_training_mode_and_running_statistics_are_left_to_the_forward_pass():
    model, x, y = small().train(), torch.rand(6, 1, 4, 4), torch.randint(3, (6,))
    Certified()(model, x, y)
    assert model.training
    assert model[0][1].num_batches_tracked == 1


def test_the_schedule_grows_from_plain_cross_entropy_to_the_options():
    loss = Certified(radius=0.2, warm_up=0.1, ramp=0.5, natural=0.5)
    assert (loss.at(0.05).radius, loss.at(0.05).natural) == (0, 1)
    assert loss.at(0.35).radius == pytest.approx(0.1)
    assert loss.at(0.35).intervals == pytest.approx(0.5)
    assert loss.at(0.8) == loss
    assert LipschitzMargin(radius=1.0, ramp=0.5).at(0.25).radius == 0.5


def test_the_head_start_is_sqrt_two_times_the_product_of_spectral_norms():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x, y = torch.rand(4, 5).double(), torch.tensor([0, 1, 0, 1])
    product = torch.linalg.matrix_norm(model[0].weight, 2) * torch.linalg.matrix_norm(model[2].weight, 2)
    shifted = model(x) + 2**0.5 * 0.3 * product * (1 - F.one_hot(y))
    found = LipschitzMargin(radius=0.3, steps=300)(model, x, y)
    assert_close(found, F.cross_entropy(shifted, y), rtol=1e-6, atol=0)


def test_models_without_bounds_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    for loss in (Certified(), LipschitzMargin()):
        with pytest.raises(MarginkitError, match="Softmax"):
            loss(model, torch.rand(2, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("loss", "options", "method", "norm", "factor"),
    [
        ("certified", {"radius": 0.05}, Crown(bounds="ibp"), LINF, 1.5),
        ("lipschitz-margin", {"radius": 0.3}, Lipschitz(), L2, 1.2),
    ],
)
def test_certified_training_raises_certified_radii(
    network, samples, tmp_path, loss, options, method, norm, factor
):
    x, y = samples
    recipe = Recipe(epochs=12, learning_rate=5e-3, validation=0.0, noise=0.02)
    digits = load("digits", Source(split="train"))
    trained = train(digits, tmp_path / "m.pt", architecture="mlp", architecture_options={"hidden": (24, 16)},
                    loss=loss, loss_options=options, recipe=recipe).model().double()  # fmt: skip
    before, after = (method(model, x, y, Threat(norm)).lower for model in (network, trained))
    assert after.mean() > factor * before.mean()

"""Adversarial training, TRADES, MMA and the gradient penalty: what defines each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from closed_form import between, linear
from torch import nn
from torch.testing import assert_close

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.losses.adversarial import Adversarial
from marginkit.losses.gradient_penalty import GradientPenalty
from marginkit.losses.inner_maximisation import worst_inputs
from marginkit.losses.mma import MaxMargin
from marginkit.losses.trades import Trades
from marginkit.methods.nearest import Nearest
from marginkit.norms import LINF, NORMS
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Threat

NO_BOX = {"low": None, "high": None}


def cross_entropies(y):
    return lambda scores: F.cross_entropy(scores, y, reduction="none")


def test_ascent_on_a_linear_model_reaches_the_worst_point_of_the_ball(norm):
    """There it is known: radius times the steepest direction, away from the boundary's right side."""
    case = linear(2)
    threat = Threat(norm, None, None)
    found = worst_inputs(case.model, case.x, threat, 0.3, cross_entropies(case.y), steps=60, step_size=0.5)
    w = (case.model.weight[0] - case.model.weight[1]).view(1, *case.x.shape[1:])
    sign = torch.where(case.y == 0, -1.0, 1.0).view(-1, *[1] * (case.x.ndim - 1))
    assert_close(
        found - case.x, (0.3 * sign * norm.steepest(w.expand_as(case.x))).detach(), atol=1e-6, rtol=0
    )


def test_ascent_stays_in_the_ball_and_the_box(norm, network, samples):
    x, y = samples
    found = worst_inputs(network, x, Threat(norm, 0.0, 1.0), 0.2, cross_entropies(y), steps=5, step_size=0.4)
    assert (norm.length(found - x) <= 0.2 + 1e-9).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad
    before, after = (F.cross_entropy(network(inputs), y) for inputs in (x, found))
    assert after > before + 0.01


def test_ascent_leaves_modes_and_running_statistics(samples):
    x, y = samples
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    worst_inputs(model, x, Threat(LINF), 0.1, cross_entropies(y), steps=3, step_size=0.5)
    assert model.training
    assert model[2].training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_without_a_ball_adversarial_training_and_trades_are_cross_entropy(network, samples):
    x, y = samples
    plain = F.cross_entropy(network(x), y)
    assert_close(Adversarial(radius=0.0)(network, x, y), plain)
    assert_close(Trades(radius=0.0)(network, x, y), plain)
    assert_close(Adversarial(natural=1.0)(network, x, y), plain)
    assert_close(Trades(beta=0.0)(network, x, y), plain)


def test_trades_adds_a_divergence_that_grows_with_the_ball_and_with_beta(network, samples):
    x, y = samples
    values = []
    for beta, radius in ((1.0, 0.02), (1.0, 0.1), (6.0, 0.1)):
        torch.manual_seed(0)
        values.append(Trades(beta=beta, radius=radius)(network, x, y))
    plain = F.cross_entropy(network(x), y)
    assert plain < values[0] < values[1] < values[2]
    assert_close(values[2] - plain, 6 * (values[1] - plain))


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_mmas_boundary_points_on_a_linear_model_are_the_nearest(name):
    case, norm = linear(2), NORMS[name]
    distance = case.distance(norm)
    radius = between(distance[distance > 0], 0.5)
    loss = MaxMargin(radius=radius, norm=name, steps=20, step_size=0.5, halvings=40, **NO_BOX)
    point, near = loss.boundary(case.model, case.x, case.y)
    right = distance > 0
    assert torch.equal(near[right], distance[right] < loss.radius)
    assert 0 < int(near[right].sum()) < int(right.sum())
    assert_close(norm.length(point - case.x)[near & right], distance[near & right])


def test_mma_counts_wrong_samples_and_near_boundaries_only():
    """A sample farther than the radius costs nothing, one at the boundary log 2, a wrong one its own."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    loss = MaxMargin(radius=0.5, norm="l2", natural=0.0, halvings=40, steps=10, **NO_BOX)
    y = torch.tensor([0])

    def cost(at: float) -> float:
        return loss(model, torch.tensor([[at]]).double(), y).item()

    assert cost(0.7) == 0
    assert cost(0.3) == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-6)
    assert cost(-0.4) == pytest.approx(F.softplus(torch.tensor(0.8)).item(), rel=1e-6)


def test_the_penalty_is_the_dual_length_of_the_inputs_gradient(norm):
    case = linear(3)
    penalised, plain = (
        GradientPenalty(weight=weight, norm=norm.name)(case.model, case.x, case.y) for weight in (2.0, 0.0)
    )
    share = case.model(case.x).softmax(1) - F.one_hot(case.y, 3)
    gradient = (share @ case.model.weight).view_as(case.x)
    assert_close(penalised - plain, 2 * norm.dual.length(gradient).square().mean())
    assert_close(plain, F.cross_entropy(case.model(case.x), case.y))


def test_the_penalty_reaches_the_parameters(network, samples):
    x, y = samples
    parameters = list(network.parameters())
    with_it, without = (
        torch.autograd.grad(GradientPenalty(weight=weight)(network, x, y), parameters)
        for weight in (1.0, 0.0)
    )
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(with_it, without, strict=True))


def test_the_penalty_of_a_compiled_model_is_the_original_s():
    plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    batch = torch.rand(2, 5), torch.tensor([0, 1])
    found = []
    for model in (plain, torch.compile(plain, backend="aot_eager")):
        value = GradientPenalty()(model, *batch)
        found.append([value, *torch.autograd.grad(value, [plain[0].weight, plain[2].weight])])
    assert_close(*found)


@pytest.mark.parametrize(
    "loss",
    [
        ("adversarial", {"radius": 0.06}),
        ("trades", {"radius": 0.06}),
        ("mma", {"radius": 0.1}),
        ("gradient-penalty", {"norm": "linf", "weight": 0.05}),
    ],
    ids=lambda loss: loss[0],
)
def test_each_baseline_moves_the_verified_boundary_away(tmp_path, loss, plain_digits):
    """Against cross-entropy with the same recipe, by the search that verifies what it finds."""
    digits, test, recipe, plain = plain_digits
    found = train(
        digits, tmp_path / "m.pt", architecture="mlp", loss=loss[0], loss_options=loss[1], recipe=recipe
    )
    assert median_distance(found, test) > 1.1 * plain


@pytest.fixture(scope="module")
def plain_digits(tmp_path_factory):
    digits, test = load("digits", Source(split="train")), load("digits")
    recipe = Recipe(epochs=8, learning_rate=3e-3, validation=0.0)
    path = tmp_path_factory.mktemp("plain") / "m.pt"
    model = train(digits, path, architecture="mlp", loss="cross-entropy", recipe=recipe)
    return digits, test, recipe, median_distance(model, test)


def median_distance(checkpoint, data) -> float:
    few = replace(data, labels=data.labels[:100])
    x, y = few.inputs(list(range(100))), torch.from_numpy(few.labels)
    return Nearest(effort="fast")(checkpoint.model(), x, y, Threat(LINF)).upper.median().item()

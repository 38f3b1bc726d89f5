"""The large-margin loss at the boundary: the walk, the tangent's distance, gamma from the data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from closed_form import linear
from torch import nn
from torch.testing import assert_close

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.losses.cross_entropy import CrossEntropy
from marginkit.losses.large_margin import LargeMargin, large_margin, typical
from marginkit.losses.newton_walk import toward_boundary
from marginkit.methods.nearest import Nearest
from marginkit.norms import L2, LINF
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Threat


def far(distance):
    return 100.0


def test_the_walk_ends_on_a_linear_models_boundary_at_its_distance(norm):
    case = linear(2)
    threat = Threat(norm, None, None)
    end = toward_boundary(case.model, case.x, case.y, threat, 2, far)
    assert_close(norm.length(end - case.x), case.distance(norm), rtol=1e-4, atol=1e-6)
    assert_close(case.model(end).diff(dim=1).abs().amax(), torch.tensor(0.0).double(), atol=1e-4, rtol=0)


def test_the_walk_stays_in_the_ball_and_the_box(norm, network, samples):
    x, y = samples
    end = toward_boundary(network, x, y, Threat(norm, 0.0, 1.0), 4, lambda distance: 0.05)
    assert (norm.length(end - x) <= 0.05 + 1e-9).all()
    assert (norm.length(end - x) > 0).any()
    assert 0 <= end.min() <= end.max() <= 1


def test_wrong_samples_stay_where_they_are(network, samples):
    x, y = samples
    wrong = (y + 1) % 10
    assert torch.equal(toward_boundary(network, x, wrong, Threat(L2), 3, far), x)


def test_steps_change_nothing_on_a_linear_model(norm):
    """There the tangent plane is the boundary, wherever it is taken."""
    case = linear(4)
    options = {"norm": norm.name, "gamma": 100.0, "top_k": None, "cross_entropy": 0.0, "epsilon": 0.0}
    there = LargeMargin(layers=("input",), steps=3, **options)(case.model, case.x, case.y)
    assert_close(there, -case.distance(norm).mean())


def test_the_tangents_distance_is_nearer_to_the_distance_found(network, samples):
    """Of one sample the loss is its distance, the sign turned."""
    x, y = samples
    right = network(x).argmax(1) == y
    x, y = x[right], y[right]
    true = Nearest(effort="tight")(network, x, y, Threat(L2, None, None)).upper

    def error(steps: int) -> float:
        loss = LargeMargin(layers=("input",), gamma=100.0, cross_entropy=0.0, steps=steps)
        said = [-loss(network, x[i : i + 1], y[i : i + 1]).item() for i in range(len(x))]
        return (torch.tensor(said) - true).abs().mean().item()

    assert error(4) < 0.5 * error(0)


def test_the_loss_moves_the_boundary_at_the_point_it_was_linearised_at(network, samples):
    """With the norm a constant, the gradient is that of the margin there over the norm (arXiv 2302.03015)."""
    x, y = samples
    right = network(x).argmax(1) == y
    x, y = x[right][:1], y[right][:1]
    loss = LargeMargin(layers=("input",), gamma=100.0, cross_entropy=0.0, steps=3)
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss(network, x, y), parameters)
    point = toward_boundary(network, x, y, Threat(L2, None, None), 3, far).requires_grad_()
    scores = network(point)
    rival = scores.index_fill(1, y, -torch.inf).argmax(1)
    margin = (scores.gather(1, y.view(-1, 1)) - scores.gather(1, rival.view(-1, 1))).sum()
    (gradient,) = torch.autograd.grad(margin, point, retain_graph=True)
    expected = torch.autograd.grad(-margin / (gradient.norm() + 1e-6), parameters)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_gamma_auto_is_a_multiple_of_the_median_distance_at_each_layer():
    distance = torch.tensor([[[1.0, -1.0]], [[2.0, -2.0]], [[6.0, -3.0]], [[-9.0, 4.0]]])
    assert_close(typical(distance, 1.5), torch.tensor([3.0, 6.0]))
    assert_close(typical(-distance.abs(), 1.5), torch.ones(2))


def test_gamma_auto_does_not_know_the_units_of_inputs_or_layers():
    """Distances ten times as large cost the same."""
    case = linear(3)
    values = []
    for scale in (1.0, 10.0):
        x = (scale * case.x).requires_grad_()
        scores = case.model(x / scale)
        values.append(large_margin(scores, case.y, [x], gamma="auto", epsilon=0.0))
    assert_close(*values)
    assert -1 <= values[0] <= 3


def test_cross_entropy_warms_up():
    loss = LargeMargin(warm_up=0.25)
    assert loss.at(0.24) == CrossEntropy()
    assert loss.at(0.25) is loss
    assert LargeMargin(warm_up=0.0).at(0.0) == LargeMargin(warm_up=0.0)


def test_the_box_is_the_datas_and_options_come_first(tmp_path):
    digits = load("digits", Source(split="train"))
    options = {"architecture": "linear", "recipe": Recipe(epochs=1), "loss": "large-margin"}
    kept = [
        train(digits, tmp_path / "m.pt", bounds=(-0.5, None), loss_options=given, **options).training
        for given in ({}, {"low": 0.0})
    ]
    assert [(k["loss_options"]["low"], k["loss_options"]["high"]) for k in kept] == [
        (-0.5, None),
        (0.0, None),
    ]


def test_the_verified_boundary_moves_and_the_accuracy_stays(tmp_path):
    """On the digits with the same recipe as cross-entropy: by default, and more with more reach."""
    digits, test = load("digits", Source(split="train")), load("digits")
    x, y = test.inputs(list(range(200))), torch.from_numpy(test.labels[:200])

    def measured(loss, **options):
        model = train(
            digits, tmp_path / "m.pt", architecture="mlp", loss=loss, loss_options=options,
            recipe=Recipe(epochs=15, learning_rate=3e-3, validation=0.0),
        ).model()  # fmt: skip
        medians = [Nearest(effort="fast")(model, x, y, Threat(norm)).upper.median() for norm in (L2, LINF)]
        return torch.stack(medians), (model(x).argmax(1) == y).float().mean()

    plain, accuracy = measured("cross-entropy")
    for options, farther in (({}, (1.05, 1.03)), ({"reach": 1.5, "steps": 3}, (1.05, 1.05))):
        large, kept = measured("large-margin", **options)
        assert (large > torch.tensor(farther) * plain).all()
        assert kept > accuracy - 0.02


def test_large_margins_work_with_train_mode_batch_norm_and_dropout():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    x, y = torch.rand(12, 5), torch.arange(12) % 3
    value = LargeMargin()(model, x, y)
    assert value.isfinite()
    assert all(module.training for module in model.modules())
    value.backward()
    assert F.normalize(model[0].weight.grad, dim=0).isfinite().all()

"""The losses: the reference's numbers, then what defines them."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from closed_form import linear
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from marginkit.activations import capture
from marginkit.errors import MarginkitError
from marginkit.losses import LOSSES
from marginkit.losses.large_margin import LargeMargin, large_margin
from marginkit.losses.paper_loss import paper_loss
from marginkit.norms import L2, NORMS

REFERENCE = Path(__file__).parent / "golden" / "large_margin_tf.npz"
LAYERS = {"input": "input", "relu(conv)": "relu", "maxpool(relu(conv2))": "pool"}
NORM = {1: "l1", 2: "l2", "inf": "linf"}
losses = pytest.mark.parametrize("name", LOSSES)
exactness = pytest.mark.parametrize("exact", [False, True])


@cache
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def reference_cases() -> list[str]:
    return sorted({key.split("/")[0] for key in np.load(REFERENCE).files})


@pytest.mark.quick
@pytest.mark.parametrize("case", reference_cases())
def test_values_and_gradients_are_the_references(case):
    """Computed by the TensorFlow code of the paper's authors, both values of its use_approximation."""
    stored = {
        key.removeprefix(f"{case}/"): value for key, value in reference().items() if key.startswith(case)
    }
    config = json.loads(str(stored["config"]))
    weights = {key.split("/")[1]: value for key, value in stored.items() if key.startswith("weight/")}
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(2, 8, 3, padding=1), relu=nn.ReLU(), conv2=nn.Conv2d(8, 6, 3, padding=1),
            relu2=nn.ReLU(), pool=nn.MaxPool2d(2), flatten=nn.Flatten(), fc=nn.Linear(216, 10),
        )
    )  # fmt: skip
    names = {key: key.replace("_w", ".weight").replace("_b", ".bias") for key in weights}
    model.load_state_dict({names[key]: torch.from_numpy(value) for key, value in weights.items()})
    loss = paper(
        layers=tuple(LAYERS[layer] for layer in config["layers"]),
        norm=NORM[config["dist_norm"]],
        gamma=config["gamma"],
        alpha=config["alpha_factor"],
        top_k=config["top_k"],
        score="prob",
        aggregate="min" if config["worst_case_loss"] else "sum",
        layer_weights=tuple(config["layers_weights"]) if config["layers_weights"] else None,
        differentiate_norm=not config["use_approximation"],
        epsilon=config["epsilon"],
    )(model, torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"]))
    loss.backward()
    tolerance = {"rel": 1e-4} if config["gamma"] == 1 else {"abs": 5e-3}  # the reference rounds at gamma 1e4
    assert loss.item() == pytest.approx(float(stored["loss"]), **tolerance)
    parameters = dict(model.named_parameters())
    for key, name in names.items():
        expected = torch.from_numpy(stored[f"grad/{key}"])
        error = (parameters[name].grad - expected).abs().max()
        assert error <= 1e-3 * expected.abs().max() + 1e-12


@pytest.mark.quick
@pytest.mark.parametrize("worst", [True, False])
@pytest.mark.parametrize(("gamma", "alpha"), [(1.0, 4.0), (0.3, 1.0), (10.0, 2.0)])
def test_the_papers_loss_is_the_authors_line_by_line(worst, gamma, alpha):
    """`margin_loss.py` again, in NumPy: the minimum before the clip, gamma taken off afterwards."""
    rng = np.random.default_rng(0)
    difference, norms, w = rng.normal(size=(40, 3)), rng.exponential(size=(40, 3, 2)), np.array([2.0, 0.5])
    distance = difference[:, :, None] / (norms / w + 1e-6)
    distance = distance.min(1, keepdims=True) if worst else distance
    cost = np.maximum(0, gamma - np.maximum(distance, gamma * (1 - alpha))) - gamma
    found = paper_loss(
        torch.from_numpy(difference).unsqueeze(2),
        torch.from_numpy(norms),
        gamma=gamma,
        alpha=alpha,
        aggregate="min" if worst else "sum",
        weights=torch.from_numpy(w),
    )
    assert found.item() == pytest.approx(cost.sum(1).mean(), rel=1e-12)
    assert len({*cost.flat}) > 3, "not everything is clipped"


def paper(**options) -> LargeMargin:
    """The loss as published: linearised at the input, with a gamma of its own and no cross-entropy."""
    return LargeMargin(**{"gamma": 1.0, "steps": 0, "cross_entropy": 0.0, **options})


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    stages = OrderedDict(hidden=nn.Sequential(nn.Linear(5, 8), nn.Tanh()), scores=nn.Linear(8, 4))
    return nn.Sequential(stages).double()


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.arange(n) % 4


def parameter_gradients(loss, model, x, y) -> torch.Tensor:
    model.zero_grad()
    loss(model, x, y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_two_modes_differ_in_gradient_and_not_in_value(norm):
    model, (x, y) = small_network(), batch()
    modes = [paper(norm=norm.name, gamma=50.0, differentiate_norm=exact) for exact in (False, True)]
    constant, exact = (parameter_gradients(loss, model, x, y) for loss in modes)
    assert_close(modes[0](model, x, y), modes[1](model, x, y))
    assert (constant - exact).norm() > 0.05 * exact.norm()


@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("aggregate", ["min", "sum", "mean"])
def test_finite_differences_agree_with_the_exact_mode(norm, score, aggregate):
    model, (x, y) = small_network(), batch()
    loss = paper(
        norm=norm.name, gamma=50.0, top_k=2, score=score, aggregate=aggregate, differentiate_norm=True
    )
    gradient = parameter_gradients(loss, model, x, y)
    direction = torch.randn_like(gradient)
    start = nn.utils.parameters_to_vector(model.parameters()).detach()

    def value(step: float) -> float:
        nn.utils.vector_to_parameters(start + step * direction, model.parameters())
        return loss(model, x, y).item()

    difference = (value(1e-6) - value(-1e-6)) / 2e-6
    assert difference == pytest.approx((gradient @ direction).item(), rel=1e-5)


@pytest.mark.quick
@losses
def test_no_grad_is_written_before_backward(name):
    """Reading norms through `.backward()` is what breaks the well-known port."""
    model, (x, y) = small_network(), batch()
    LOSSES[name]()(model, x, y)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert x.grad is None
    assert not x.requires_grad


@losses
def test_permuting_the_batch_changes_nothing(name):
    model, (x, y) = small_network(), batch()
    order = torch.randperm(len(x))
    values = []
    for chosen in (torch.arange(len(x)), order):
        torch.manual_seed(1)  # of random starts, which a batch shares
        values.append(LOSSES[name]()(model, x[chosen], y[chosen]))
    assert_close(*values)


def test_hinge_is_zero_beyond_its_margin_and_linear_within():
    scores = nn.Identity()
    y = torch.tensor([0, 0, 0])
    x = torch.tensor([[3.0, 1.0, 0.0], [1.5, 1.0, 0.0], [0.0, 2.0, 0.0]])
    assert_close(LOSSES["hinge"]()(scores, x, y), torch.tensor((0 + 0.5 + 3) / 3))


def test_on_a_linear_model_the_loss_is_the_clipped_distance():
    """With logits and all rivals, d is the true distance."""
    case = linear(4)
    for gamma in (0.1, 0.5, 100.0):
        loss = paper(layers=("input",), gamma=gamma, top_k=None, epsilon=0)(case.model, case.x, case.y)
        assert_close(loss.detach(), -case.distance(L2).clamp(max=gamma).mean())


@pytest.mark.parametrize("gamma", [1.0, 1e4])
def test_the_range_of_a_term_is_kept(gamma):
    """-gamma for what is far enough, gamma (alpha - 1) for what is hopeless."""
    scores = torch.tensor([[1e9, 0.0], [-1e9, 0.0]])
    x = scores.requires_grad_()
    values = [
        large_margin(x * 1.0, torch.tensor([y, y]), [x], gamma=gamma, alpha=4)
        for y in (0, 1)
    ]  # fmt: skip
    assert [v.item() for v in values] == [gamma, gamma]  # the mean of -gamma and 3 gamma
    first = scores[:1].detach().requires_grad_()
    assert large_margin(first * 1.0, torch.tensor([0]), [first], gamma=gamma).item() == -gamma


def test_nothing_cancels_at_a_large_gamma():
    """In float32 (gamma - d) - gamma would leave d a precision of 1e-3."""
    x = torch.tensor([[0.001, 0.0]], requires_grad=True)
    value = large_margin(x * 1.0, torch.tensor([0]), [x], gamma=1e4, epsilon=0)
    assert value.item() == pytest.approx(-0.001 / 2**0.5, rel=1e-6)


@exactness
def test_zero_gradients_leave_everything_finite(exact):
    model = nn.Sequential(OrderedDict(dead=nn.Sequential(nn.Linear(5, 8), nn.ReLU()), scores=nn.Linear(8, 3)))
    with torch.no_grad():
        model.dead[0].bias.fill_(-100)
    for norm in NORMS:
        for score in ("prob", "logit"):
            loss = paper(norm=norm, score=score, differentiate_norm=exact)
            gradient = parameter_gradients(loss, model, torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
            assert gradient.isfinite().all()


@exactness
def test_saturated_probabilities_leave_everything_finite(exact):
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.mul_(1e4)
    x = torch.randn(4, 5)
    loss = paper(layers=("input",), score="prob", differentiate_norm=exact)
    assert parameter_gradients(loss, model, x, model(x).argmax(1)).isfinite().all()


def test_epsilon_is_added_to_the_norm():
    case = linear(2)
    loss = paper(layers=("input",), gamma=100.0, epsilon=0.5)(case.model, case.x, case.y)
    scores, normal = case.model(case.x), (case.model.weight[0] - case.model.weight[1]).norm()
    margin = (scores[:, 0] - scores[:, 1]).abs()
    assert_close(loss, -(margin / (normal + 0.5)).mean())


def test_min_sum_and_mean_relate():
    model, (x, y) = small_network(), batch()
    by = {a: paper(aggregate=a, top_k=3)(model, x, y) for a in ("min", "sum", "mean")}
    assert_close(by["sum"], 3 * by["mean"])
    assert by["min"] > by["mean"], "the nearest boundary costs most"
    alone = [paper(aggregate=a, top_k=1)(model, x, y) for a in ("min", "sum", "mean")]
    assert_close(alone[0], alone[1])
    assert_close(alone[0], alone[2])


def test_layers_are_averaged_each_with_its_gamma_and_weight():
    model, (x, y) = small_network(), batch()
    both = paper(layers=("input", "hidden"), gamma=(0.3, 0.7), layer_weights=(2.0, 5.0))(model, x, y)
    single = [
        paper(layers=(layer,), gamma=gamma, layer_weights=(weight,))(model, x, y)
        for layer, gamma, weight in (("input", 0.3, 2.0), ("hidden", 0.7, 5.0))
    ]
    assert_close(both, (single[0] + single[1]) / 2)


def test_numel_weights_multiply_the_distance_by_the_layers_size():
    model, (x, y) = small_network(), batch()
    weighted = paper(layers=("hidden",), layer_weights="numel", gamma=800.0, epsilon=0)(model, x, y)
    assert_close(weighted, 8 * paper(layers=("hidden",), gamma=100.0, epsilon=0)(model, x, y))


def test_cross_entropy_is_added_with_its_weight():
    model, (x, y) = small_network(), batch()
    mixed = paper(cross_entropy=0.5)(model, x, y)
    assert_close(mixed, paper()(model, x, y) + 0.5 * LOSSES["cross-entropy"]()(model, x, y))


def test_all_layers_are_the_default(network, samples):
    x, y = samples
    named = paper(layers=("input", "hidden1", "hidden2"))
    assert_close(paper()(network, x, y), named(network, x, y))
    assert_close(paper(layers=("input", "hidden"))(network, x, y), named(network, x, y))


def test_the_function_is_the_loss_on_given_activations():
    model, (x, y) = small_network(), batch()
    scores, activations = capture(model, x, ("input", "hidden"))
    assert_close(large_margin(scores, y, activations), paper()(model, x, y))


@pytest.mark.parametrize("top_k", [0, 4, 9])
def test_more_rivals_than_there_are_is_an_error(top_k):
    """The reference accepts k = classes and then counts the label itself."""
    with pytest.raises(MarginkitError, match=f"top_k is {top_k}, but there are 3 rivals"):
        paper(top_k=top_k)(small_network(), *batch())


@pytest.mark.parametrize("options", [{"gamma": (1.0,)}, {"layer_weights": (1.0, 2.0, 3.0)}])
def test_lists_that_do_not_fit_the_layers_are_an_error(options):
    with pytest.raises(MarginkitError, match="for 2 layers"):
        paper(layers=("input", "hidden"), **options)(small_network(), *batch())


def test_compiled_models_in_exact_mode_are_as_the_original():
    plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    x, y, found = torch.rand(2, 5), torch.tensor([0, 1]), []
    for model in (plain, nn.Sequential(torch.compile(plain, backend="aot_eager"))):
        value = paper(layers=("input",), differentiate_norm=True)(model, x, y)
        found.append([value, *torch.autograd.grad(value, [plain[0].weight, plain[2].weight])])
    assert_close(*found)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 3 * 16)
        self.scores = nn.Linear(16, 3)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return self.scores(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)).repeat(1, 2))


def test_operations_without_a_double_backward_are_refused_in_exact_mode():
    model, x, y = Attention(), torch.rand(2, 4, 16), torch.tensor([0, 1])
    exact = paper(layers=("input",), differentiate_norm=True)
    with pytest.raises(MarginkitError, match="second derivative that PyTorch lacks"):
        exact(model, x, y)
    with sdpa_kernel(SDPBackend.MATH):
        exact(model, x, y).backward()
    paper(layers=("input",))(model, x, y).backward()


def test_batch_norm_mixes_samples_in_train_mode_only():
    """The trap the documentation warns of, and that it is gone in eval mode."""
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    x, y = batch()[0], batch()[1] % 3

    def one_by_one() -> float:
        """The loss with each sample's own gradient, in place of the batch sum's."""
        costs = []
        for i, label in enumerate(y):
            scores, (h,) = capture(model, x, ("input",))
            rival = scores[i].index_fill(0, label, -torch.inf).max()
            difference = scores[i, label] - rival
            (gradient,) = torch.autograd.grad(difference, h)
            costs.append(-(difference / gradient[i].norm()).clamp(-300, 100))
        return torch.stack(costs).mean().item()

    loss = paper(layers=("input",), gamma=100.0, epsilon=0)
    model.train()
    assert loss(model, x, y).item() != pytest.approx(one_by_one(), rel=1e-3)
    model.eval()
    assert loss(model, x, y).item() == pytest.approx(one_by_one())

"""Linear bounds: every relaxation encloses its function, every proof holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closed_form import linear_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import (
    GELU,
    GELU_TANH,
    SIGMOID,
    SILU,
    TANH,
    Rectifier,
    Smooth,
    celu,
    softplus,
)
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.kinds import Status
from marginkit.methods.crown import Crown
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.nearest import Nearest
from marginkit.models.architectures import Normalize
from marginkit.norms import L1, L2, LINF, NORMS, Norm
from marginkit.types import Threat

ACTIVATIONS = {
    "relu": Rectifier(),
    "leaky": Rectifier(0.2),
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "gelu": GELU,
    "gelu-tanh": GELU_TANH,
    "silu": SILU,
    "abs": Rectifier(-1.0),
    "steep": Rectifier(-2.5),
    "softplus": softplus(1.0, 20.0),
    "softplus-3": softplus(3.0, 20.0),
    "softplus-jump": softplus(1.0, 2.0),
    "elu": celu(1.0),
    "celu-0.5": celu(0.5),
}
BROKEN = {"softplus": 20, "softplus-3": 20 / 3, "elu": 0, "celu-0.5": 0}
TIGHTNESS = ["ibp", "crown-ibp", "crown"]


def intervals() -> tuple[Tensor, Tensor]:
    """Of all widths, near 0 and far out."""
    ends = torch.tensor(
        [-60.0, -9, -5, -3, -1.7, -1, -0.3, -1e-3, 0, 1e-4, 0.2, 1, 1.5, 2.5, 4, 8, 50]
    ).double()
    low, high = torch.meshgrid(ends, ends, indexing="ij")
    return low[low <= high], high[low <= high]


@pytest.mark.quick
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lines_enclose_the_function_on_a_dense_grid(name, same):
    op, (low, high) = ACTIVATIONS[name], intervals()
    lines = op.lines(low, high, same)
    share = torch.linspace(0, 1, 4001, dtype=torch.float64).unsqueeze(1)
    x = low + share * (high - low)
    value = op(x)
    assert (lines.lower_slope * x + lines.lower_offset <= value + 1e-12).all()
    assert (lines.upper_slope * x + lines.upper_offset >= value - 1e-12).all()
    if same:
        assert_close(lines.lower_slope, lines.upper_slope)
    least, most = op.interval((low, high))
    assert (least <= value.amin(0) + 1e-12).all()
    assert (most >= value.amax(0) - 1e-12).all()


@pytest.mark.parametrize(
    "name", [name for name, op in ACTIVATIONS.items() if isinstance(op, Smooth) and op.jump < 1e-8]
)
def test_curvature_and_slope_are_what_the_lines_assume(name):
    op = ACTIVATIONS[name]
    x = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    slope = op.slope(x)
    broken = BROKEN.get(name, torch.inf)
    whole = (x[1:-1] - broken).abs() > 2e-4
    assert_close(slope[1:-1][whole], ((op(x)[2:] - op(x)[:-2]) / 2e-4)[whole], rtol=0, atol=1e-6)
    bend = (slope[1:] - slope[:-1]) / 1e-4
    assert bend.abs().max() <= op.bend + 1e-6
    least, most = op.slopes
    assert least <= slope.min() <= least + 0.01
    assert 0.99 * most <= slope.max() <= most
    middle = (x[1:] + x[:-1]) / 2
    assert (bend[middle < -op.tail] * op.left >= -1e-9).all()
    assert (bend[middle > op.tail] * op.right >= -1e-9).all()


@pytest.mark.parametrize("name", [name for name, op in ACTIVATIONS.items() if isinstance(op, Smooth)])
def test_lines_are_tight_where_the_interval_is_short(name):
    op = ACTIVATIONS[name]
    low = torch.linspace(-4, 4, 200, dtype=torch.float64)
    lines = op.lines(low, low + 0.2, False)
    for slope, offset in ((lines.lower_slope, lines.lower_offset), (lines.upper_slope, lines.upper_offset)):
        middle = low + 0.1
        assert (
            (slope * middle + offset - op(middle)).abs() <= op.bend * 0.2**2 / 8 * 1.01 + 1e-12 + 2 * op.jump
        ).all()


@pytest.mark.quick
@pytest.mark.parametrize(
    "pool",
    [
        MaxPool((2, 2), (2, 2), (0, 0), (1, 1)),
        MaxPool((3, 3), (2, 1), (1, 1), (1, 1)),
        MaxPool((2, 2), (1, 1), (0, 1), (2, 2)),
    ],
)
def test_max_pooling_is_enclosed(pool):
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(4, 2, 6, 6, generator=generator, dtype=torch.float64)
    high = low + torch.rand(low.shape, generator=generator, dtype=torch.float64) * torch.tensor(
        [0.1, 1, 3, 0]
    ).view(4, 1, 1, 1)
    lines = pool.lines(low, high, False)
    shape = pool(low).shape
    a = torch.randn(4, 5, *shape[1:], generator=generator, dtype=torch.float64)
    back, offset = lines.backward(a)
    corners = torch.rand(300, *low.shape, generator=generator, dtype=torch.float64).round()
    for share in [*corners, *torch.rand(300, *low.shape, generator=generator, dtype=torch.float64)]:
        x = low + share * (high - low)
        bound = (back * x.unsqueeze(1)).flatten(2).sum(2) + offset
        true = (a * pool(x).unsqueeze(1)).flatten(2).sum(2)
        assert (bound <= true + 1e-12).all()
    exact = (back[3] * low[3]).flatten(1).sum(1) + offset[3]
    assert_close(exact, (a[3] * pool(low[3:])).flatten(1).sum(1))


@pytest.mark.parametrize(("features", "share"), [(7, 0.3), (200, 0.02), (200, 0.6)])
@pytest.mark.parametrize("box", [False, True])
def test_a_ball_gives_the_lowest_value_of_a_linear_function(norm, box, features, share):
    """Against the solver's nearest point: at that radius, the hyperplane is just reached."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(20, features, generator=generator, dtype=torch.float64)
    a = torch.randn(20, 1, features, generator=generator, dtype=torch.float64)
    ends = (-x, 1 - x) if box else (None, None)
    fall = share * (a[:, 0].abs() * torch.where(a[:, 0] > 0, x, 1 - x)).sum(1)
    step = norm.reach(a[:, 0], -fall, *ends)
    lowest = Ball(x, norm.length(step), norm, *ends).concretize(a)[:, 0]
    true = (a[:, 0] * x).sum(1) - fall
    assert (lowest <= true + 1e-12).all()
    assert_close(lowest, true, rtol=0, atol=1e-9 if norm is not L2 or not box else 2e-2)
    shared = Ball(x, norm.length(step), norm, *ends).concretize(a[:1])
    own = Ball(x, norm.length(step), norm, *ends).concretize(a[:1].expand(20, -1, -1))
    assert (shared <= own + 1e-9).all()


# Networks ------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def activation(name: str) -> nn.Module:
    return {
        "relu": nn.ReLU(), "leaky": nn.LeakyReLU(0.1), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(),
        "gelu": nn.GELU(), "gelu-tanh": nn.GELU(approximate="tanh"), "silu": nn.SiLU(),
        "abs": nn.LeakyReLU(-1), "steep": nn.LeakyReLU(-2.5), "softplus": nn.Softplus(),
        "softplus-3": nn.Softplus(3), "elu": nn.ELU(),
        "celu-0.5": nn.CELU(0.5), "softplus-jump": nn.Softplus(1, 2),
    }[name]  # fmt: skip


PLANS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "acts": st.tuples(*[st.sampled_from(sorted(ACTIVATIONS.keys() - {"softplus-jump"}))] * 3),
        "flat": st.booleans(),
        "stride": st.integers(1, 2),
        "groups": st.integers(1, 2),
        "kernel": st.sampled_from([2, 3, (3, 2)]),
        "padding": st.integers(0, 1),
        "pool": st.sampled_from(["none", "max", "overlapping max", "average", "adaptive"]),
    }
)


def points_near_and_far(plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of inputs of a network of that plan, .001 to 10 apart."""
    x = torch.randn(200, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64)
    return x, x + torch.randn_like(x) * torch.logspace(-3, 1, 200).view(-1, *[1] * (x.ndim - 1))


def build(plan) -> nn.Sequential:
    """A network of the operations that bounds know, for images 2 x 6 x 6 or signals 2 x 8."""
    torch.manual_seed(plan["seed"])
    act = [activation(name) for name in plan["acts"]]
    if plan["flat"]:
        shape = (2, 8)
        conv = nn.Conv1d(2, 4, 3, plan["stride"], padding=1, groups=plan["groups"])
        pools = {
            "max": nn.MaxPool1d(2), "overlapping max": nn.MaxPool1d(2, 1, 1),
            "average": nn.AvgPool1d(2), "adaptive": nn.AdaptiveAvgPool1d(3),
        }  # fmt: skip
        more, norm = nn.Conv1d(4, 4, 3, padding="same", dilation=2), nn.BatchNorm1d(4)
    else:
        shape = (2, 6, 6)
        conv = nn.Conv2d(2, 4, plan["kernel"], plan["stride"], plan["padding"], groups=plan["groups"])
        pools = {
            "max": nn.MaxPool2d(2), "overlapping max": nn.MaxPool2d(2, 1, 1),
            "average": nn.AvgPool2d(2), "adaptive": nn.AdaptiveAvgPool2d(2),
        }  # fmt: skip
        more, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    normalize = Normalize(shape)
    normalize.mean.fill_(0.4)
    normalize.std.uniform_(0.3, 1)
    residual = Residual(nn.Sequential(more, norm, act[1]))
    pool = pools.get(plan["pool"], nn.Identity())
    stages = [normalize, conv, act[0], residual, pool, nn.Dropout(), nn.Flatten()]
    features = nn.Sequential(*stages).eval()(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*stages, nn.Linear(features, 8), act[2], nn.Linear(8, 4)).eval().double()


@pytest.mark.parametrize("name", sorted(NORMS))
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    plan=PLANS,
    bounds=st.sampled_from(TIGHTNESS),
    box=st.booleans(),
    slopes=st.sampled_from(["adaptive", "same"]),
)
def test_ten_thousand_points_in_the_certified_ball_keep_the_prediction(plan, bounds, name, box, slopes):
    model = build(plan)
    x = torch.rand(2, *((2, 8) if plan["flat"] else (2, 6, 6)), dtype=torch.float64)
    y = model(x).argmax(1)
    threat = Threat(NORMS[name]) if box else Threat(NORMS[name], None, None)
    answer = Crown(bounds=bounds, slopes=slopes)(model, x, y, threat)
    assert (answer.status == Status.OK).all(), answer.note
    assert (answer.lower > 0).all()
    for center, label, radius in zip(x, y, answer.lower, strict=True):
        points = within(center, min(float(radius), 100.0), NORMS[name], 10_000)
        points = points.clamp(0, 1) if box else points
        with torch.no_grad():
            assert (model(points).argmax(1) == label).all()


def within(center: Tensor, radius: float, norm: Norm, count: int) -> Tensor:
    """Half on the sphere, half inside; directions from all over and along single axes."""
    direction = torch.randn(count, *center.shape, dtype=torch.float64)
    direction[::4] = norm.steepest(direction[::4])
    direction[1::4] = L1.steepest(direction[1::4])
    length = norm.length(direction).view(-1, *[1] * center.ndim)
    share = torch.rand(count).double().view_as(length).clamp(min=0.5).mul(2).clamp(max=1)
    return center + radius * share * direction / length


@pytest.mark.parametrize("bounds", TIGHTNESS)
def test_deepfool_never_finds_anything_within_the_certified_radius(network, samples, norm, bounds):
    x, y = samples
    proved = Crown(bounds=bounds)(network, x, y, Threat(norm))
    found = DeepFool()(network, x, y, Threat(norm))
    assert (proved.lower <= found.upper * (1 + 1e-9)).all()
    ok = proved.status == Status.OK
    least = {"ibp": 0.02, "crown-ibp": 0.2, "crown": 0.5}[bounds]
    assert (proved.lower / found.upper)[ok].median() > least


def affine_network(case: str) -> tuple[nn.Module, nn.Linear]:
    """A network that is linear around the samples, and the linear classifier that it equals there."""
    torch.manual_seed(3)
    first, last = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
    with torch.no_grad():
        if case == "residual-linear":
            mixed = nn.Linear(6, 6).double()
            model = nn.Sequential(Residual(mixed), first, last)
            weight = last.weight @ first.weight @ (torch.eye(6) + mixed.weight)
        elif case == "all-active":
            first.bias.fill_(1000.0)
            last.bias.copy_(torch.randn(3) - 1000 * last.weight.sum(1))
            model, weight = nn.Sequential(first, nn.ReLU(), last), last.weight @ first.weight
        else:  # all-dead: what is left is the skip connection
            first.bias.fill_(-1000.0)
            model = nn.Sequential(
                Residual(nn.Sequential(first, nn.ReLU(), nn.Linear(5, 6).double())), nn.Linear(6, 3).double()
            )
            weight = model[1].weight
    linear = nn.Linear(6, 3).double()
    linear.weight = nn.Parameter(weight.detach().clone())
    return model, linear


@pytest.mark.parametrize("slopes", ["adaptive", "same"])
@pytest.mark.parametrize("bounds", TIGHTNESS)
@pytest.mark.parametrize("case", ["residual-linear", "all-active", "all-dead"])
def test_networks_that_are_linear_nearby_have_the_closed_form(case, bounds, slopes, norm):
    if bounds == "ibp" and case != "residual-linear":
        pytest.skip("intervals forget that the layers on either side cancel")
    model, linear = affine_network(case)
    x = torch.rand(9, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    expected = linear_distance(model(x), linear.weight, y, norm)
    found = Crown(bounds=bounds, slopes=slopes)(model, x, y, Threat(norm, None, None))
    assert (found.lower <= expected * (1 + 1e-9)).all()
    assert_close(found.lower, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", ["residual-linear", "all-active", "all-dead"])
def test_a_search_finds_something_a_quarter_beyond_what_is_proved(case, norm):
    """Where bounds lose nothing: a proof that is too short shows itself as one that is too long does."""
    model, _ = affine_network(case)
    x = torch.rand(4, 6, dtype=torch.float64)
    threat = Threat(norm, None, None)
    y = model(x).argmax(1)
    proved, found = Crown()(model, x, y, threat).lower, Nearest("tight")(model, x, y, threat).upper
    assert (found <= 1.25 * proved).all()
    assert (found >= proved).all()


@pytest.mark.quick
def test_a_dead_network_without_a_skip_is_certified_everywhere_in_the_box(norm):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    model[0].bias.data.fill_(-1000.0)
    x = torch.rand(4, 6, dtype=torch.float64)
    found = Crown()(model, x, model(x).argmax(1), Threat(norm))
    assert found.lower.isinf().all()
    assert (found.rival == -1).all()


def test_a_convolution_is_the_dense_layer_it_stands_for(norm):
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    parts = [conv[0], nn.Sequential(nn.Unflatten(1, (3, 3, 3)), conv[2])]
    dense = nn.Sequential(
        *[
            dense_layer(*args)
            for args in zip(
                [nn.Sequential(nn.Unflatten(1, (2, 5, 5)), parts[0]), parts[1]], [50, 27], strict=True
            )
        ]
    )
    model = nn.Sequential(nn.Flatten(), dense[0], nn.ReLU(), dense[1], nn.ReLU(), conv[5])
    x = torch.rand(3, 2, 5, 5, dtype=torch.float64)
    y = conv(x).argmax(1)
    assert_close(conv(x), model(x))
    for bounds in ("crown", "crown-ibp"):
        found = [Crown(bounds=bounds)(m, x, y, Threat(norm)).lower for m in (conv, model)]
        assert_close(found[0], found[1], rtol=2e-3, atol=0)


def dense_layer(layer: nn.Module, inputs: int) -> nn.Linear:
    zero = layer(torch.zeros(1, inputs).double()).flatten()
    found = nn.Linear(inputs, len(zero)).double()
    with torch.no_grad():
        found.weight.copy_((layer(torch.eye(inputs).double()).flatten(1) - zero).T)
        found.bias.copy_(zero)
    return found


def test_the_memory_limit_changes_nothing(norm, network, samples):
    x, y = samples
    threat = Threat(norm, None, None)
    expected = Crown()(network, x[:6], y[:6], threat).lower
    found = Crown(memory=2**10)(network, x[:6], y[:6], threat).lower
    assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_neither_company_nor_order_nor_memory_changes_what_is_proved(name):
    """Of a network whose bounds are loose, so that much depends on the lines that are chosen."""
    torch.manual_seed(6)
    act = activation(name)
    stages = [nn.Conv2d(1, 4, 3, padding=1), act, nn.Conv2d(4, 4, 3, 2), nn.MaxPool2d(2, 1), act]
    model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(4, 8), act, nn.Linear(8, 6)).double()
    x = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    y, threat = model(x).argmax(1), Threat(LINF, None, None)
    together = Crown(precision=2**-6)(model, x, y, threat).lower
    alone = [Crown(precision=2**-6)(model, x[i : i + 1], y[i : i + 1], threat).lower for i in range(3)]
    assert_close(torch.cat(alone), together, rtol=1e-6, atol=0)
    turned = Crown(precision=2**-6, memory=2**10)(model, x.flip(0), y.flip(0), threat).lower
    assert_close(turned.flip(0), together, rtol=1e-6, atol=0)


def test_tighter_bounds_prove_more(network, samples, norm):
    x, y = samples
    loose, middle, tight = (Crown(bounds=bounds)(network, x, y, Threat(norm)).lower for bounds in TIGHTNESS)
    assert (loose <= middle * 1.002).all()
    assert middle.sum() < tight.sum()
    free = Crown()(network, x, y, Threat(norm, None, None)).lower
    assert (free <= tight * 1.1).all(), "bounds tighter at each neuron can be looser together, not by much"
    assert tight.sum() > 1.05 * free.sum()


class Functional(nn.Module):
    """What modules do, written with functions and operators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(12, 3)
        self.register_buffer("mean", torch.full((1, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.nn.functional.relu(self.conv((x - self.mean) / 0.5))
        h = torch.nn.functional.max_pool2d(h, 2) - 0.5 * torch.tanh(torch.nn.functional.avg_pool2d(h, 2))
        h = torch.nn.functional.dropout(h, 0.5, self.training)
        return -self.head(h.view(h.size(0), -1)) + 1


def test_functions_and_operators_are_followed(norm):
    model = Functional().double().eval()
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    assert_close(trace(model, x)(x), model(x))
    y = model(x).argmax(1)
    found = Crown()(model, x, y, Threat(norm))
    assert (found.status == Status.OK).all()
    assert (found.lower <= DeepFool()(model, x, y, Threat(norm)).upper).all()


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Lambda(lambda h: h.softmax(1)), "softmax"),
        (Lambda(lambda h: h * h), "mul"),
        (Lambda(lambda h: 1 / h), "rdiv"),
        (Lambda(lambda h: h - h.mean(0)), "mean"),
        (Lambda(lambda h: h if h.sum() > 0 else -h), "trace"),
        (Lambda(lambda h: h + torch.arange(h.shape[0] * 6).view(-1, 6)), "differs between samples"),
        (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), "LayerNorm"),
        (nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False)), "running statistics"),
    ],
)  # fmt: skip
def test_other_operations_are_unsupported_by_name(model, named, norm):
    x = torch.rand(3, 6)
    y = model.eval()(x).argmax(1)
    found = Crown()(model, x, y, Threat(norm))
    assert (found.status == Status.UNSUPPORTED).all()
    assert not found.lower.any()
    assert found.upper.isinf().all()
    assert named in found.note


def test_the_parallel_bound_is_wong_and_kolters():
    """Against a dense program of the paper's section 3 that shares no code with the library."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 20), nn.ReLU(), nn.Linear(20, 5),
    ).double()  # fmt: skip
    x, unit = torch.rand(4, 1, 12, 12, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    targets = unit[model(x).argmax(1)].unsqueeze(1) - unit
    ball = Ball(x, torch.full((4,), 0.1, dtype=torch.float64), LINF)
    found = Propagation("crown", same=True)(trace(doubled(model), x), ball, targets)
    assert_close(found, dual_bound(model, x, targets, 0.1), rtol=1e-9, atol=1e-9)


def dual_bound(model: nn.Sequential, x: Tensor, targets: Tensor, radius: float) -> Tensor:
    """Wong and Kolter's dual bound (arXiv 1711.00851, section 3), by dense matrices."""
    layers, shapes = [], [(1, 12, 12), (4, 6, 6), (72,), (20,)]
    for layer, shape in zip(
        [model[0], nn.Sequential(model[2], nn.Flatten()), model[5], model[7]], shapes, strict=True
    ):
        zero = layer(torch.zeros(1, *shape).double()).flatten()
        eye = torch.eye(int(np.prod(shape))).double().view(-1, *shape)
        layers.append(((layer(eye).flatten(1) - zero).T, zero))
    answers = []
    for center, wanted in zip(x.flatten(1), targets, strict=True):
        slopes, gaps = [], []

        def bound(c: Tensor, depth: int, center=center, slopes=slopes, gaps=gaps) -> Tensor:
            total = torch.zeros(len(c)).double()
            for level in range(depth, -1, -1):
                weight, bias = layers[level]
                total, c = total + c @ bias, c @ weight
                if level:
                    c = c * slopes[level - 1]
                    total = total + c.clamp(max=0) @ gaps[level - 1]
            return total + c @ center - radius * c.abs().sum(1)

        for level in range(3):
            eye = torch.eye(len(layers[level][1])).double()
            low, high = bound(eye, level), -bound(-eye, level)
            open_ = (low < 0) & (high > 0)
            slopes.append(torch.where(open_, high / (high - low), (low >= 0).double()))
            gaps.append(torch.where(open_, -low, 0))
        answers.append(bound(wanted, 3))
    return torch.stack(answers)


def test_ascent_raises_radii_and_stays_below_what_is_found(network, samples, norm):
    x, y = samples
    threat = Threat(norm)
    climbs = "climbs" if norm.p == 2 else "ascents"
    plain, ascended = (Crown(**{climbs: steps})(network, x, y, threat).lower for steps in (0, 3))
    assert (ascended >= plain * (1 - 2e-3)).all()
    assert ascended.sum() > 1.005 * plain.sum()
    assert (ascended <= Nearest("tight")(network, x, y, threat).upper * (1 + 1e-9)).all()


@pytest.mark.parametrize("last", [nn.ReLU(), nn.LeakyReLU(0.3)], ids=["relu", "leaky"])
def test_a_rectifier_behind_the_scores_costs_no_proof(last):
    """Scores 3 - u and -1 - u / 2 + 3 v are level at 4 / 3.5 in Linf, where both are above 0."""
    linear = nn.Linear(2, 2).double()
    linear.weight.data = torch.tensor([[-1.0, 0.0], [-0.5, 3.0]], dtype=torch.float64)
    linear.bias.data = torch.tensor([3.0, -1.0], dtype=torch.float64)
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    found = Crown(ascents=0)(nn.Sequential(linear, last), x, y, Threat(LINF, None, None)).lower
    assert float(found) == pytest.approx(4 / 3.5, rel=2e-2)


def test_where_all_scores_are_rectified_to_zero_nothing_is_proved():
    class Ramp(nn.Module):
        def forward(self, x):
            return torch.cat([x, x - 3], 1).relu()

    x, y = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([0])
    found = Crown()(Ramp(), x, y, Threat(LINF, None, None))
    assert float(found.lower) == pytest.approx(0.5, rel=1e-2)
    assert float(found.lower) <= 0.5
    assert int(found.rival) == -1
